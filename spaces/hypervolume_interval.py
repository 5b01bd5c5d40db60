"""How sure the hypervolume of a front is, and that of a difference: draws of prompts and of costs.

Prompts are drawn again and each member's mean error is taken over them; its cost is given, or drawn as timings scatter;
and the volume is that of the front that these make. Fronts measured on the same prompts draw the same ones, so that
their difference is paired.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autotune.spaces.errors import UsageError
from autotune.spaces.pareto import COST_REFERENCE, LOG_ERROR_FLOOR, LOG_ERROR_REFERENCE
from autotune.spaces.statistics import N_RESAMPLES, percentile_interval, resampled_means

Array = NDArray[np.float64]


def resampled_hypervolumes(cost: ArrayLike, errors: ArrayLike, *, least: float = 0.0, seed: int = 0) -> Array:
    """The hypervolume (`autotune.spaces.pareto.front_hypervolume`) on resamples of the prompts: (N_RESAMPLES,).

    Args:
        cost: relative cost of each member, (n_members,), or draws of it, (N_RESAMPLES, n_members).
        errors: of each member on each prompt, (n_members, n_prompts).
        least: what a mean error counts as at least (`Measurement.least_error`).
        seed: of the draws.

    Raises:
        UsageError: the shapes do not fit, or there are no prompts.
    """
    x, table = np.asarray(cost, np.float64), np.asarray(errors, np.float64)
    if x.shape[-1] == 0:
        return np.zeros(N_RESAMPLES)
    if table.ndim != 2 or len(table) != x.shape[-1] or table.shape[1] == 0:
        raise UsageError(f"each of {x.shape[-1]} members needs an error per prompt; got the shape {table.shape}")
    return staircase_volumes(x, np.maximum(resampled_means(table, seed=seed), least))


def staircase_volumes(cost: Array, error: Array) -> Array:
    """The fraction of the project's box that each of many sets of points dominates: (n_sets,).

    Args:
        cost: (n_sets, n_points), or (n_points,) if it is the same in all sets.
        error: (n_sets, n_points).
    """
    cost = np.broadcast_to(cost, error.shape)
    order = np.argsort(cost, axis=1, kind="stable")
    cost, error = np.take_along_axis(cost, order, axis=1), np.take_along_axis(error, order, axis=1)
    widths = np.diff(np.clip(cost, 0.0, COST_REFERENCE), axis=1, append=COST_REFERENCE)
    floor = LOG_ERROR_FLOOR
    level = np.clip(np.log10(np.maximum(error, 10.0**floor)), floor, LOG_ERROR_REFERENCE)
    height = LOG_ERROR_REFERENCE - np.minimum.accumulate(level, axis=1)
    return np.asarray((height * widths).sum(axis=1) / (COST_REFERENCE * (LOG_ERROR_REFERENCE - floor)))


def difference_interval(first: Array, second: Array) -> tuple[float, float]:
    """95 % interval of first - second, of resamples that drew the same prompts."""
    return percentile_interval(first - second)
