"""The special cases of the unified step and each of its factors, against formulas written out here."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.spaces.noise_schedule import Flow
from autotune.spaces.solver_program import compile_program
from autotune.spaces.solver_row import SolverRow
from autotune.spaces.solver_step import Relaxation, SolverStep
from autotune.spaces.time_grid import called_twice, uniform_lambda

from .noise_cases import FLOW, LINEAR, SCALED, Noise, schedule

Array = NDArray[np.float64]
NOISES = pytest.mark.parametrize("noise", [LINEAR, SCALED, FLOW], ids=["linear", "scaled", "flow"])
LAST = 4
"""The row under test; the clean end is two rows away."""


class Row:
    """What a formula of row `LAST` is written with: levels, and the data predictions of a run, newest first."""

    def __init__(self, toy: Any, noise: Noise, *rows: SolverRow) -> None:
        times = uniform_lambda(noise, 7, t_start=950.0, t_end=30.0)
        steps: list[SolverRow] = [SolverStep(view="data", domain="lambda", order=1)] * 7
        steps[LAST + 1 - len(rows) : LAST + 1] = rows
        net = toy.network(noise, "data")
        states = toy.run(compile_program(schedule(noise, times, steps), noise, "data"), net, toy.x0)
        sigma = noise.sigma(times)
        alpha = 1 - sigma if isinstance(noise, Flow) else np.sqrt(1 - sigma**2)
        self.alpha, self.sigma, self.lam = alpha, sigma, np.log(alpha / sigma)
        self.states, self.reached = states, states[LAST + 1]
        self.h = float(self.lam[LAST + 1] - self.lam[LAST])
        self.m = [net(states[j], times[j]) for j in range(LAST, -1, -1)]
        self.r = [float(self.lam[LAST - k] - self.lam[LAST]) / self.h for k in range(5)]

    def first(self) -> Array:
        """The order-1 step of DPM-Solver++."""
        s, a = self.sigma, self.alpha
        return np.asarray(s[LAST + 1] / s[LAST] * self.states[LAST] - a[LAST + 1] * math.expm1(-self.h) * self.m[0])

    def slope(self, k: int) -> Array:
        """h F' from the difference to the k-th output before."""
        return np.asarray((self.m[k] - self.m[0]) / self.r[k])

    def gap(self, expected: Array) -> float:
        return float(np.abs(self.reached - expected).max() / np.abs(expected).max())

    @property
    def a_phi(self) -> tuple[float, float]:
        """alpha h phi_2(-h) and alpha h phi_3(-h)."""
        h, a = self.h, float(self.alpha[LAST + 1])
        phi_2 = (math.expm1(-h) / -h - 1) / -h
        return a * h * phi_2, a * h * (phi_2 - 0.5) / -h


def data(order: int, relaxation: Relaxation = "taylor", **fields: Any) -> SolverStep:
    return SolverStep(view="data", domain="lambda", order=order, relaxation=relaxation, **fields)


def unip(row: Row, p: int, b: Callable[[float], float]) -> Array:
    """UniP-p (Zhao et al. 2023): R rho = b over the ratios, 1/2 at order 2."""
    z = -row.h
    ratios, rho = row.r[1:p], np.array([0.5])
    if p > 2:
        phi, right = math.expm1(z) / z, []
        for j in range(1, p):
            phi = (phi - 1 / math.factorial(j)) / z
            right.append(z * phi * math.factorial(j) / b(z))
        rho = np.linalg.solve([[r**k for r in ratios] for k in range(p - 1)], right)
    slopes = [row.slope(k) for k in range(1, p)]
    return np.asarray(row.first() - row.alpha[LAST + 1] * b(z) * sum(w * d for w, d in zip(rho, slopes, strict=True)))


# Special cases.


@NOISES
def test_order_two_with_b2_is_the_midpoint_form_of_2m(toy: Any, noise: Noise) -> None:
    row = Row(toy, noise, data(2, "b2"))
    r0 = float(row.lam[LAST] - row.lam[LAST - 1]) / row.h
    d = (row.m[0] - row.m[1]) / r0
    assert row.gap(row.first() - 0.5 * row.alpha[LAST + 1] * math.expm1(-row.h) * d) < 1e-12
    assert row.gap(unip(row, 2, math.expm1)) < 1e-12


