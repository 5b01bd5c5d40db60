"""Guidance with one branch: calls that run the conditional half of a batch and estimate the other half."""

import dataclasses
from collections.abc import Sequence
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


class GuidanceRuntime:
    """Executes one guidance column on a denoiser whose batch is [unconditional; conditional].

    The pipeline gets a whole batch from every call, so its own guidance formula runs unchanged; see `GuidanceAction`. A
    difference that is missing, since the run began in the middle, makes the call run both branches, counted in
    `missed`.
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

    def drops_branch(self, row: int, call: int, batch: int) -> bool:
        """Whether the `call`-th network call of this row runs the conditional branch alone."""
        if not n_differences(self._column[row]):
            return self._column[row] is not GuidanceAction.BOTH
        stored = self._differences.get(call)
        if not stored or stored[0][1].shape[0] * 2 != batch:
            self.missed += 1
            return False
        return True

    def keep(self, row: int, call: int, output: Any) -> None:
        """Store the difference of the branches, if a later row reads it."""
        if self._kept[row]:
            tensor = output_tensor(output)
            stored = self._differences.setdefault(call, [])
            stored.insert(0, (row, second_half(tensor) - first_half(tensor)))
            del stored[self._kept[row] :]

    def complete(self, row: int, call: int, output: Any) -> Any:
        """The output of the conditional branch with the estimated unconditional half before it."""
        conditional = output_tensor(output)
        stored = self._differences.get(call, [])
        weights = guidance_weights(self._column[row], [made for made, _ in stored], row)
        if not weights:
            return replace_tensor(output, torch.cat([conditional, conditional]))
        difference = weighted_sum([tensor for _, tensor in stored[: len(weights)]], weights)
        return replace_tensor(output, torch.cat([conditional - difference, conditional]))


def conditional_half(value: Any, batch: int) -> Any:
    """A denoiser argument with every tensor whose first axis is the batch cut to its second half.

    Lists, tuples and dicts are followed; anything else, and tensors of another length, are passed on.
    """
    if isinstance(value, torch.Tensor):
        return second_half(value) if value.ndim > 0 and value.shape[0] == batch else value
    if isinstance(value, dict):
        return {key: conditional_half(item, batch) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(conditional_half(item, batch) for item in value)
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
