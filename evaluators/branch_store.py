"""Stored values of cached sites, with the two guidance branches kept apart where they have different ages."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Value = Any
"""What a module returns: a tensor, or nested tuples of tensors, batch first."""

Weights = Callable[[tuple[int, ...]], Sequence[float]]
"""Rows in which values were computed, newest first -> the weights of the newest ones in a forecast."""


@dataclass(slots=True)
class _Entry:
    """What one row computed: the whole batch, or what is left of its halves."""

    row: int
    whole: Value | None = None
    unconditional: Value | None = None
    conditional: Value | None = None

    @property
    def has_unconditional(self) -> bool:
        return self.whole is not None or self.unconditional is not None

    @property
    def has_conditional(self) -> bool:
        return self.whole is not None or self.conditional is not None

    def half(self, *, conditional: bool) -> Value:
        if self.whole is not None:
            return map_tensors(second_half if conditional else first_half, self.whole)
        return self.conditional if conditional else self.unconditional

    def cut(self, *, conditional: bool) -> None:
        """Keep one half alone; a copy, since a view would keep the other one in memory too."""
        if self.whole is not None:
            kept = map_tensors(torch.clone, self.half(conditional=conditional))
            self.whole, self.conditional, self.unconditional = None, None, None
            if conditional:
                self.conditional = kept
            else:
                self.unconditional = kept

    @property
    def n_bytes(self) -> int:
        return sum(value_bytes(part) for part in (self.whole, self.unconditional, self.conditional))


class BranchStore:
    """The last values of each key, newest first; one covers the whole batch, or its conditional half.

    A write of the conditional half leaves the unconditional values as they are, at their own ages. `n_bytes` is what
    the tensors take now, `peak_bytes` the most since the last `reset_peak`: a part of a larger tensor is stored as a
    copy, since a view would keep the whole of it in memory.
    """

    def __init__(self) -> None:
        self._entries: dict[Hashable, list[_Entry]] = {}
        self.n_bytes = 0
        self.peak_bytes = 0

    def write(self, key: Hashable, row: int, value: Value, *, half: bool, keep: tuple[int, int]) -> None:
        """Store a value of the whole batch, or with `half` of the conditional branch alone, and `trim`."""
        value = _compact(value)
        entry = _Entry(row, conditional=value) if half else _Entry(row, whole=value)
        self._entries.setdefault(key, []).insert(0, entry)
        self.n_bytes += entry.n_bytes
        self.trim(key, keep)
        self.peak_bytes = max(self.peak_bytes, self.n_bytes)

    def holds(self, key: Hashable, *, half: bool) -> bool:
        """Whether `read` would find a value."""
        entries = self._entries.get(key, ())
        return any(e.has_conditional for e in entries) and (half or any(e.has_unconditional for e in entries))

    def read(self, key: Hashable, weights: Weights, *, half: bool) -> Value:
        """The weighted sum of the stored values of the whole batch, or with `half` of the conditional branch.

        A single value of weight 1 is handed out itself, not a copy.

        Raises:
            KeyError: nothing is stored that covers what was asked for.
        """
        entries = self._entries[key]
        if not half and all(entry.whole is not None for entry in entries):
            return _combined([(e.row, e.whole) for e in entries], weights)
        conditional = [(e.row, e.half(conditional=True)) for e in entries if e.has_conditional]
        unconditional = [(e.row, e.half(conditional=False)) for e in entries if e.has_unconditional]
        if not conditional or not (half or unconditional):
            raise KeyError(key)
        if half:
            return _combined(conditional, weights)
        return _join(_combined(unconditional, weights), _combined(conditional, weights))

    def newest(self, key: Hashable) -> list[Value]:
        """The stored values that cover the whole batch, newest first, as they are."""
        return [entry.whole for entry in self._entries.get(key, ()) if entry.whole is not None]

    def trim(self, key: Hashable, keep: tuple[int, int]) -> None:
        """Forget all but the newest values: so many of the conditional half, so many of the unconditional one."""
        entries = self._entries.get(key, [])
        left = []
        n_conditional, n_unconditional = keep
        for entry in entries:
            keeps_conditional = entry.has_conditional and n_conditional > 0
            keeps_unconditional = entry.has_unconditional and n_unconditional > 0
            n_conditional -= entry.has_conditional
            n_unconditional -= entry.has_unconditional
            before = entry.n_bytes
            if keeps_conditional and keeps_unconditional:
                left.append(entry)
                continue
            if keeps_conditional or keeps_unconditional:
                entry.cut(conditional=keeps_conditional)
                left.append(entry)
                before -= entry.n_bytes
            self.n_bytes -= before
        if left:
            self._entries[key] = left
        else:
            self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget all values."""
        self._entries.clear()
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


def weighted_sum(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """The sum in the tensors' own type, made in float32 where that is narrower."""
    narrow = tensors[0].dtype in (torch.float16, torch.bfloat16)
    total = (tensors[0].float() if narrow else tensors[0]) * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total.add_(tensor, alpha=weight)
    return total.to(tensors[0].dtype)


def _combined(stored: Sequence[tuple[int, Value]], weights: Weights) -> Value:
    factors = weights(tuple(row for row, _ in stored))
    values = [value for _, value in stored[: len(factors)]]
    return values[0] if len(factors) == 1 and factors[0] == 1.0 else _sum_of(values, factors)


def _sum_of(values: Sequence[Value], weights: Sequence[float]) -> Value:
    first = values[0]
    if isinstance(first, torch.Tensor):
        return weighted_sum(values, weights)
    if isinstance(first, tuple | list):
        return type(first)(_sum_of(items, weights) for items in zip(*values, strict=True))
    return first


def _join(unconditional: Value, conditional: Value) -> Value:
    if isinstance(conditional, torch.Tensor):
        return torch.cat([unconditional, conditional])
    if isinstance(conditional, tuple | list):
        return type(conditional)(_join(u, c) for u, c in zip(unconditional, conditional, strict=True))
    return conditional


def _compact(value: Value) -> Value:
    """The value, with copies of the tensors whose memory holds more than the value."""
    used: dict[int, int] = {}
    for tensor in tensors_of(value):
        used[tensor.untyped_storage()._cdata] = used.get(tensor.untyped_storage()._cdata, 0) + tensor.nbytes

    def alone(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        return tensor if storage.nbytes() <= used[storage._cdata] else tensor.clone()

    return map_tensors(alone, value)


def tensors_of(value: Value) -> Iterator[torch.Tensor]:
    """All tensors inside a value."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_of(item)


def value_bytes(value: Value) -> int:
    """Bytes of all tensors in a value."""
    return sum(tensor.nbytes for tensor in tensors_of(value))
