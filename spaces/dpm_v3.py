"""DPM-Solver-v3 as a program: an exponential integrator whose linear part is fitted to the model, element by element.

Zheng et al. 2023, arXiv 2310.13268. With f = (sigma eps - l x) / alpha and the cumulated L, S, B = int e^{-S} b the
probability flow ODE is d(e^L x / alpha) / d lambda = -e^L f, and g = e^{S_s - S} f - e^{S_s} (B - B_s) is about
constant. A step expands g instead of the network's output.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.elementwise_program import ElementwiseProgram
from autotune.spaces.empirical_statistics import EmpiricalStatistics
from autotune.spaces.errors import ScheduleError
from autotune.spaces.mean_reverting import MeanReverting
from autotune.spaces.noise_schedule import NoiseSchedule
from autotune.spaces.solver_formula import Levels, Prediction, derivative_weights, levels_of, view_of_output

Array = NDArray[np.float64]
Row = dict[int, Array]
"""Arrays over the basis (x_0 .. x_{n-1}, o_0 .. o_{n-1}, 1), where not zero."""

MAX_ORDER = 3
_WIDEST = 0.5
"""Largest interval of lambda that one set of quadrature points covers."""
_POINTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DpmV3Step:
    """One row: `order` 1..3, and whether the state reached is corrected with the output found there, at one order more.

    `derivatives` says how g', g'' are estimated: `full` from all order - 1 neighbours, `pseudo` the k-th from the k
    nearest only (the paper's pseudo-order), which is calmer where steps are large.
    """

    order: int
    derivatives: Literal["full", "pseudo"] = "pseudo"
    corrector: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or not isinstance(self.order, int) or not 1 <= self.order <= MAX_ORDER:
            raise ScheduleError(
                f"order of a DPM-Solver-v3 step must be an integer in 1..{MAX_ORDER}; got {self.order!r}"
            )
        if self.derivatives not in ("full", "pseudo"):
            raise ScheduleError(f"derivatives must be full or pseudo; got {self.derivatives!r}")


def make_dpm_v3(
    time: Sequence[float], noise: NoiseSchedule, *, order: int = 3, corrector_below: float = 0.5
) -> tuple[DpmV3Step, ...]:
    """Pseudo-order rows 1, 2, .., order, .., 2, 1 with the half-corrector.

    States at timesteps up to `corrector_below` times the largest one are corrected: 0.5 is the paper's choice under
    large guidance, 1 corrects all.
    """
    n = len(time)
    return tuple(
        DpmV3Step(order=min(order, i + 1, n - i), corrector=i < n - 1 and time[i + 1] <= corrector_below * noise.t_max)
        for i in range(n)
    )


def compile_dpm_v3(
    time: Sequence[float],
    steps: Sequence[DpmV3Step],
    noise: NoiseSchedule,
    prediction: Prediction,
    statistics: EmpiricalStatistics,
) -> ElementwiseProgram:
    """The coefficients of a run over strictly decreasing model timesteps; the last step puts out the data prediction.

    A history too short for a row's order lowers it. The corrected state differs from the one that the network was
    called with; the buffered f stays, which shifts the noise to eps + l (x_corrected - x) / sigma.

    Raises:
        ScheduleError: lengths disagree, timesteps repeat or lie outside the noise schedule, or the process is
            mean-reverting.
    """
    if len(time) != len(steps) or not steps:
        raise ScheduleError(f"DPM-Solver-v3 needs a row per timestep; got {len(time)} timesteps, {len(steps)} rows")
    if isinstance(noise, MeanReverting):
        raise ScheduleError("DPM-Solver-v3 is not made for a mean-reverting process; use a solver column instead")
    levels = levels_of(time, noise)
    if any(after >= before for before, after in pairwise(levels.t)):
        raise ScheduleError(f"timesteps of DPM-Solver-v3 must decrease strictly; got {levels.t}")
    tape = _Tape(levels, prediction, statistics)
    rows = []
    for i, step in enumerate(steps):
        if i and steps[i - 1].corrector:
            tape.correct(steps[i - 1], i - 1)
        rows.append(tape.advance(step, i))
    n = levels.n_calls
    zero = np.zeros(statistics.element_shape)
    return ElementwiseProgram(
        timesteps=np.array(levels.t),
        terms=tuple(
            tuple((j, row.get(j, zero), row.get(n + j, zero)) for j in range(n) if j in row or n + j in row)
            for row in rows
        ),
        bias=tuple(row.get(2 * n, zero) for row in rows),
    )


class _Tape:
    """The corrected state and the buffered f of every call so far, as rows."""

    def __init__(self, levels: Levels, prediction: Prediction, statistics: EmpiricalStatistics) -> None:
        n = self._n = levels.n_calls
        self._levels = levels
        lam = np.array(levels.lam[:-1])
        self._one = np.ones(statistics.element_shape)
        self._states: list[Row] = [{i: self._one} for i in range(n)]
        self._integrals = [_integrate(start, end, statistics) for start, end in pairwise(lam.tolist())]
        factors = [
            view_of_output("data", prediction, *at, levels.flow) for at in zip(levels.alpha, levels.sigma, strict=True)
        ]
        self._data: list[Row] = [{i: x * self._one, n + i: o * self._one} for i, (x, o) in enumerate(factors[:n])]
        # f = (sigma eps - l x) / alpha is slack x less the data prediction.
        self._slack = (1.0 - statistics.at(lam)[0]) / np.array(levels.alpha[:n]).reshape(-1, *(1,) * self._one.ndim)
        self._f = [_sum((self._data[i], -self._one), ({i: self._one}, self._slack[i])) for i in range(n)]

    def advance(self, step: DpmV3Step, i: int) -> Row:
        """The row of x_{i+1}: the predictor."""
        if i == self._n - 1:  # the data prediction of the shifted noise
            shift = _sum((self._states[i], self._slack[i]), ({i: self._one}, -self._slack[i]))
            return _sum((self._data[i], self._one), (shift, self._one))
        integrals, decay = self._integrals[i], self._decay(i)
        return _sum(
            (self._states[i], decay / self._levels.alpha[i]),
            (self._f[i], -decay * integrals.moments[0]),
            ({2 * self._n: self._one}, -decay * integrals.drift),
            (self._differences(step, i, self._history(i), step.order - 1), self._one),
        )

    def correct(self, step: DpmV3Step, i: int) -> None:
        """Correct the state of call i + 1 with the output found there."""
        fresh = self._differences(step, i, [i + 1, *self._history(i)], step.order)
        stale = self._differences(step, i, self._history(i), step.order - 1)
        self._states[i + 1] = _sum((self._states[i + 1], self._one), (fresh, self._one), (stale, -self._one))

    def _history(self, i: int) -> list[int]:
        return list(range(i - 1, -1, -1))

    def _decay(self, i: int) -> Array:
        """alpha_t e^{L_s - L_t}."""
        return np.asarray(self._levels.alpha[i + 1] * np.exp(-self._integrals[i].l))

    def _differences(self, step: DpmV3Step, i: int, points: list[int], n_derivatives: int) -> Row:
        """The row of the terms with derivatives of g: -alpha_t e^{L_s - L_t} sum_k moments[k] g^(k)."""
        n_derivatives = min(n_derivatives, len(points))
        points = points[:n_derivatives]
        offsets = [self._levels.lam[j] - self._levels.lam[i] for j in points]
        row: Row = {}
        for k in range(1, n_derivatives + 1):
            used = k if step.derivatives == "pseudo" else n_derivatives
            weights = derivative_weights(offsets[:used], np.eye(used)[k - 1])
            for j, weight in zip(points, weights.tolist(), strict=False):
                factor = -self._decay(i) * self._integrals[i].moments[k] * weight
                row = _sum((row, self._one), (self._g(j, i), factor), (self._f[i], -factor))
        return row

    def _g(self, j: int, i: int) -> Row:
        """The row of g of call j about the level of call i: e^{S_i - S_j} f_j - e^{S_i} (B_j - B_i)."""
        if j > i:
            passed = self._integrals[i]
            return _sum((self._f[j], np.exp(-passed.s)), ({2 * self._n: self._one}, -passed.b))
        row = self._f[j]
        for passed in self._integrals[j:i]:
            row = _sum((row, np.exp(passed.s)), ({2 * self._n: self._one}, np.exp(passed.s) * passed.b))
        return row


@dataclass(frozen=True, slots=True, kw_only=True)
class _Integrals:
    """Integrals from a level s to a level t, per element, everything relative to s.

    `l` and `s` are L_t - L_s and S_t - S_s, `b` is e^{S_s} (B_t - B_s). With the weight e^{L + S - L_s - S_s},
    `moments` [k] are those of (lambda - lambda_s)^k / k! and `drift` is that of e^{S_s} (B - B_s).
    """

    l: Array  # noqa: E741
    s: Array
    b: Array
    moments: list[Array]
    drift: Array


def _integrate(start: float, end: float, statistics: EmpiricalStatistics) -> _Integrals:
    """Gauss-Legendre between the knots of the statistics; exact up to rounding for what they hold.

    The paper takes the trapezoid rule on its grid of 120 to 1200 levels; one of tens is too coarse for that.
    """
    inside = statistics.lam[(statistics.lam > start) & (statistics.lam < end)]
    even = np.linspace(start, end, int(np.ceil((end - start) / _WIDEST)) + 1)
    knots = np.union1d(inside, even)
    points, weights, partial = _quadrature()
    sums = {name: np.zeros(statistics.element_shape) for name in ("l", "s", "b", "drift")}
    moments = [np.zeros(statistics.element_shape) for _ in range(MAX_ORDER + 1)]
    for left, width in zip(knots[:-1], np.diff(knots), strict=True):
        at = left + width * points
        l, s, b = statistics.at(at)  # noqa: E741
        here_s = sums["s"] + width * np.tensordot(partial, s, 1)
        fading = np.exp(-here_s) * b
        here_b = sums["b"] + width * np.tensordot(partial, fading, 1)
        growth = np.exp(sums["l"] + width * np.tensordot(partial, l, 1) + here_s)
        for k in range(MAX_ORDER + 1):
            moments[k] += width * np.tensordot(weights * (at - start) ** k / math.factorial(k), growth, 1)
        for name, values in (("l", l), ("s", s), ("b", fading), ("drift", growth * here_b)):
            sums[name] = sums[name] + width * np.tensordot(weights, values, 1)
    return _Integrals(moments=moments, **sums)


@lru_cache(maxsize=1)
def _quadrature() -> tuple[Array, Array, Array]:
    """Gauss-Legendre on [0, 1]: points, weights, and the weights (points, points) of integrals up to each point."""
    nodes, weights = np.polynomial.legendre.leggauss(_POINTS)
    points = 0.5 * (1.0 + nodes)
    powers = np.arange(_POINTS)
    upto = points[:, None] ** (powers + 1) / (powers + 1)
    return points, 0.5 * weights, upto @ np.linalg.inv(points[:, None] ** powers)


def _sum(*terms: tuple[Row, Array]) -> Row:
    """Rows times factors, added up."""
    total: Row = {}
    for row, factor in terms:
        for key, values in row.items():
            total[key] = total[key] + factor * values if key in total else factor * values
    return total
