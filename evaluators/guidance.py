"""Guidance with one branch: calls that run the conditional half of a batch and estimate the other half."""

import dataclasses
from typing import Any

import torch

from autotune.evaluators.branch_store import first_half, second_half
from autotune.spaces.schedule import GuidanceAction


class GuidanceRuntime:
    """Executes one guidance column on a denoiser whose batch is [unconditional; conditional].

    The pipeline gets a whole batch from every call, so its own guidance formula runs unchanged. With
    `GuidanceAction.STORED` the unconditional half is c - (c_prev - u_prev), the difference of the last call that ran
    both; with `GuidanceAction.CONDITIONAL` it is c. A difference that is missing, since the run began in the middle,
    makes the call run both branches, counted in `missed`.
    """

    def __init__(self, actions: tuple[GuidanceAction, ...]) -> None:
        self._actions = actions
        self._kept = [
            action is GuidanceAction.BOTH and _is_read(actions[row + 1 :]) for row, action in enumerate(actions)
        ]
        self._differences: dict[int, torch.Tensor] = {}
        self.missed = 0

    def begin(self) -> None:
        """Begin the telemetry of a run."""
        self.missed = 0

    def reset(self) -> None:
        """Forget the stored differences."""
        self._differences.clear()

    def drops_branch(self, row: int, call: int, batch: int) -> bool:
        """Whether the `call`-th network call of this row runs the conditional branch alone."""
        action = self._actions[row]
        if action is not GuidanceAction.STORED:
            return action is GuidanceAction.CONDITIONAL
        difference = self._differences.get(call)
        if difference is None or difference.shape[0] * 2 != batch:
            self.missed += 1
            return False
        return True

    def keep(self, row: int, call: int, output: Any) -> None:
        """Store the difference of the branches, if a later row reads it."""
        if self._kept[row] or self._actions[row] is GuidanceAction.STORED:
            tensor = output_tensor(output)
            self._differences[call] = (second_half(tensor) - first_half(tensor)).detach()

    def complete(self, row: int, call: int, output: Any) -> Any:
        """The output of the conditional branch with the estimated unconditional half before it."""
        conditional = output_tensor(output)
        if self._actions[row] is GuidanceAction.STORED:
            return replace_tensor(output, torch.cat([conditional - self._differences[call], conditional]))
        return replace_tensor(output, torch.cat([conditional, conditional]))


def _is_read(later: tuple[GuidanceAction, ...]) -> bool:
    for action in later:
        if action is not GuidanceAction.CONDITIONAL:
            return action is GuidanceAction.STORED
    return False


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