@NOISES
def test_order_two_with_b1_is_unip_2_with_b1(toy: Any, noise: Noise) -> None:
    row = Row(toy, noise, data(2, "b1"))
    assert row.gap(unip(row, 2, lambda z: z)) < 1e-12
    assert row.gap(unip(row, 2, math.expm1)) > 1e-6


@NOISES
def test_order_two_without_relaxation_is_the_heun_form_of_2m(toy: Any, noise: Noise) -> None:
    row = Row(toy, noise, data(2))
    r0 = float(row.lam[LAST] - row.lam[LAST - 1]) / row.h
    d = (row.m[0] - row.m[1]) / r0
    p2 = math.expm1(-row.h) / row.h + 1
    assert row.gap(row.first() + row.alpha[LAST + 1] * p2 * d) < 1e-12


@NOISES
@pytest.mark.parametrize("relaxation", ["taylor", "b1", "b2"])
@pytest.mark.parametrize("p", [3, 4, 5])
def test_higher_orders_are_unip_with_either_b(toy: Any, noise: Noise, p: int, relaxation: Relaxation) -> None:
    row = Row(toy, noise, data(p, relaxation))
    for b in (math.expm1, lambda z: z):
        assert row.gap(unip(row, p, b)) < 1e-12


@NOISES
@pytest.mark.parametrize("curvature", [1.0, 0.5])
def test_order_three_is_3m_with_the_taylor_value_and_half_curvature_the_shipped_one(
    toy: Any, noise: Noise, curvature: float
) -> None:
    row = Row(toy, noise, data(3, curvature=curvature))
    kappa = 2 * curvature
    r0, r1 = ((row.lam[LAST - k] - row.lam[LAST - k - 1]) / row.h for k in (0, 1))
    d, d_ = (row.m[0] - row.m[1]) / r0, (row.m[1] - row.m[2]) / r1
    p1 = math.expm1(-row.h)
    p2 = p1 / row.h + 1
    p3 = p2 / row.h - 0.5
    a = row.alpha[LAST + 1]
    expected = row.first() + a * p2 * (d + r0 / (r0 + r1) * (d - d_)) - a * p3 * kappa * (d - d_) / (r0 + r1)
    assert row.gap(expected) < 1e-12
    assert (row.gap(unip(row, 3, math.expm1)) > 1e-6) == (curvature != 1.0)


# Factors.


@NOISES
def test_gains_multiply_the_state_and_the_output_and_leave_the_differences(toy: Any, noise: Noise) -> None:
    row = Row(toy, noise, data(2, state_gain=0.97, output_gain=1.04))
    kept = row.sigma[LAST + 1] / row.sigma[LAST] * row.states[LAST]
    expected = 0.97 * kept + 1.04 * (row.first() - kept) + row.a_phi[0] * row.slope(1)
    assert row.gap(expected) < 1e-12


@pytest.mark.parametrize(("view", "domain"), [("data", "lambda"), ("noise", "lambda"), ("noise", "sigma")])
def test_gains_act_at_the_clean_end_too(toy: Any, view: Any, domain: Any) -> None:
    """There, data is (x - sigma e) / alpha."""
    times = uniform_lambda(LINEAR, 2, t_start=950.0, t_end=400.0)
    last = SolverStep(view=view, domain=domain, order=1, state_gain=0.9, output_gain=1.2)
    net, plan = toy.network(LINEAR, "noise"), schedule(LINEAR, times, [data(1), last])
    states = toy.run(compile_program(plan, LINEAR, "noise"), net, toy.x0)
    x, e, sigma, alpha = states[1], net(states[1], times[1]), LINEAR.sigma(times)[1], LINEAR.alpha(times)[1]
    expected = 1.2 * (x - sigma * e) / alpha if view == "data" else (0.9 * x - 1.2 * sigma * e) / alpha
    np.testing.assert_allclose(states[2], expected, rtol=1e-12)


