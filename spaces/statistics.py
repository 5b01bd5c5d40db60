"""Intervals: of qualities by bootstrap over prompts; of timings, which are few, by Student's t of their logarithms."""

import functools
import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autotune.spaces.errors import UsageError

Array = NDArray[np.float64]

N_RESAMPLES = 4000


def bootstrap_interval(
    values: Sequence[float],
    *,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of the mean of `values`, one value per prompt (Efron 1979).

    A single value, or equal ones, give an interval of no width. Paired differences go in as they are.

    Raises:
        UsageError: no values, a value that is not finite, or a level outside (0, 1).
    """
    data = _checked(values, level)
    if (data == data[0]).all():
        return float(data[0]), float(data[0])
    return percentile_interval(data[_resampled(len(data), seed)].mean(axis=1), level)


def timing_interval(values: Sequence[float], *, level: float = 0.95) -> tuple[float, float]:
    """Interval (low, high) of the median of repeated timings, or of ratios of timings, that are positive.

    Student's t interval of the mean logarithm, around the median's. Runs are too few for a bootstrap: of three, that of
    the median reaches from the least to the largest, which holds the truth in 75 % of cases.

    Raises:
        UsageError: no values, one that is not finite or not positive, or a bad level.
    """
    return percentile_interval(_timing_draws(_checked(values, level), seed=0), level)


def ratio_interval(
    numerator: Sequence[float], denominator: Sequence[float], *, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Interval (low, high) of the ratio of timings.

    It is that of `autotune.spaces.evaluation.median_ratio`: of equally many runs, `timing_interval` of the ratios of
    run i to run i, as they were interleaved and share the machine's drift; of unequally many, the bootstrap interval of
    the ratio of the medians, with each side drawn by itself.

    Raises:
        UsageError: an empty side, a value that is not finite, a denominator that is not positive, or a bad level.
    """
    return percentile_interval(
        ratio_draws(_checked(numerator, level).tolist(), _checked(denominator, level).tolist(), seed), level
    )


def ratio_draws(numerator: Sequence[float], denominator: Sequence[float], seed: int) -> Array:
    """Draws (`N_RESAMPLES`,) of the ratio whose interval `ratio_interval` gives.

    Raises:
        UsageError: a denominator is not positive.
    """
    top, bottom = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    if (bottom <= 0).any():
        raise UsageError(f"the denominator of a ratio must be positive; got {bottom.min()}")
    if len(top) == len(bottom):
        return _timing_draws(top / bottom, seed)
    rows, other_rows = _resampled(len(top), seed), _resampled(len(bottom), seed + 1)
    return np.asarray(np.median(top[rows], axis=1) / np.median(bottom[other_rows], axis=1))


def _timing_draws(values: Array, seed: int) -> Array:
    """Draws (`N_RESAMPLES`,) of the median: its logarithm plus t's quantiles, shuffled, times the standard error."""
    if (values <= 0).any():
        raise UsageError(f"timings must be positive; got {values.min()}")
    logs, n = np.log(values), len(values)
    if n == 1:
        return np.full(N_RESAMPLES, values[0])
    drawn = np.random.default_rng(seed).permutation(_student_quantiles(n - 1))
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(np.median(logs) + logs.std(ddof=1) / math.sqrt(n) * drawn))


def pooled_timing_draws(runs: Sequence[Sequence[float]]) -> Array:
    """Draws (`N_RESAMPLES`, n_rows) of the median of each row of repeated timings, or of ratios of timings.

    As in `timing_interval`, but with the standard deviation of logarithms that all rows have in common: it is the
    machine's, and three runs alone tell little of it, which in a volume over many rows would pass for a gain. Rows are
    drawn apart; equal rows get equal draws, so that what two fronts share does not tell them apart. A single run is
    taken as it is.

    Raises:
        UsageError: a row is empty, or a value is not finite or not positive.
    """
    rows = [_checked(row, 0.95) for row in runs]
    if any((row <= 0).any() for row in rows):
        raise UsageError(f"timings must be positive; got {min(row.min() for row in rows)}")
    logs = [np.log(row) for row in rows]
    freedom = sum(len(row) - 1 for row in logs)
    draws = np.tile([np.median(row) for row in logs], (N_RESAMPLES, 1))
    if freedom > 0:
        deviation = math.sqrt(sum(len(row) * row.var() for row in logs) / freedom)
        for i, row in enumerate(logs):
            if len(row) > 1:
                drawn = np.random.default_rng(row.view(np.uint64)).permutation(_student_quantiles(freedom))
                draws[:, i] += deviation / math.sqrt(len(row)) * drawn
    return np.asarray(np.exp(draws))


