"""How sure the hypervolume of a front is, and that of a difference: a bootstrap over prompts.

The members keep their cost; prompts are drawn again, each member's mean error is taken over them, and the volume of
the front that these make. Fronts measured on the same prompts draw the same ones, so that their difference is paired.
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
        cost: relative cost of each member, (n_members,).
        errors: of each member on each prompt, (n_members, n_prompts).
        least: what a mean error counts as at least (`Measurement.least_error`).
        seed: of the draws.

    Raises:
        UsageError: the shapes do not fit, or there are no prompts.
    """
    x, table = np.asarray(cost, np.float64), np.asarray(errors, np.float64)
    if len(x) == 0:
        return np.zeros(N_RESAMPLES)
    if table.ndim != 2 or len(table) != len(x) or table.shape[1] == 0:
        raise UsageError(f"each of {len(x)} members needs an error per prompt; got the shape {table.shape}")
    order = np.argsort(x, kind="stable")
    return staircase_volumes(x[order], np.maximum(resampled_means(table[order], seed=seed), least))


def staircase_volumes(cost: Array, error: Array) -> Array:
    """The fraction of the project's box that each of many sets of points dominates: (n_sets,).

    Args:
        cost: rising, the same in all sets, (n_points,).
        error: (n_sets, n_points).
    """
    edges = np.append(np.clip(cost, 0.0, COST_REFERENCE), COST_REFERENCE)
    floor = LOG_ERROR_FLOOR
    level = np.clip(np.log10(np.maximum(error, 10.0**floor)), floor, LOG_ERROR_REFERENCE)
    height = LOG_ERROR_REFERENCE - np.minimum.accumulate(level, axis=1)
    return np.asarray(height @ np.diff(edges) / (COST_REFERENCE * (LOG_ERROR_REFERENCE - floor)))


def difference_interval(first: Array, second: Array) -> tuple[float, float]:
    """95 % interval of first - second, of resamples that drew the same prompts."""
    return percentile_interval(first - second)