@NOISES
@pytest.mark.parametrize("relaxation", ["taylor", "b1", "b2"])
def test_slope_multiplies_the_first_derivative_only(toy: Any, noise: Noise, relaxation: Relaxation) -> None:
    factor = 1 + 0.05 * 0.4
    second = Row(toy, noise, data(2, relaxation, slope=factor))
    h, a = second.h, second.alpha[LAST + 1]
    size = {"taylor": second.a_phi[0], "b1": 0.5 * a * h, "b2": -0.5 * a * math.expm1(-h)}[relaxation]
    assert second.gap(second.first() + factor * size * second.slope(1)) < 1e-12
    third = Row(toy, noise, data(3, relaxation, slope=factor))
    s1, s2, (r1, r2) = third.slope(1), third.slope(2), third.r[1:3]
    prime, bend = (r2 * s1 - r1 * s2) / (r2 - r1), 2 * (s2 - s1) / (r2 - r1)
    first, second_term = third.a_phi
    assert third.gap(third.first() + factor * first * prime + second_term * bend) < 1e-12


@NOISES
def test_curvature_multiplies_the_second_derivative_only(toy: Any, noise: Noise) -> None:
    row = Row(toy, noise, data(3, curvature=1.7))
    s1, s2, (r1, r2) = row.slope(1), row.slope(2), row.r[1:3]
    prime, bend = (r2 * s1 - r1 * s2) / (r2 - r1), 2 * (s2 - s1) / (r2 - r1)
    first, second = row.a_phi
    assert row.gap(row.first() + first * prime + 1.7 * second * bend) < 1e-12


@NOISES
def test_slope_points_choose_what_the_first_derivative_is_estimated_from(toy: Any, noise: Noise) -> None:
    for order, n_points in ((2, 1), (2, 2), (3, 1), (3, 2)):
        row = Row(toy, noise, data(order, slope_points=n_points))
        s1, s2, (r1, r2) = row.slope(1), row.slope(2), row.r[1:3]
        prime = s1 if n_points == 1 else (r2 * s1 - r1 * s2) / (r2 - r1)
        bend = 0 * s1 if order == 2 else 2 * (s2 - s1) / (r2 - r1)
        first, second = row.a_phi
        assert row.gap(row.first() + first * prime + second * bend) < 1e-12, (order, n_points)


@NOISES
def test_an_origin_makes_a_single_step_method(toy: Any, noise: Noise) -> None:
    """DPM-Solver++(2S) with its intermediate call where the grid has it."""
    row = Row(toy, noise, data(1), data(2, "b2", origin=1))
    s, t = LAST - 1, LAST + 1
    h = row.lam[t] - row.lam[s]
    r1 = (row.lam[LAST] - row.lam[s]) / h
    mid, start, p1 = row.m[0], row.m[1], math.expm1(-h)
    base = row.sigma[t] / row.sigma[s] * row.states[s] - row.alpha[t] * p1 * start
    assert row.gap(base - 1 / (2 * r1) * row.alpha[t] * p1 * (mid - start)) < 1e-12


@NOISES
def test_an_implicit_corrector_is_the_trapezoidal_rule_and_costs_a_call(toy: Any, noise: Noise) -> None:
    flow = isinstance(noise, Flow)
    times = called_twice(uniform_lambda(noise, 4, t_start=950.0, t_end=30.0))
    net = toy.network(noise, "velocity" if flow else "noise")
    view: Any = "velocity" if flow else "noise"
    steps = [SolverStep(view=view, domain="sigma", order=1 + i % 2, origin=i % 2) for i in range(7)]
    ours = toy.run(compile_program(schedule(noise, times, steps), noise, view), net, toy.x0)
    scale = np.append(np.ones(7) if flow else noise.alpha(times), 1.0)
    s = np.append(noise.sigma(times) / (1 if flow else noise.alpha(times)), 0.0)
    states = [toy.x0]
    for i in (0, 2, 4):
        y, ds = states[-1] / scale[i], s[i + 1] - s[i]
        slope = net(states[-1], times[i])
        states.append(scale[i + 1] * (y + ds * slope))
        states.append(scale[i + 1] * (y + ds / 2 * (slope + net(states[-1], times[i + 1]))))
    states.append(states[-1] / scale[6] - s[6] * net(states[-1], times[6]))
    assert toy.largest_gap(ours, states) < 1e-12


