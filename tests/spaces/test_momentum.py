"""Rows with momentum, and the row that can be inverted, against their update rules written out."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from autotune.spaces.bdia_step import BdiaStep
from autotune.spaces.errors import ScheduleError
from autotune.spaces.momentum_step import MomentumStep, ghvb_weights, next_lags
from autotune.spaces.noise_schedule import Flow
from autotune.spaces.solver_inversion import invert_program
from autotune.spaces.solver_program import compile_program
from autotune.spaces.solver_row import SolverRow
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

from .noise_cases import FLOW, LINEAR, SCALED, Noise, schedule

Array = NDArray[np.float64]
NOISES = pytest.mark.parametrize("noise", [LINEAR, SCALED, FLOW], ids=["linear", "scaled", "flow"])


class Straight:
    """The straight ODE of a noise schedule at some timesteps, with the clean end: y = x / scale, dy/ds = slope."""

    def __init__(self, noise: Noise, times: Sequence[float]) -> None:
        self.flow = isinstance(noise, Flow)
        sigma, alpha = noise.sigma(times), noise.alpha(times)
        self.scale = np.append(np.ones_like(alpha) if self.flow else alpha, 1.0)
        self.s = np.append(sigma if self.flow else sigma / alpha, 0.0)

    def network(self, toy: Any, noise: Noise) -> Any:
        return toy.network(noise, "velocity" if self.flow else "noise")


def momentum(method: str, order: int, betas: Sequence[float]) -> list[SolverRow]:
    return [MomentumStep(method=method, order=order, beta=beta) for beta in betas]  # type: ignore[arg-type]


def lagrange_mean(nodes: Sequence[float], values: Sequence[Array], a: float, b: float) -> Array:
    """Mean over [a, b] of the polynomial through the values, by exact quadrature."""
    points, weights = np.polynomial.legendre.leggauss(6)
    total = np.zeros_like(values[0])
    for p, w in zip(a + (b - a) * (points + 1) / 2, weights / 2, strict=True):
        for j, value in enumerate(values):
            others = [x for k, x in enumerate(nodes) if k != j]
            total += w * float(np.prod([(p - x) / (nodes[j] - x) for x in others])) * value
    return total


def slope_shares(betas: Sequence[float]) -> list[Array]:
    """How much of each slope there is in each velocity."""
    shares = [np.eye(len(betas))[0]]
    for i, beta in enumerate(betas[1:], 1):
        shares.append((1 - beta) * shares[-1] + beta * np.eye(len(betas))[i])
    return shares


# Weights.


def combined(order: int, slopes: Array, betas: Sequence[float]) -> tuple[float, Array]:
    """GHVB's combination after a run of slopes, and the velocities of that run."""
    velocities, lags = list[float](), list[Array]()
    for slope, beta in zip(slopes, betas, strict=True):
        velocities.append((1 - beta) * velocities[-1] + beta * slope if velocities else slope)
        lags.append(next_lags(lags[-1] if lags else None, beta))
    on_velocity, on_slopes = ghvb_weights(order, lags[-order])
    newest_first = slopes[::-1][: order - 1]
    return on_velocity * velocities[-order] + float(on_slopes @ newest_first), np.array(velocities)


@pytest.mark.parametrize("beta", [1.0, 0.8, 0.3])
def test_ghvb_weights_are_the_published_ones(beta: float) -> None:
    """In the long run under one beta, as weights of the last velocities."""
    published = {
        1: np.array([beta]),
        2: np.array([2 + beta, -(2 - beta)]) / 2,
        3: np.array([18 + 5 * beta, -(24 - 8 * beta), 6 - beta]) / 12,
        4: np.array([46 + 9 * beta, -(78 - 19 * beta), 42 - 5 * beta, -(10 - beta)]) / 24,
    }
    slopes = np.random.default_rng(0).standard_normal(200)
    for order, weights in published.items():
        got, velocities = combined(order, slopes, [beta] * 200)
        assert got == pytest.approx(float(weights / beta @ velocities[::-1][:order]), abs=1e-12)


def test_ghvb_weights_with_beta_one_are_adams_bashforth() -> None:
    slopes = np.array([0.3, -1.1, 0.7, 0.2, 1.9])
    for weights in ([1.5, -0.5], np.array([55, -59, 37, -9]) / 24):
        got, _ = combined(len(weights), slopes, [1.0] * 5)
        assert got == pytest.approx(float(weights @ slopes[::-1][: len(weights)]), abs=1e-15)


@given(st.integers(1, 4), st.lists(st.floats(0.0, 1.0, exclude_min=True), min_size=4, max_size=12))
def test_ghvb_integrates_polynomials_below_its_order(order: int, betas: list[float]) -> None:
    """With e(n) = n^d at unit steps, a step is the exact integral, whatever the betas, be they next to 0."""
    n = np.arange(1.0 - len(betas), 1.0)
    for degree in range(order):
        got, _ = combined(order, n**degree, betas)
        assert got == pytest.approx(1 / (degree + 1), abs=1e-15 * len(betas) ** order)


