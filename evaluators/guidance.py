"""Guidance with one branch: steps that run the conditional branch alone and estimate the other one."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch

from autotune.evaluators.branch_store import first_half, second_half, weighted_sum
from autotune.spaces.guidance_column import (
    GuidanceAction,
    GuidanceRow,
    differences_kept,
    guidance_weights,
    n_differences,
)

NOT_GUIDED = (
    "the columns guidance and unconditional_cache, and a guidance_gain, need classifier-free guidance; this run is not "
    "guided; raise "
    "guidance_scale (true_cfg_scale where the pipeline has it, with a negative prompt), or use a schedule without them"
)

Network = Callable[[tuple[Any, ...], dict[str, Any], bool], Any]
"""Calls the network with these positional and keyword arguments; True if they are the conditional half of a batch."""


class GuidanceRuntime(ABC):
    """Executes one guidance column; see `GuidanceAction`. What branches are is said by the two kinds below.

    The pipeline gets both branches in every step, so its own guidance formula runs unchanged. A difference that is
    missing, since the run began in the middle, makes the step run both branches, counted in `missed`.
    """

    def __init__(self, column: Sequence[GuidanceRow]) -> None:
        self._column = tuple(column)
        self._kept = differences_kept(column)
        self._differences: dict[int, list[tuple[int, torch.Tensor]]] = {}
        self.missed = 0

    def begin(self) -> None:
        """Begin the telemetry of a run."""
        self.missed = 0

    def reset(self) -> None:
        """Forget the stored differences."""
        self._differences.clear()

    @abstractmethod
    def run(
        self, network: Network, args: tuple[Any, ...], kwargs: dict[str, Any], *, row: int, call: int, batch: int
    ) -> Any:
        """What the pipeline gets from the `call`-th call of this row, made of `batch` rows of latents."""

    def _drops(self, row: int, call: int, n_samples: int) -> bool:
        """Whether the row leaves a branch out, and has the differences of so many samples that it needs."""
        if not n_differences(self._column[row]):
            return self._column[row] is not GuidanceAction.BOTH
        stored = self._differences.get(call)
        if not stored or stored[0][1].shape[0] != n_samples:
            self.missed += 1
            return False
        return True

    def _keep(self, row: int, call: int, conditional: torch.Tensor, unconditional: torch.Tensor) -> None:
        """Store the difference of the branches, if a later row reads it."""
        if self._kept[row]:
            self._differences.setdefault(call, []).insert(0, (row, conditional - unconditional))
        self._trim(row, call)

    def _trim(self, row: int, call: int) -> None:
        """Forget the differences that no later row reads."""
        del self._differences.get(call, [])[self._kept[row] :]

    def _unconditional(self, row: int, call: int, conditional: torch.Tensor) -> torch.Tensor:
        """The estimate of the branch that was left out."""
        stored = self._differences.get(call, [])
        weights = guidance_weights(self._column[row], [made for made, _ in stored], row)
        if not weights:
            return conditional
        estimate = conditional - weighted_sum([tensor for _, tensor in stored[: len(weights)]], weights)
        self._trim(row, call)
        return estimate


class BatchedGuidance(GuidanceRuntime):
    """The branches are the halves of one batch, [unconditional; conditional]."""

    def run(
        self, network: Network, args: tuple[Any, ...], kwargs: dict[str, Any], *, row: int, call: int, batch: int
    ) -> Any:
        """The batch of outputs; where the row drops a branch, of the network's on one half and an estimate."""
        if not self._drops(row, call, batch // 2):
            output = network(args, kwargs, False)
            tensor = output_tensor(output)
            self._keep(row, call, second_half(tensor), first_half(tensor))
            return output
        args, kwargs = half_of((args, kwargs), batch, second_half)
        output = network(args, kwargs, True)
        conditional = output_tensor(output)
        return replace_tensor(output, torch.cat([self._unconditional(row, call, conditional), conditional]))


class SeparateGuidance(GuidanceRuntime):
    """The branches are two calls of a step, the conditional one first, as in all pipelines of diffusers."""

    def __init__(self, column: Sequence[GuidanceRow]) -> None:
        super().__init__(column)
        self._conditional: Any = None
        """The first call's output, until the second one."""

    def reset(self) -> None:
        """Forget the stored differences, and the output of the conditional branch."""
        super().reset()
        self._conditional = None

    def run(
        self, network: Network, args: tuple[Any, ...], kwargs: dict[str, Any], *, row: int, call: int, batch: int
    ) -> Any:
        """The output of one branch; of the second one an estimate, where the row drops it."""
        conditional, self._conditional = self._conditional, None
        if call == 1 and conditional is not None and self._drops(row, call, batch):
            tensor = output_tensor(conditional)
            return replace_tensor(conditional, self._unconditional(row, call, tensor))
        output = network(args, kwargs, False)
        if call == 0:
            self._conditional = output
        elif call == 1 and conditional is not None:
            self._keep(row, call, output_tensor(conditional), output_tensor(output))
        return output


def half_of(value: Any, batch: int, half: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """A denoiser argument with every tensor whose first axis is the batch cut to a half of it.

    Lists, tuples and dicts are followed; anything else, and tensors of another length, are passed on.
    """
    if isinstance(value, torch.Tensor):
        return half(value) if value.ndim > 0 and value.shape[0] == batch else value
    if isinstance(value, dict):
        return {key: half_of(item, batch, half) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(half_of(item, batch, half) for item in value)
    return value


def halves_are_equal(x: torch.Tensor) -> bool:
    """Whether a batch is one latent batch given twice, as guidance in one call does."""
    return x.shape[0] % 2 == 0 and torch.equal(first_half(x), second_half(x))


def output_tensor(output: Any) -> torch.Tensor:
    """The prediction in a denoiser's output: a tuple's first item, or the field `sample`."""
    tensor = output[0] if isinstance(output, tuple) else output.sample
    assert isinstance(tensor, torch.Tensor)
    return tensor


def replace_tensor(output: Any, tensor: torch.Tensor) -> Any:
    """The output with another prediction."""
    if isinstance(output, tuple):
        return (tensor, *output[1:])
    return dataclasses.replace(output, sample=tensor)
