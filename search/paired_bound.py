"""What the first prompts say of all: exact bounds on a mean, from a part of its terms."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from autotune.search.variance_prior import Prior


def lower_bound(values: ArrayLike, n_total: int, alpha: float, prior: Prior | None = None) -> NDArray[np.float64]:
    """A bound that the mean of all `n_total` terms falls below with probability `alpha`, from the first k of them.

    `values` is (..., k); the result is (...). The terms count as independent draws of one normal distribution. Then
    mean(all) - mean(first k) has variance sigma^2 (1/k - 1/n_total) and is independent of the sample variance s^2, so
    mean(first k) - t s sqrt(1/k - 1/n_total) is exact, with Student's t of k - 1 degrees of freedom: a prediction
    bound with the correction for finite populations (Cochran 1977, Sampling Techniques, section 2.8). With
    k = n_total it is the mean itself; of one term of several it is -inf.

    A prior of the variance is one more estimate of it: both are averaged by their degrees of freedom, which add up. It
    is as exact, over variances that are distributed like that.
    """
    table = np.asarray(values, np.float64)
    k = table.shape[-1]
    if not 1 <= k <= n_total:
        raise ValueError(f"the terms must be 1 .. {n_total} of all; got {k}")
    mean = table.mean(axis=-1)
    if k == n_total:
        return np.asarray(mean)
    variance, degrees = (table.var(axis=-1, ddof=1) if k > 1 else np.zeros(table.shape[:-1])), float(k - 1)
    if prior is not None:
        variance = (degrees * variance + prior.degrees * prior.variance) / (degrees + prior.degrees)
        degrees += prior.degrees
    if degrees == 0.0:
        return np.full(table.shape[:-1], -np.inf)
    spread = np.sqrt(variance * (1.0 / k - 1.0 / n_total))
    return np.asarray(mean - student_quantile(degrees, alpha) * spread)


@lru_cache(maxsize=4096)
def student_quantile(degrees: float, alpha: float) -> float:
    """The value that Student's t of so many degrees of freedom exceeds with probability `alpha`."""
    return float(-stdtrit(degrees, alpha))


def failure_bound(own: Sequence[float], rival: Sequence[float], alpha: float) -> float:
    """A bound that the mean of own - rival over all episodes falls below with probability `alpha` at most.

    Both are 1 where an episode failed, else 0: `own` in the first k episodes, `rival` in all. Nothing is normal here,
    and a few episodes that went alike say little: a sample without spread is no certainty. But the rival's failures are
    known. So what is unknown are two counts, of own failures where the rival succeeded and where it failed, and each
    has an exact bound (`least_count`). They share `alpha` by how many episodes each is of.
    """
    failed = np.asarray(rival) > 0.5
    seen, k, n = np.asarray(own) > 0.5, len(own), len(failed)
    if not 1 <= k <= n:
        raise ValueError(f"the episodes must be 1 .. {n} of all; got {k}")
    bound = 0
    for part in (failed, ~failed):
        size = int(part.sum())
        bound += least_count(int(seen[part[:k]].sum()), int(part[:k].sum()), size, alpha * size / n)
    return (bound - int(failed.sum())) / n


@lru_cache(maxsize=65536)
def least_count(seen: int, k: int, n_total: int, alpha: float) -> int:
    """A bound that the number of ones among `n_total` terms falls below with probability `alpha` at most.

    `seen` of the first k terms are 1. It is the least number of ones in all of which as many in a sample of k, drawn
    without replacement, are no rarer than `alpha`: an exact, hypergeometric limit (Cochran 1977, section 3.6). With
    k = n_total it is `seen`.
    """
    samples = math.comb(n_total, k)
    for ones in range(seen, n_total - (k - seen)):
        as_many = sum(math.comb(ones, j) * math.comb(n_total - ones, k - j) for j in range(seen, k + 1))
        if as_many / samples > alpha:
            return ones
    return n_total - (k - seen)
