"""Decoupled error correction of CacheQuant, its caching part: factors and shifts of values that a cache hands out.

Liu et al. 2025, arXiv 2503.01323: where a value X_c stands in for the X_g that the network would compute, each channel
is replaced by a X_c + b, the least-squares fit of X_g. X may also be the output of the whole network in a call that
reuses something inside: there errors of many sites, which cancel in part, have been summed up.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.channel_mix import ChannelMix
from autotune.spaces.errors import ScheduleError

Array = NDArray[np.float64]

OUTPUT = -1
"""Stands for the network's output in place of a site."""

_FLAT = 1e-12
"""A channel whose variance is below this share of its mean square is constant: only its shift is fitted."""


@dataclass(frozen=True, slots=True, eq=False)
class ChannelAffine:
    """x -> scale x + shift, per channel; two arrays (channels,)."""

    scale: Array
    shift: Array

    def __post_init__(self) -> None:
        if self.scale.ndim != 1 or self.scale.shape != self.shift.shape:
            raise ScheduleError(
                f"scale and shift must be two lists of one number per channel; got {self.scale.shape} and "
                f"{self.shift.shape}"
            )
        if not (np.isfinite(self.scale).all() and np.isfinite(self.shift).all()):
            raise ScheduleError("scales and shifts of a correction must be finite; fit it again")


@dataclass(frozen=True, slots=True, eq=False)
class PairMoments:
    """What pairs (x, y) sum up to, per channel: counts and five sums, all that a least-squares line needs."""

    count: float
    x: Array
    y: Array
    xx: Array
    xy: Array
    yy: Array

    @classmethod
    def of(cls, x: Array, y: Array) -> "PairMoments":
        """The sums over pairs (n, channels)."""
        return cls(float(len(x)), x.sum(0), y.sum(0), (x * x).sum(0), (x * y).sum(0), (y * y).sum(0))

    def __add__(self, other: "PairMoments") -> "PairMoments":
        return PairMoments(
            self.count + other.count,
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.xy + other.xy,
            self.yy + other.yy,
        )

    def error(self, line: ChannelAffine | None = None) -> float:
        """Mean square of y - (scale x + shift), summed over channels; by default of y - x."""
        a, b = (1.0, 0.0) if line is None else (line.scale, line.shift)
        square = self.yy - 2.0 * a * self.xy - 2.0 * b * self.y + a * a * self.xx + 2.0 * a * b * self.x
        return float(np.sum(square / self.count + b * b))

    def fit(self) -> ChannelAffine:
        """The line of least squares: a = Cov(x, y) / Var(x), b = mean(y) - a mean(x), one divisor for all moments.

        A channel that is constant in x keeps its factor of 1.
        """
        n = self.count
        mean_x, mean_y = self.x / n, self.y / n
        variance, covariance = self.xx / n - mean_x**2, self.xy / n - mean_x * mean_y
        varies = variance > _FLAT * (self.xx / n)
        scale = np.where(varies, covariance / np.where(varies, variance, 1.0), 1.0)
        return ChannelAffine(scale, mean_y - scale * mean_x)


@dataclass(frozen=True, slots=True, eq=False)
class CacheCorrection:
    """Corrections of what a cache plan hands out: by network call and site, one line per tensor of the value.

    A site is a column of the plan, or `OUTPUT`. None stands for a tensor that is left as it is. `history` is by network
    call, of the output too, which is then no line: see `ChannelMix`.
    """

    cells: Mapping[tuple[int, int], tuple[ChannelAffine | None, ...]]
    history: Mapping[int, ChannelMix] = field(default_factory=dict)
