"""The column `quantization`: every weight and activation of a layer on a uniform grid (CacheQuant, arXiv 2503.01323).

Weights have a grid per output channel, activations one per network call: both affine, x ~ scale (code - zero) with
codes 0 to 2^bits - 1. A layer that reads concatenated tensors has grids of its own for each of them. What is left of
the error is corrected per output channel: (a2, b2) of the paper, which cost nothing, since they are a factor of the
weights' scale and a part of the bias. They are the same in all calls: on the reference models, pairs of their own for
each call won little more, and took as many bytes as the weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError

Array = NDArray[np.float64]

MOST_BITS = 8
"""Codes are kept in bytes."""

_SCALE_BYTES = 4 + 1
"""A float32 scale and a zero point that is a code."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Scales and zero points of one shape; the zero points are whole numbers, so that 0 has a code of its own."""

    scale: Array
    zero: Array

    def __post_init__(self) -> None:
        if self.scale.shape != self.zero.shape:
            raise ScheduleError(f"a grid has one zero point per scale; got {self.zero.shape} for {self.scale.shape}")
        if not (np.isfinite(self.scale).all() and (self.scale > 0.0).all()):
            raise ScheduleError("scales of a quantization must be finite and above 0; fit it again")
        if not (self.zero == np.round(self.zero)).all() or (self.zero.size and self.zero.min() < 0):
            raise ScheduleError("zero points of a quantization must be whole numbers from 0 on; fit it again")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LayerQuantization:
    """One layer's precision.

    `parts` are the numbers of input channels of the tensors that it reads, one after the other. `weight` is of the
    shape (n_parts, output channels), `activation` of (n_calls, n_parts). `gain` and `shift`, both (output
    channels,) or None, correct what the first part gives: gain W x + shift.
    """

    weight_bits: int
    activation_bits: int
    parts: tuple[int, ...]
    weight: Grid
    activation: Grid
    gain: Array | None = None
    shift: Array | None = None

    def __post_init__(self) -> None:
        for name in ("weight_bits", "activation_bits"):
            bits = getattr(self, name)
            if not 2 <= bits <= MOST_BITS:
                raise ScheduleError(f"{name} must be in 2 .. {MOST_BITS}; got {bits}")
        if not self.parts or min(self.parts) < 1:
            raise ScheduleError(f"parts must be numbers of input channels; got {self.parts}")
        for name, axis in (("weight", 0), ("activation", 1)):
            shape, bits = getattr(self, name).scale.shape, getattr(self, f"{name}_bits")
            if len(shape) != 2 or shape[axis] != len(self.parts):
                raise ScheduleError(f"{name} must have a grid for each of {len(self.parts)} parts; got {shape}")
            if getattr(self, name).zero.max() >= 2**bits:
                raise ScheduleError(f"zero points of {name} must be codes of {bits} bits; got a larger one")
        shape = self.weight.scale.shape[1:]
        for name in ("gain", "shift"):
            table = getattr(self, name)
            if (table is None) != (self.gain is None) or (table is not None and table.shape != shape):
                raise ScheduleError(f"gain and shift go together, both of the shape {shape}; fit them again")
            if table is not None and not np.isfinite(table).all():
                raise ScheduleError(f"{name} of a quantization must be finite; fit it again")

    @property
    def n_calls(self) -> int:
        """Network calls of a run."""
        return len(self.activation.scale)

    def weight_bytes(self, n_weights: int) -> int:
        """Bytes of so many weights in codes, packed, with their grids."""
        return -(-n_weights * self.weight_bits // 8) + self.weight.scale.size * _SCALE_BYTES


@dataclass(frozen=True, slots=True, eq=False)
class Quantization:
    """The precision of a network's layers, by module path; a layer that is not named stays as it is."""

    layers: Mapping[str, LayerQuantization]

    def __post_init__(self) -> None:
        n_calls = {layer.n_calls for layer in self.layers.values()}
        if len(n_calls) > 1:
            raise ScheduleError(f"all layers of a quantization must have the same calls; got {sorted(n_calls)}")
