"""Correcting what a cache hands out: one fused multiply-add per tensor, with the factors of the call and site."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from autotune.evaluators.branch_store import Value, map_tensors
from autotune.spaces.cache_correction import CacheCorrection, ChannelAffine
from autotune.spaces.errors import ScheduleMismatchError

Factors = tuple[torch.Tensor, ...]
"""By part, and the shift at last; they broadcast along the channels."""


class CellCorrection:
    """Applies a `CacheCorrection`; its factors go to the device of a value when they are first needed there."""

    def __init__(self, correction: CacheCorrection) -> None:
        self._correction = correction
        self._factors: dict[tuple[int, int, int, torch.device], Factors] = {}

    def apply(self, call: int, site: int, value: Value) -> Value:
        """The corrected value, of the type that it had; both guidance branches are corrected alike."""
        lines = self._correction.cells.get((call, site))
        if lines is None:
            return value
        parts = iter(enumerate(lines))

        def corrected(tensor: torch.Tensor) -> torch.Tensor:
            k, line = next(parts, (0, None))
            return tensor if line is None else self._sum((call, site, k), weights_of(line), [tensor])

        return map_tensors(corrected, value)

    def mixed(self, call: int, site: int, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """The first of some parts, corrected by all of them, as the history of this call has it."""
        return self._sum((call, site, 0), self._correction.history[call].weights, parts)

    def _sum(
        self, key: tuple[int, int, int], weights: NDArray[np.float64], parts: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        first = parts[0]
        if first.shape[channel_axis(first)] != len(weights):
            raise ScheduleMismatchError(
                f"a cache correction fits one model; it has {len(weights)} channels where call {key[0]} hands out "
                f"{first.shape[channel_axis(first)]}: correct the schedule again for this model"
            )
        place = (*key, first.device)
        if place not in self._factors:
            self._factors[place] = factors_of(weights, first)
        return weighted(self._factors[place], parts)


def channel_axis(tensor: torch.Tensor) -> int:
    """The axis of the channels: the last one of tokens (n, tokens, channels), axis 1 of images and videos."""
    return 1 if tensor.ndim > 3 else -1


def weights_of(line: ChannelAffine) -> NDArray[np.float64]:
    """Factor and shift per channel: (channels, 2)."""
    return np.stack([line.scale, line.shift], axis=1)


def factors_of(weights: NDArray[np.float64], like: torch.Tensor) -> Factors:
    """The columns of weights (channels, k), to multiply tensors like this one with."""
    dtype = torch.promote_types(like.dtype, torch.float32)  # a factor near 1 has too few digits in 16 bits
    shape = (-1, *(1,) * (like.ndim - 1 - channel_axis(like) % like.ndim))
    columns = torch.from_numpy(weights.T.copy()).to(like.device, dtype)
    return tuple(column.reshape(shape) for column in columns)


def weighted(factors: Factors, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of parts times factors, and the shift; of the first part's type."""
    total = factors[-1]
    for factor, part in zip(factors, parts, strict=False):
        total = torch.addcmul(total, part, factor)
    return total.to(parts[0].dtype)
