"""A learned predictor of a solver schedule's deviation, which stands in for the network inside S3's evolution."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

Array = NDArray[np.float64]

MAX_SAMPLES = 400
"""Schedules that a predictor is trained on, the best ones: its cost grows with their cube."""

N_FOLDS = 5

MIN_DISTANCE = 0.1
"""Schedules scored in one stage are at least so far apart, per encoded number in units of its spread."""

ERROR_WEIGHT = 3.0
"""How much more an error on a trace counts in the kernel than another number of an encoding."""


class SolverPredictor:
    """A Gaussian process around a linear trend, from encoded programs (`encode_program`) to a score, lower is better.

    The last `n_errors` numbers of an encoding are the program's errors on a trace (`TracedRun.log_errors`).
    Scores are cut off as far above the median as the best lies below it: how bad a bad schedule is tells nothing about
    good ones.
    """

    def __init__(self, encodings: Sequence[Array], scores: Sequence[float], *, n_errors: int = 0) -> None:
        best = np.argsort(scores, kind="stable")[:MAX_SAMPLES]
        x, y = np.array(encodings)[best], np.array(scores)[best]
        median = float(np.median(y))
        self._median = np.median(x, axis=0)
        spread = np.quantile(np.abs(x - self._median), 0.75, axis=0)
        self._varies = spread > 1e-9
        self._spread = np.where(self._varies, spread, 1.0)
        self._weights = np.where(np.arange(x.shape[1]) < x.shape[1] - n_errors, 1.0, ERROR_WEIGHT)[self._varies]
        if not self._varies.any():  # the process needs an entry, if one without a say
            self._varies, self._weights = np.ones_like(self._varies), np.zeros(x.shape[1])
        smooth = ConstantKernel(1.0, (1e-2, 1e3)) * Matern(5.0, (0.5, 100.0), nu=2.5)
        trend = ConstantKernel(0.1, (1e-5, 1e2)) * DotProduct(1.0, (1e-2, 1e2))
        kernel = smooth + trend + WhiteKernel(1e-3, (1e-6, 1.0))
        self._process = GaussianProcessRegressor(kernel, normalize_y=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a parameter at its bound is no fault
            self._process.fit(self.scaled(x), np.minimum(y, 2.0 * median - y.min()))

    def predict(self, encodings: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the score of each row."""
        mean, deviation = self._process.predict(self.scaled(encodings), return_std=True)
        return np.asarray(mean), np.asarray(deviation)

    def scaled(self, encodings: Array) -> Array:
        """Encodings in units of their spread over the training schedules, far ones drawn in, constant ones left out.

        Weights on outputs have heavy tails: in units of a standard deviation, good schedules would all look alike.
        """
        return np.asarray(np.arcsinh((encodings - self._median) / self._spread)[:, self._varies] * self._weights)


def held_out_tau(encodings: Sequence[Array], scores: Sequence[float], seed: int, *, n_errors: int = 0) -> float:
    """Kendall's tau between scores and predictions, each by a predictor that has not seen the schedule.

    Not its kernel either: that is fitted anew in every of 5 folds, or of as many as there are schedules. 0 where all
    encodings, scores or predictions are equal, as those of a single schedule are.
    """
    x, y = np.array(encodings), np.array(scores)
    if np.all(x == x[0]):
        return 0.0
    n_folds = min(N_FOLDS, len(y))
    order = np.random.default_rng(seed).permutation(len(y))
    predictions = np.zeros(len(y))
    for fold in range(n_folds):
        held_out = order[fold::n_folds]
        kept = np.setdiff1d(order, held_out)
        unseeing = SolverPredictor(list(x[kept]), y[kept].tolist(), n_errors=n_errors)
        predictions[held_out], _ = unseeing.predict(x[held_out])
    return float(np.nan_to_num(kendalltau(predictions, y).statistic))


def spread_out(points: Array) -> list[int]:
    """Indices of scaled encodings in order, those that lie too close to an earlier one at the end."""
    near = MIN_DISTANCE * np.sqrt(points.shape[1])
    chosen: list[int] = []
    for i, point in enumerate(points):
        if all(np.linalg.norm(point - points[j]) >= near for j in chosen):
            chosen.append(i)
    return [*chosen, *(i for i in range(len(points)) if i not in chosen)]
