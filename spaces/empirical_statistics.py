"""The statistics of a model that DPM-Solver-v3 is built on, as functions of the noise level."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class EmpiricalStatistics:
    """l, s and b per noise level and latent element (Zheng et al. 2023, arXiv 2310.13268).

    With f = (sigma eps - l x) / alpha, `l` takes out of the noise prediction what is linear in x, and df / d lambda is
    about s f + b along a trajectory. `lam` (m,) is the grid, strictly increasing; the others have shape (m, *element)
    in the layout that the scheduler sees (FLUX: packed). Between the grid they are linear in lambda, outside constant.
    l = 1, s = b = 0 is DPM-Solver++, l = 0, s = -1, b = 0 DPM-Solver.

    Raises:
        ScheduleError: the grid does not increase, shapes disagree or a number is not finite.
    """

    lam: Array
    l: Array  # noqa: E741  (the paper's name)
    s: Array
    b: Array

    def __post_init__(self) -> None:
        for name in ("lam", "l", "s", "b"):
            values = np.array(getattr(self, name), np.float64)
            if not np.all(np.isfinite(values)):
                raise ScheduleError(f"{name} of the statistics must be finite; fit them again with more samples")
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        if self.lam.ndim != 1 or len(self.lam) < 2 or np.any(np.diff(self.lam) <= 0):
            raise ScheduleError(
                f"lam of the statistics must be at least two strictly increasing levels; got {self.lam.tolist()[:4]}.. "
                f"of shape {self.lam.shape}; fit the statistics again"
            )
        for name in ("s", "b"):
            if getattr(self, name).shape != self.l.shape or len(self.l) != len(self.lam):
                raise ScheduleError(
                    f"{name} of the statistics must have the shape of l and a row per level; got "
                    f"{getattr(self, name).shape} beside l {self.l.shape} and {len(self.lam)} levels"
                )

    @property
    def element_shape(self) -> tuple[int, ...]:
        """Shape of one latent."""
        return self.l.shape[1:]

    def at(self, lam: Array) -> tuple[Array, Array, Array]:
        """(l, s, b) at levels (k,), each (k, *element)."""
        at = np.clip(lam, self.lam[0], self.lam[-1])
        right = np.clip(np.searchsorted(self.lam, at, side="right"), 1, len(self.lam) - 1)
        share = (at - self.lam[right - 1]) / (self.lam[right] - self.lam[right - 1])
        share = share.reshape(-1, *(1,) * len(self.element_shape))
        l, s, b = ((1.0 - share) * v[right - 1] + share * v[right] for v in (self.l, self.s, self.b))  # noqa: E741
        return l, s, b
