"""How the outputs of residual branches change over a run: one table over pairs of calls per branch and metric."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError

Metric = Literal["cosine", "l1", "mse", "l2", "wasserstein"]
"""Cosine similarity of the values; or their distance: mean absolute and mean squared difference, Euclidean distance,
and the Wasserstein-1 distance between the distributions of their elements."""

METRICS: tuple[Metric, ...] = get_args(Metric)

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class BranchTables:
    """Tables over pairs of network calls, float64 (n_units, n_calls, n_calls) by metric.

    `units` are names of `CacheUnit`s, in their order. `mean` is over `n_samples` samples (prompts, and guidance
    branches), `spread` the standard deviation over them: a schedule planned on the mean holds for all samples only
    where it is small.
    """

    units: tuple[str, ...]
    mean: Mapping[Metric, Array]
    spread: Mapping[Metric, Array]
    n_samples: int

    def __post_init__(self) -> None:
        for name, tables in (("mean", self.mean), ("spread", self.spread)):
            for metric in METRICS:
                shape = tables[metric].shape if metric in tables else None
                if shape is None or len(shape) != 3 or shape != (len(self.units), shape[1], shape[1]) or not shape[1]:
                    raise ScheduleError(
                        f"branch tables need a {name} of {metric} with shape ({len(self.units)}, n_calls, n_calls); "
                        f"got {shape}; record the branches again"
                    )
                if not np.isfinite(tables[metric]).all():
                    raise ScheduleError(
                        f"branch tables must be finite; the {name} of {metric} is not: the network returns NaN or "
                        "infinite values; choose another dtype"
                    )

    @property
    def n_calls(self) -> int:
        """Network calls of a run."""
        return int(self.mean["cosine"].shape[1])

    @property
    def volatility(self) -> Array:
        """Mean L1 distance over all pairs of calls, by unit (n_units,): BAC's measure of what errors build up in.

        Per element, so that units of different sizes compare (Ji et al. 2026, arXiv 2506.13456).
        """
        return np.asarray(self.mean["l1"].mean(axis=(1, 2)))

    @property
    def dissimilarity(self) -> Array:
        """1 - cosine between each call's output and that of the call before, (n_units, n_calls); 0 in call 0."""
        adjacent = 1.0 - np.diagonal(self.mean["cosine"], offset=1, axis1=1, axis2=2)
        return np.pad(np.maximum(adjacent, 0.0), ((0, 0), (1, 0)))