@functools.lru_cache(maxsize=8)
def _student_quantiles(freedom: int) -> Array:
    """`N_RESAMPLES` quantiles of Student's t at even distances, in order, of draws enough to know them to .5 %."""
    drawn = np.random.default_rng(0).standard_t(freedom, 250 * N_RESAMPLES)
    quantiles = np.quantile(drawn, (np.arange(N_RESAMPLES) + 0.5) / N_RESAMPLES)
    quantiles = 0.5 * (quantiles - quantiles[::-1])
    quantiles.flags.writeable = False
    return np.asarray(quantiles)


def mean_draws(values: Sequence[float], seed: int) -> Array:
    """Bootstrap draws (`N_RESAMPLES`,) of the mean over prompts.

    Of equally many prompts, the same seed draws the same ones, so that draws of two schedules differ as pairs do.
    """
    return resampled_means([values], seed=seed)[:, 0]


def share_interval(values: Sequence[float], *, level: float = 0.95) -> tuple[float, float]:
    """Interval (low, high) in [0, 1] of the mean of values that are 1 or 0, one per episode.

    Wilson's score interval (Wilson 1927, JASA 22(158)): it has a width where all values are equal, where a bootstrap
    would claim to be certain. For values in between it is too wide.

    Raises:
        UsageError: no values, one outside [0, 1], or a level outside (0, 1).
    """
    data = _checked(values, level)
    if (data < 0.0).any() or (data > 1.0).any():
        raise UsageError(f"a share is of values from 0 to 1; got {values!r}")
    n, share = len(data), float(data.mean())
    z2 = NormalDist().inv_cdf(0.5 + level / 2.0) ** 2
    centre = (share + z2 / (2.0 * n)) / (1.0 + z2 / n)
    half = math.sqrt(z2 * (share * (1.0 - share) / n + z2 / (4.0 * n**2))) / (1.0 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_ratio_interval(
    numerator: Sequence[float],
    denominator: Sequence[float],
    *,
    least: float = 0.0,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of mean(numerator) / mean(denominator), paired by prompt.

    Means below `least` count as that (`Measurement.least_error`).

    Raises:
        UsageError: an empty side, sides of different length, a value that is not finite, a mean of the denominator
            that is not positive, or a bad level.
    """
    top, bottom = _checked(numerator, level), _checked(denominator, level)
    if len(top) != len(bottom):
        raise UsageError(f"paired values must be equally many; got {len(top)} and {len(bottom)}")
    means = np.maximum(mean_draws(bottom.tolist(), seed), least)
    if (means <= 0).any():
        raise UsageError(f"the denominator of a ratio must be positive; got a mean of {means.min()}")
    return percentile_interval(np.maximum(mean_draws(top.tolist(), seed), least) / means, level)


def resampled_means(table: ArrayLike, *, seed: int = 0) -> Array:
    """Mean of each row on resamples of the columns: (N_RESAMPLES, n_rows) of a table (n_rows, n_prompts).

    A resample draws the same prompts for all rows, and for all tables of as many prompts.
    """
    values = np.asarray(table, np.float64)
    return np.asarray(_weights(values.shape[1], seed) @ values.T)


@functools.lru_cache(maxsize=8)
def _weights(n: int, seed: int) -> Array:
    """The share of each value in the mean of each resample: (N_RESAMPLES, n)."""
    draws = _resampled(n, seed)
    counts = np.zeros(draws.shape)
    np.add.at(counts, (np.arange(len(draws))[:, None], draws), 1.0 / n)
    counts.flags.writeable = False
    return counts


def percentile_interval(draws: Array, level: float = 0.95) -> tuple[float, float]:
    """The interval (low, high) that holds the share `level` of bootstrap draws, with equal tails."""
    low, high = np.quantile(draws, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def _checked(values: Sequence[float], level: float) -> Array:
    data = np.asarray(values, np.float64)
    if data.ndim != 1 or len(data) == 0:
        raise UsageError(f"an interval needs at least one value; got shape {data.shape}")
    if not np.isfinite(data).all():
        raise UsageError(f"values must be finite; got {values!r}")
    if not 0.0 < level < 1.0:
        raise UsageError(f"level must be between 0 and 1; got {level}")
    return data


def _resampled(n: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, n, size=(N_RESAMPLES, n))