@NOISES
def test_an_implicit_corrector_in_lambda_is_the_order_above_with_a_call_of_its_own(toy: Any, noise: Noise) -> None:
    """Of order 2: X at both ends gives the slope; of order 3: also the output before (n = 2 and its corrector)."""
    lam = np.linspace(-1.0, 1.5, 4)
    t = noise.t_from_lam(lam).tolist()
    times = (t[0], t[1], t[2], t[2], t[3])
    steps = [data(1), data(2), data(3, origin=1), data(1), data(1)]
    net = toy.network(noise, "data")
    states = toy.run(compile_program(schedule(noise, times, steps), noise, "data"), net, toy.x0)
    before, start, end = (net(states[i], times[i]) for i in range(3))
    h = lam[2] - lam[1]
    prime, bend = (end - before) / 2, end - 2 * start + before
    phi_1 = math.expm1(-h) / -h
    phi_2 = (phi_1 - 1) / -h
    phi_3 = (phi_2 - 0.5) / -h
    sigma, alpha = noise.sigma(times), noise.alpha(times)
    expected = sigma[2] / sigma[1] * states[1] + alpha[2] * h * (phi_1 * start + phi_2 * prime + phi_3 * bend)
    assert toy.largest_gap([states[3]], [expected]) < 1e-12


# Stochastic steps.


@NOISES
@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_stochastic_steps_of_order_one_are_exact_where_the_data_prediction_is_constant(
    noise: Noise, tau: float
) -> None:
    """Given x_s, the SDE with a constant data prediction X is Gaussian: its moments are solved in steps of 1/4000.

    d(x / alpha) = -(1 + tau^2) (x / alpha - X) dlam + sqrt(2) tau e^{-lam} dw.
    """
    times = uniform_lambda(noise, 4, t_start=900.0, t_end=50.0)
    steps = [replace(data(1), stochastic=tau)] * 4
    program = compile_program(schedule(noise, times, steps), noise, "data")
    lam = noise.lam(times)
    for i in range(3):
        grid = np.linspace(lam[i], lam[i + 1], 4001)
        h, mid = grid[1] - grid[0], (grid[1:] + grid[:-1]) / 2
        kept = float(np.exp(-(1 + tau**2) * (lam[i + 1] - lam[i])))
        later = np.exp(-(1 + tau**2) * (lam[i + 1] - mid))
        variance = float((2 * tau**2 * np.exp(-2 * mid) * later**2).sum() * h)
        a_s, a_t = float(noise.alpha(times[i])), float(noise.alpha(times[i + 1]))
        assert program.state_coefs[i, i] == pytest.approx(a_t / a_s * kept, rel=1e-10)
        assert program.output_coefs[i, i] == pytest.approx(a_t * (1 - kept), rel=1e-10)
        assert program.noise_coefs[i] == pytest.approx(a_t * math.sqrt(variance), rel=1e-5)
    assert program.noise_coefs[3] == 0.0


@NOISES
@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("order", [1, 2])
def test_many_stochastic_steps_keep_the_mean_and_variance_of_a_gaussian(noise: Noise, order: int, tau: float) -> None:
    """The network is linear for Gaussian data, so mean and covariance of all states follow from the table."""
    mean, spread, n = 0.7, 0.4, 240
    times = uniform_lambda(noise, n, t_start=990.0, t_end=5.0)
    sigma, alpha = noise.sigma(times), noise.alpha(times)
    steps = [data(min(order, i + 1), stochastic=tau) for i in range(n)]
    program = compile_program(schedule(noise, times, steps), noise, "data")
    gain = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2)  # E[x_0 | x] = mean + gain (x - alpha mean)
    means = np.zeros(n + 1)
    rows = np.zeros((n + 1, n + 1))  # states as combinations of x_0's randomness and the fresh noises
    means[0], rows[0, 0] = alpha[0] * mean, math.hypot(alpha[0] * spread, sigma[0])
    for i in range(n):
        a, b = program.state_coefs[i, : i + 1], program.output_coefs[i, : i + 1]
        predicted = mean + gain[: i + 1] * (means[: i + 1] - alpha[: i + 1] * mean)
        means[i + 1] = a @ means[: i + 1] + b @ predicted
        rows[i + 1] = (a + b * gain[: i + 1]) @ rows[: i + 1]
        rows[i + 1, i + 1] = program.noise_coefs[i]
    spreads = np.sqrt((rows**2).sum(axis=1))
    tolerance = 0.03 if order == 1 else 2e-3
    assert means[-1] == pytest.approx(mean, rel=1e-9)
    exact = np.hypot(alpha * spread, sigma)
    np.testing.assert_allclose(spreads[:-1], exact, rtol=tolerance)
    assert spreads[-1] == pytest.approx(gain[-1] * exact[-1], rel=tolerance)  # the sample is the last data prediction
