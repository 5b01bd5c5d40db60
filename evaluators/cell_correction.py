"""Correcting what a cache hands out: one fused multiply-add per tensor, with the factors of the call and site."""

import numpy as np
import torch
from numpy.typing import NDArray

from autotune.evaluators.branch_store import Value, map_tensors
from autotune.spaces.cache_correction import CacheCorrection, ChannelAffine
from autotune.spaces.errors import ScheduleMismatchError


class CellCorrection:
    """Applies a `CacheCorrection`; its factors go to the device of a value when they are first needed there."""

    def __init__(self, correction: CacheCorrection) -> None:
        self._cells = correction.cells
        self._factors: dict[tuple[int, int, int, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}

    def apply(self, call: int, site: int, value: Value) -> Value:
        """The corrected value, of the type that it had; both guidance branches are corrected alike."""
        lines = self._cells.get((call, site))
        if lines is None:
            return value
        parts = iter(enumerate(lines))

        def corrected(tensor: torch.Tensor) -> torch.Tensor:
            k, line = next(parts, (0, None))
            return tensor if line is None else self._line(call, site, k, line, tensor)

        return map_tensors(corrected, value)

    def _line(self, call: int, site: int, k: int, line: ChannelAffine, tensor: torch.Tensor) -> torch.Tensor:
        axis = channel_axis(tensor)
        if tensor.shape[axis] != len(line.scale):
            raise ScheduleMismatchError(
                f"a cache correction fits one model; it has {len(line.scale)} channels where call {call} hands out "
                f"{tensor.shape[axis]}: correct the schedule again for this model"
            )
        key = (call, site, k, tensor.device)
        if key not in self._factors:
            shape = (-1, *(1,) * (tensor.ndim - 1 - axis % tensor.ndim))
            self._factors[key] = (_on(line.scale, shape, tensor), _on(line.shift, shape, tensor))
        scale, shift = self._factors[key]
        return torch.addcmul(shift, tensor, scale).to(tensor.dtype)


def channel_axis(tensor: torch.Tensor) -> int:
    """The axis of the channels: the last one of tokens (n, tokens, channels), axis 1 of images and videos."""
    return 1 if tensor.ndim > 3 else -1


def _on(factors: NDArray[np.float64], shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    dtype = torch.promote_types(like.dtype, torch.float32)  # a factor near 1 has too few digits in 16 bits
    return torch.from_numpy(factors).to(like.device, dtype).reshape(shape)
