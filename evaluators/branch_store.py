"""Stored values of cached sites, with the two guidance branches kept apart where they have different ages."""

from collections.abc import Callable, Hashable
from typing import Any

import torch

Value = Any
"""What a module returns: a tensor, or nested tuples of tensors, batch first."""


class BranchStore:
    """Values by key; a value covers the whole batch, or its two halves, unconditional then conditional.

    A write of the conditional half leaves the unconditional half as it is, at its own age. `n_bytes` is what the
    tensors take now, `peak_bytes` the most since the last `reset_peak`.
    """

    def __init__(self) -> None:
        self._whole: dict[Hashable, Value] = {}
        self._halves: dict[Hashable, tuple[Value | None, Value]] = {}
        self.n_bytes = 0
        self.peak_bytes = 0

    def write(self, key: Hashable, value: Value, *, half: bool) -> None:
        """Store a value of the whole batch, or with `half` of the conditional branch alone."""
        value = map_tensors(torch.Tensor.detach, value)
        if half:
            if key in self._whole:
                # A copy, since a view would keep the old conditional half in memory too.
                unconditional = map_tensors(lambda x: first_half(x).clone(), self._whole[key])
            else:
                unconditional = self._halves.get(key, (None, None))[0]
            self.drop(key)
            self._halves[key] = (unconditional, value)
            self.n_bytes += _n_bytes((unconditional, value))
        else:
            self.drop(key)
            self._whole[key] = value
            self.n_bytes += _n_bytes(value)
        self.peak_bytes = max(self.peak_bytes, self.n_bytes)

    def holds(self, key: Hashable, *, half: bool) -> bool:
        """Whether `read` would find a value."""
        if key in self._whole:
            return True
        return key in self._halves and (half or self._halves[key][0] is not None)

    def read(self, key: Hashable, *, half: bool) -> Value:
        """The stored value of the whole batch, or with `half` of the conditional branch.

        Raises:
            KeyError: nothing is stored that covers what was asked for.
        """
        if key in self._whole:
            return map_tensors(second_half, self._whole[key]) if half else self._whole[key]
        unconditional, conditional = self._halves[key]
        if half:
            return conditional
        if unconditional is None:
            raise KeyError(key)
        return _join(unconditional, conditional)

    def drop(self, key: Hashable) -> None:
        """Forget a value, if there is one."""
        if key in self._whole:
            self.n_bytes -= _n_bytes(self._whole.pop(key))
        elif key in self._halves:
            self.n_bytes -= _n_bytes(self._halves.pop(key))

    def clear(self) -> None:
        """Forget all values."""
        self._whole.clear()
        self._halves.clear()
        self.n_bytes = 0

    def reset_peak(self) -> None:
        """Begin a new `peak_bytes`."""
        self.peak_bytes = self.n_bytes


def first_half(x: torch.Tensor) -> torch.Tensor:
    """The unconditional half of a batch, a view."""
    return x[: x.shape[0] // 2]


def second_half(x: torch.Tensor) -> torch.Tensor:
    """The conditional half of a batch, a view."""
    return x[x.shape[0] // 2 :]


def map_tensors(change: Callable[[torch.Tensor], torch.Tensor], value: Value) -> Value:
    """The value with each tensor changed; anything else inside is kept."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)(map_tensors(change, item) for item in value)
    return value


def _join(unconditional: Value, conditional: Value) -> Value:
    if isinstance(conditional, torch.Tensor):
        return torch.cat([unconditional, conditional])
    if isinstance(conditional, tuple | list):
        return type(conditional)(_join(u, c) for u, c in zip(unconditional, conditional, strict=True))
    return conditional


def _n_bytes(value: Value) -> int:
    if isinstance(value, torch.Tensor):
        return value.nbytes
    return sum(_n_bytes(item) for item in value) if isinstance(value, tuple | list) else 0
