"""History correction, which is ours: an output mended by itself, the latents, and what the last refreshes had.

Where a cache makes a call cheaper, the output y of the full network is estimated per channel as a weighted sum of the
output that came instead, of the latents that went in, of outputs and latents of the last refreshes, and of 1. With the
first and the last part alone it would be a line, CacheQuant's correction (`autotune.spaces.cache_correction`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError

Array = NDArray[np.float64]

N_REFRESHES = 2
"""Refreshes whose outputs and latents are looked at."""

RIDGE = 1e-6
"""What a change of a weight costs, as a share of its part's mean square: parts are nearly alike."""


@dataclass(frozen=True, slots=True, eq=False)
class ChannelMix:
    """Weights (channels, 3 + 2 n_refreshes): of the output, the latents, output and latents of refreshes, and of 1.

    Refreshes stand newest first.
    """

    weights: Array

    def __post_init__(self) -> None:
        shape = self.weights.shape
        if len(shape) != 2 or shape[1] not in [3 + 2 * n for n in range(1, N_REFRESHES + 1)]:
            raise ScheduleError(
                f"a history correction needs weights of its own output, of 1 to {N_REFRESHES} refreshes and of 1 for "
                f"each channel; got an array {shape}; fit it again"
            )
        if not np.isfinite(self.weights).all():
            raise ScheduleError("weights of a history correction must be finite; fit it again")

    @property
    def n_refreshes(self) -> int:
        """How many refreshes it looks back to."""
        return (int(self.weights.shape[1]) - 3) // 2


@dataclass(frozen=True, slots=True, eq=False)
class MixMoments:
    """What parts and true values sum up to, per channel: all that least squares need.

    `gram` (channels, k, k) of the parts, 1 being the last; `cross` (channels, k) of the parts with y - first part;
    `square` (channels,) of that difference; `count` values per channel.
    """

    count: float
    gram: Array
    cross: Array
    square: Array

    def __add__(self, other: "MixMoments") -> "MixMoments":
        return MixMoments(
            self.count + other.count, self.gram + other.gram, self.cross + other.cross, self.square + other.square
        )

    def error(self, mix: ChannelMix | None = None) -> float:
        """Mean square of y - mix, summed over channels; by default of y - first part."""
        change = np.zeros_like(self.cross) if mix is None else mix.weights - _first(self.cross)
        square = (
            self.square - 2.0 * (change * self.cross).sum(-1) + np.einsum("ck,ckl,cl->c", change, self.gram, change)
        )
        return float(square.sum() / self.count)

    def fit(self) -> ChannelMix:
        """The weights of least squares, with a small price on how far they are from those that change nothing."""
        size = np.diagonal(self.gram, axis1=1, axis2=2)
        price = RIDGE * size + (size == 0.0)  # a part that is zero gets no weight
        gram = self.gram + price[:, :, None] * np.eye(size.shape[1])
        return ChannelMix(_first(self.cross) + np.linalg.solve(gram, self.cross[..., None])[..., 0])


def _first(like: Array) -> Array:
    weights = np.zeros_like(like)
    weights[:, 0] = 1.0
    return weights
