"""What is known of a variance before it is estimated: how such variances were distributed in earlier comparisons."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import digamma, polygamma

MIN_VARIANCES = 10
"""Before so many there is no prior."""

MOST_DEGREES = 1e3
"""Degrees of freedom of a prior of variances that are all alike."""


@dataclass(frozen=True, slots=True)
class Prior:
    """It counts as an estimate `variance` that was made with so many degrees of freedom."""

    variance: float
    degrees: float


class VariancePrior:
    """A scaled inverse chi-square distribution of variances, by the moments of the logarithms of their estimates.

    Its place is what makes few terms tell much: the moderated t-statistic (Smyth 2004, Statistical Applications in
    Genetics and Molecular Biology 3(1):3, section 6.2).
    """

    def __init__(self, degrees: int) -> None:
        """Of estimates with so many degrees of freedom each."""
        self._degrees = degrees
        self._n, self._sum, self._squares = 0, 0.0, 0.0
        self.prior: Prior | None = None
        """By all estimates so far; None before `MIN_VARIANCES` of them."""

    def note(self, variances: ArrayLike) -> None:
        """Learn from estimates; those that are 0 or not finite are passed over."""
        values = np.asarray(variances, np.float64).ravel()
        logs = np.log(values[np.isfinite(values) & (values > 0.0)])
        self._n += len(logs)
        self._sum += float(logs.sum())
        self._squares += float((logs**2).sum())
        self.prior = self._fitted()

    def _fitted(self) -> Prior | None:
        if self._n < MIN_VARIANCES or self._degrees < 1:
            return None
        mean = self._sum / self._n
        spread = (self._squares - self._n * mean**2) / (self._n - 1)
        # The variance of a logarithm is trigamma(d / 2), of the true variances' and of the estimates' d, in sum.
        excess = spread - _trigamma(0.5 * self._degrees)
        degrees = MOST_DEGREES if excess <= _trigamma(0.5 * MOST_DEGREES) else 2.0 * _inverse_trigamma(excess)
        place = mean - _log_bias(self._degrees) + _log_bias(degrees)
        return Prior(variance=float(np.exp(place)), degrees=degrees)


def _log_bias(degrees: float) -> float:
    """Mean logarithm of a chi-square value over its degrees of freedom."""
    return float(digamma(0.5 * degrees) - np.log(0.5 * degrees))


def _trigamma(x: float) -> float:
    return float(polygamma(1, x))


def _inverse_trigamma(value: float) -> float:
    """It lies between these bounds, since 1/x < trigamma(x) < 1/x + 1/x^2."""
    return float(brentq(lambda x: _trigamma(x) - value, 1.0 / value, 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * value)) / value))
