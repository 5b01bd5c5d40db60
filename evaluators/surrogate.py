"""Predicts what a table does not hold, in the manner of NAS-Bench-301 (Zela et al. 2022, arXiv 2008.09777)."""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.stats import kendalltau
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Kernel, Matern, WhiteKernel
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

Array = NDArray[np.float64]

N_KERNEL_ROWS, N_KERNEL_OUTPUTS = 300, 16
"""Rows and outputs on which a kernel's parameters are fitted, drawn at random: the cost grows with the rows' cube."""

N_FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How well held-out rows are predicted: share of the variance explained, Kendall's tau, root mean square error."""

    r2: float
    tau: float
    rmse: float


class Surrogate:
    """A Gaussian process around a linear trend, from features (n, d) to outputs (n, m) with one kernel.

    The kernel's parameters are the most likely ones of some rows and outputs, together. NAS-Bench-301 takes trees and
    graph networks; a process is smooth and passes near the rows that it knows.
    """

    def __init__(self, features: Array, targets: Array, seed: int = 0) -> None:
        self._inputs, self._outputs = StandardScaler().fit(features), StandardScaler().fit(targets)
        self._low, self._high = features.min(axis=0), features.max(axis=0)
        x, y = self._inputs.transform(features), self._outputs.transform(targets)
        rng = np.random.default_rng(seed)
        some = rng.permutation(len(x))[:N_KERNEL_ROWS]
        outputs = rng.permutation(y.shape[1])[:N_KERNEL_OUTPUTS]
        kernel = _fitted_kernel(x[some], y[np.ix_(some, outputs)])
        self._process = GaussianProcessRegressor(kernel, optimizer=None).fit(x, y)

    def predict(self, features: Array) -> Array:
        """Outputs (n, m) for features (n, d); what lies outside the known range of a feature counts as at its end."""
        inside = np.clip(features, self._low, self._high)
        predicted = self._process.predict(self._inputs.transform(inside)).reshape(len(features), -1)
        return np.asarray(self._outputs.inverse_transform(predicted))

    def held_out_residuals(self) -> Array:
        """Each row's outputs less what the other rows alone would have predicted: (n, m), at no further fit.

        Rasmussen and Williams 2006 (Gaussian Processes for Machine Learning), equation 5.12.
        """
        inverse = solve_triangular(self._process.L_, np.eye(len(self._process.L_)), lower=True)
        alpha = self._process.alpha_.reshape(len(inverse), -1)
        return np.asarray(alpha / (inverse**2).sum(axis=0)[:, None] * self._outputs.scale_)


def cross_validate(features: Array, target: Array, seed: int = 0) -> Accuracy:
    """How well one output (n,) is predicted, each fifth of the rows from the others."""
    predicted = np.empty(len(target))
    for fitted, held_out in KFold(N_FOLDS, shuffle=True, random_state=seed).split(features):
        surrogate = Surrogate(features[fitted], target[fitted, None], seed)
        predicted[held_out] = surrogate.predict(features[held_out])[:, 0]
    error = target - predicted
    return Accuracy(
        r2=float(1.0 - (error**2).sum() / ((target - target.mean()) ** 2).sum()),
        tau=float(kendalltau(target, predicted).statistic),
        rmse=float(np.sqrt((error**2).mean())),
    )


def _fitted_kernel(x: Array, y: Array) -> Kernel:
    smooth = ConstantKernel(1.0, (1e-2, 1e4)) * Matern(10.0, (0.5, 1e3), nu=2.5)
    trend = ConstantKernel(0.1, (1e-6, 1e3)) * DotProduct(1.0, (1e-2, 1e3))
    process = GaussianProcessRegressor(smooth + trend + WhiteKernel(1e-2, (1e-7, 10.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a parameter at its bound is no fault
        return process.fit(x, y).kernel_