# Programs.


@NOISES
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("method", ["hb", "ghvb"])
def test_momentum_equals_its_update_rule(toy: Any, noise: Noise, method: str, order: int) -> None:
    n, betas = 10, [0.9, 0.8, 0.55, 0.7, 1.0, 0.6, 0.3, 0.8, 0.9, 0.5]
    times = uniform_lambda(noise, n)
    line = Straight(noise, times)
    net = line.network(toy, noise)
    states, slopes, velocities = [toy.x0], list[Array](), list[Array]()
    for i, (t, beta) in enumerate(zip(times, betas, strict=True)):
        slopes.append(net(states[-1], t))
        k, s = min(order, i + 1), line.s
        new = slopes[-1]
        if method == "hb":
            new = lagrange_mean(s[i + 1 - k : i + 1].tolist(), slopes[-k:], s[i], s[i + 1])
        velocities.append(new if i == 0 else (1 - beta) * velocities[-1] + beta * new)
        step = velocities[-1]
        if method == "ghvb":
            powers = np.arange(k)[:, None]
            means = [np.arange(len(velocities)) ** powers @ shares for shares in slope_shares(betas[: i + 1])[-k:]]
            integrals = [((i + 1.0) ** (j + 1) - float(i) ** (j + 1)) / (j + 1) for j in range(k)]
            weights = np.linalg.solve(np.array(means).T, integrals)
            step = sum(w * u for w, u in zip(weights, velocities[-k:], strict=True))
        states.append(line.scale[i + 1] * (states[-1] / line.scale[i] + (s[i + 1] - s[i]) * step))
    plan = schedule(noise, times, momentum(method, order, betas))
    ours = toy.run(compile_program(plan, noise, "velocity" if line.flow else "noise"), net, toy.x0)
    assert toy.largest_gap(ours, states) < 1e-12


