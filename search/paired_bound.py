"""What the first prompts say of all: exact bounds on a mean, from a part of its terms."""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit


def lower_bound(values: ArrayLike, n_total: int, alpha: float) -> NDArray[np.float64]:
    """A bound that the mean of all `n_total` terms falls below with probability `alpha`, from the first k of them.

    `values` is (..., k); the result is (...). The terms count as independent draws of one normal distribution. Then
    mean(all) - mean(first k) has variance sigma^2 (1/k - 1/n_total) and is independent of the sample variance s^2, so
    mean(first k) - t s sqrt(1/k - 1/n_total) is exact, with Student's t of k - 1 degrees of freedom: a prediction
    bound with the correction for finite populations (Cochran 1977, Sampling Techniques, section 2.8). With
    k = n_total it is the mean itself; of one term of several it is -inf.
    """
    table = np.asarray(values, np.float64)
    k = table.shape[-1]
    if not 1 <= k <= n_total:
        raise ValueError(f"the terms must be 1 .. {n_total} of all; got {k}")
    mean = table.mean(axis=-1)
    if k == n_total:
        return np.asarray(mean)
    if k == 1:
        return np.full(table.shape[:-1], -np.inf)
    spread = np.sqrt(table.var(axis=-1, ddof=1) * (1.0 / k - 1.0 / n_total))
    return np.asarray(mean - student_quantile(k - 1, alpha) * spread)


@lru_cache(maxsize=4096)
def student_quantile(degrees: int, alpha: float) -> float:
    """The value that Student's t of so many degrees of freedom exceeds with probability `alpha`."""
    return float(-stdtrit(degrees, alpha))