@NOISES
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_heavy_ball_without_damping_is_adams_bashforth_with_the_real_steps(noise: Noise, order: int) -> None:
    times = uniform_lambda(noise, 8)
    view: Any = "velocity" if isinstance(noise, Flow) else "noise"
    adams = [SolverStep(view=view, domain="sigma", order=min(order, i + 1)) for i in range(8)]
    a, b = (
        compile_program(schedule(noise, times, rows), noise, "noise")
        for rows in (momentum("hb", order, [1.0] * 8), adams)
    )
    np.testing.assert_allclose(a.output_coefs, b.output_coefs, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(a.state_coefs, b.state_coefs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_ghvb_without_damping_is_adams_bashforth_at_equal_steps(order: int) -> None:
    times = np.linspace(1000, 100, 10).tolist()
    adams = [SolverStep(view="velocity", domain="sigma", order=min(order, i + 1)) for i in range(10)]
    a, b = (
        compile_program(schedule(FLOW, times, rows), FLOW, "velocity")
        for rows in (momentum("ghvb", order, [1.0] * 10), adams)
    )
    np.testing.assert_allclose(a.output_coefs, b.output_coefs, rtol=0, atol=1e-13)


BETAS: dict[str, Callable[[int], Array]] = {
    "ramp": lambda n: np.linspace(0.5, 1.0, n),
    "alternating": lambda n: np.where(np.arange(n) % 2, 0.6, 1.0),
    "constant": lambda n: np.full(n, 0.5),
}


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("name", BETAS)
def test_ghvb_keeps_its_order_where_beta_changes(name: str, order: int) -> None:
    """On x' = cos 3 sigma + x / 2 with equal steps, from exact first states."""

    def slope(sigma: float, x: Any) -> Any:
        return np.cos(3 * sigma) + x / 2

    errors = []
    for n in (81, 161):
        times = np.linspace(900.0, 200.0, n)
        rows = momentum("ghvb", order, BETAS[name](n).tolist())
        program = compile_program(schedule(FLOW, times.tolist(), rows), FLOW, "velocity")
        exact = solve_ivp(slope, (0.9, 0.2), [1.0], t_eval=times / 1000, rtol=1e-12, atol=1e-13).y[0]
        states, outputs = exact[:order].tolist(), list[float]()
        for i in range(n - 1):
            outputs.append(slope(times[i] / 1000, states[i]))
            if i >= order - 1:
                on_states, on_outputs = program.state_coefs[i, : i + 1], program.output_coefs[i, : i + 1]
                states.append(float(on_states @ states + on_outputs @ outputs))
        errors.append(np.abs(states - exact).max())
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.2


def test_a_row_without_momentum_ends_the_velocity() -> None:
    times = uniform_lambda(FLOW, 5)
    plain = SolverStep(view="velocity", domain="sigma", order=1)
    rows = momentum("ghvb", 2, [0.5] * 5)
    broken = compile_program(schedule(FLOW, times, [*rows[:2], plain, *rows[3:]]), FLOW, "velocity")
    whole = compile_program(schedule(FLOW, times, rows), FLOW, "velocity")
    assert np.count_nonzero(whole.output_coefs[4]) == 5
    np.testing.assert_array_equal(np.flatnonzero(broken.output_coefs[4]), [3, 4])
    np.testing.assert_array_equal(np.flatnonzero(broken.output_coefs[3]), [3])


def test_every_momentum_row_follows_compensation(toy: Any) -> None:
    """A network whose slope is quadratic in time is extrapolated exactly, so that the ratio is seen in the slope."""
    times = (900.0, 800.0, 650.0, 500.0)
    plan = schedule(FLOW, times, momentum("ghvb", 1, [1.0] * 4))
    program = compile_program(replace(plan, compensation=(1, 1, 1, 1.4)), FLOW, "velocity")
    slopes = [(t / 1000) ** 2 for t in times]
    seen = 1.4 * times[3] - 0.4 * times[2]
    assert float(program.output_coefs[3] @ slopes) == pytest.approx(-0.5 * (seen / 1000) ** 2, abs=1e-12)


# BDIA.


@NOISES
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_bdia_equals_its_update_rule(toy: Any, noise: Noise, gamma: float) -> None:
    """x_{i+1} = x_{i-1} - gamma (x_{i-1} - x_i) - (1 - gamma) Delta(i to i-1) + Delta(i to i+1)."""
    times = uniform_lambda(noise, 9)
    line = Straight(noise, times)
    net = line.network(toy, noise)
    states = [toy.x0]
    for i, t in enumerate(times):
        x, slope = states[-1], net(states[-1], t)

        def increment(end: int, i: int = i, x: Array = x, slope: Array = slope) -> Array:
            ratio = line.scale[end] / line.scale[i]
            return np.asarray(ratio * x + line.scale[end] * (line.s[end] - line.s[i]) * slope - x)

        if i == 0:
            states.append(x + increment(1))
        else:
            back = states[i - 1]
            states.append(back - gamma * (back - x) - (1 - gamma) * increment(i - 1) + increment(i + 1))
    plan = schedule(noise, times, [BdiaStep(gamma=gamma)] * 9)
    kind: Any = "velocity" if line.flow else "noise"
    ours = toy.run(compile_program(plan, noise, kind), net, toy.x0)
    assert toy.largest_gap(ours, states) < 1e-12
    if gamma == 1.0:
        ddim = schedule(noise, times, make_solver("euler", 9, noise))
        assert toy.largest_gap(ours, toy.run(compile_program(ddim, noise, kind), net, toy.x0)) < 1e-12


@NOISES
@pytest.mark.parametrize("prediction", ["noise", "velocity", "data"])
@pytest.mark.parametrize("gamma", [0.0, 0.1])
def test_bdia_gives_back_the_starting_noise(toy: Any, noise: Noise, prediction: Any, gamma: float) -> None:
    times = uniform_lambda(noise, 10, t_start=900.0, t_end=50.0)
    program = compile_program(schedule(noise, times, [BdiaStep(gamma=gamma)] * 10), noise, prediction)
    net = toy.network(noise, prediction)
    states = toy.run(program, net, toy.x0)
    found = invert_program(program, net, states[-1], states[-2])
    assert toy.largest_gap([found], [toy.x0]) < 1e-10


@NOISES
def test_bdia_gives_back_the_starting_noise_in_single_precision(toy: Any, noise: Noise) -> None:
    times = uniform_lambda(noise, 10, t_start=900.0, t_end=50.0)
    line = Straight(noise, times)
    kind: Any = "velocity" if line.flow else "noise"
    program = compile_program(schedule(noise, times, [BdiaStep(gamma=0.1)] * 10), noise, kind)
    exact = line.network(toy, noise)

    def net(x: Any, t: float) -> Any:
        assert x.dtype == np.float32
        return exact(x, t).astype(np.float32)

    states, outputs = [toy.x0.astype(np.float32)], []
    for i in range(10):
        outputs.append(net(states[-1], times[i]))
        terms = [np.float32(a) * states[j] + np.float32(b) * outputs[j] for j, a, b in program.terms[i]]
        states.append(sum(terms[1:], terms[0]))
    found = invert_program(program, net, states[-1], states[-2])
    assert found.dtype == np.float32
    assert toy.largest_gap([found], [states[0]]) < 1e-5


@pytest.mark.parametrize(
    "rows",
    [[BdiaStep(gamma=1.0)] * 4, [SolverStep(view="velocity", domain="sigma", order=2)] * 4, [BdiaStep(gamma=0.2)]],
    ids=["ddim", "adams", "one step"],
)
def test_other_runs_can_not_be_inverted(rows: list[SolverRow]) -> None:
    program = compile_program(schedule(FLOW, uniform_lambda(FLOW, len(rows)), rows), FLOW, "velocity")
    with pytest.raises(ScheduleError, match="two or more BDIA steps with gamma below 1"):
        invert_program(program, lambda x, t: x, np.zeros(2), np.zeros(2))
