"""DPM-Solver-v3: its special cases, its orders, and a model whose statistics are known."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.spaces.dpm_v3 import DpmV3Step, compile_dpm_v3, make_dpm_v3
from autotune.spaces.elementwise_program import ElementwiseProgram
from autotune.spaces.empirical_statistics import EmpiricalStatistics
from autotune.spaces.errors import ScheduleError
from autotune.spaces.mean_reverting import MeanReverting
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_formula import Prediction
from autotune.spaces.solver_program import compile_program
from autotune.spaces.solver_step import SolverStep, View
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

from .noise_cases import FLOW, LINEAR, SCALED, Noise
from .test_solver_order import exact_states

Array = NDArray[np.float64]
CENTRE, VARIANCE = 0.7, 0.3


def constant(l: float, s: float, b: float, shape: tuple[int, ...] = (2,)) -> EmpiricalStatistics:  # noqa: E741
    rows = (3, *shape)
    return EmpiricalStatistics(
        lam=np.array([-6.0, 0.0, 6.0]), l=np.full(rows, l), s=np.full(rows, s), b=np.full(rows, b)
    )


def dense(program: ElementwiseProgram, element: int = 0) -> tuple[Array, Array]:
    n = program.n_steps
    states, outputs = np.zeros((n, n)), np.zeros((n, n))
    for i, row in enumerate(program.terms):
        for j, a, b in row:
            states[i, j], outputs[i, j] = a.flat[element], b.flat[element]
    return states, outputs


def run(
    program: ElementwiseProgram, net: Callable[[Array, float], Array], x: Array, exact: Sequence[Array] = ()
) -> list[Array]:
    """All states; the first ones are replaced by `exact`."""
    states, outputs = [x], []
    for i in range(program.n_steps):
        states[i] = exact[i] if i < len(exact) else states[i]
        outputs.append(net(states[i], float(program.timesteps[i])))
        states.append(np.asarray(program.bias[i] + sum(a * states[j] + b * outputs[j] for j, a, b in program.terms[i])))
    return states


# Special cases.


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize(("view", "linear", "slope"), [("data", 1.0, 0.0), ("noise", 0.0, -1.0)])
@pytest.mark.parametrize(
    ("noise", "prediction"), [(LINEAR, "noise"), (SCALED, "velocity"), (FLOW, "velocity")], ids=["lin", "v", "flow"]
)
def test_constant_statistics_are_the_data_and_the_noise_form(
    noise: Noise,
    prediction: Prediction,
    view: View,
    linear: float,
    slope: float,
    corrector: bool,
) -> None:
    n = 8
    times = uniform_lambda(noise, n, t_start=990.0)
    steps = [DpmV3Step(order=min(3, i + 1, n - i), derivatives="full", corrector=corrector) for i in range(n - 1)]
    program = compile_dpm_v3(times, [*steps, DpmV3Step(order=1)], noise, prediction, constant(linear, slope, 0.0))
    rows = [SolverStep(view=view, domain="lambda", order=step.order, corrector=step.corrector) for step in steps]
    rows.append(SolverStep(view=view, domain="lambda", order=1))
    expected = compile_program(Schedule(n_steps=n, time=times, solver=tuple(rows)), noise, prediction)
    for element in (0, 1):
        states, outputs = dense(program, element)
        assert np.abs(states - expected.state_coefs).max() < 1e-12 * np.abs(expected.state_coefs).max()
        assert np.abs(outputs - expected.output_coefs).max() < 1e-12 * np.abs(expected.output_coefs).max()
    assert not np.any(program.bias)


def test_pseudo_order_two_is_order_two_and_three_takes_the_slope_of_the_nearest_point() -> None:
    times = uniform_lambda(LINEAR, 6)
    table = {
        (order, kind): dense(
            compile_dpm_v3(
                times, [DpmV3Step(order=order, derivatives=kind)] * 6, LINEAR, "noise", constant(1.0, 0.0, 0.0)
            )
        )[1]
        for order in (2, 3)
        for kind in ("full", "pseudo")
    }
    np.testing.assert_array_equal(table[2, "full"], table[2, "pseudo"])
    assert not np.allclose(table[3, "full"], table[3, "pseudo"])
    rows = (SolverStep(view="data", domain="lambda", order=3, slope_points=1),) * 6
    expected = compile_program(Schedule(n_steps=6, time=times, solver=rows), LINEAR, "noise").output_coefs
    assert np.abs(table[3, "pseudo"] - expected).max() < 1e-12 * np.abs(expected).max()


def test_elements_do_not_mix() -> None:
    rng, lam = np.random.default_rng(0), np.linspace(-5, 5, 6)
    l, s, b = (rng.uniform(-0.5, 0.8, (6, 2, 3)) for _ in range(3))  # noqa: E741
    times = uniform_lambda(LINEAR, 5)
    steps = make_dpm_v3(times, LINEAR, corrector_below=1.0)
    whole = compile_dpm_v3(times, steps, LINEAR, "noise", EmpiricalStatistics(lam=lam, l=l, s=s, b=b))
    one = EmpiricalStatistics(lam=lam, l=l[:, 1, 2], s=s[:, 1, 2], b=b[:, 1, 2])
    alone = compile_dpm_v3(times, steps, LINEAR, "noise", one)
    for got, expected in zip(dense(whole, 5), dense(alone), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-13)
    np.testing.assert_allclose([bias[1, 2] for bias in whole.bias], alone.bias, rtol=1e-13)


# Accuracy.


def gaussian(noise: Noise, t: float) -> tuple[float, float, float]:
    alpha, sigma = float(noise.alpha(t)), float(noise.sigma(t))
    return alpha, sigma, alpha**2 * VARIANCE + sigma**2


def gaussian_statistics(noise: Noise, n_levels: int) -> EmpiricalStatistics:
    """Those of clean images N(centre, variance): f = -l centre does not vary, so that b is its derivative."""
    lam = np.linspace(float(noise.lam(990.0)), float(noise.lam(1.0 if noise is FLOW else 0.0)), n_levels)
    ratio = np.exp(-2 * lam)
    l = ratio / (VARIANCE + ratio)  # noqa: E741
    b = 2 * ratio * VARIANCE / (VARIANCE + ratio) ** 2 * CENTRE
    return EmpiricalStatistics(lam=lam, l=l, s=np.zeros(n_levels), b=b)


def gaussian_error(noise: Noise, program: Any) -> float:
    def net(x: Array, t: float) -> Array:
        alpha, sigma, variance = gaussian(noise, t)
        return np.asarray(sigma * (x - alpha * CENTRE) / variance)

    x = np.linspace(-2.0, 2.0, 9)
    if not isinstance(program, ElementwiseProgram):
        terms = tuple(tuple((j, np.array(a), np.array(b)) for j, a, b in row) for row in program.terms)
        zeros = (np.zeros(()),) * program.n_steps
        program = ElementwiseProgram(timesteps=program.timesteps, terms=terms, bias=zeros)
    states = run(program, net, x)
    alpha, _, first = gaussian(noise, program.timesteps[0])
    end, _, last = gaussian(noise, program.timesteps[-1])
    exact = end * CENTRE + math.sqrt(last / first) * (x - alpha * CENTRE)
    return float(np.abs(states[-2] - exact).max())


@pytest.mark.parametrize("noise", [LINEAR, FLOW], ids=["vp", "flow"])
def test_on_gaussian_data_the_first_order_is_exact_up_to_the_grid_of_the_statistics(noise: Noise) -> None:
    times = uniform_lambda(noise, 5, t_start=990.0)
    errors = [
        gaussian_error(
            noise, compile_dpm_v3(times, [DpmV3Step(order=1)] * 5, noise, "noise", gaussian_statistics(noise, m))
        )
        for m in (33, 65, 129, 257)
    ]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(1.8 < slope < 2.3 for slope in slopes), (errors, slopes)
    plan = Schedule(n_steps=5, time=times, solver=make_solver("dpmpp-2m-heun", 5, noise))
    assert errors[-1] < gaussian_error(noise, compile_program(plan, noise, "noise")) / 100


@pytest.mark.parametrize("noise", [LINEAR, FLOW], ids=["vp", "flow"])
@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_measured_order_of_convergence(toy: Any, noise: Noise, order: int, corrector: bool) -> None:
    """With any constant l, s and b; the first states are exact, so that the warm-up has no part."""
    prediction: Prediction = "noise" if noise is LINEAR else "velocity"
    start, end, errors = (700.0, 100.0, []) if noise is LINEAR else (900.0, 200.0, [])
    fine = uniform_lambda(noise, 161, t_start=start, t_end=end)
    truth = exact_states(toy, noise, fine)
    for n in (40, 80, 160):
        exact = truth[:: 160 // n]
        times = fine[:: 160 // n]
        steps = [DpmV3Step(order=order, derivatives="full", corrector=corrector and 3 < i < n) for i in range(n + 1)]
        program = compile_dpm_v3(times, steps, noise, prediction, constant(0.6, -0.3, 0.2, ()))
        states = run(program, toy.network(noise, prediction), exact[0], exact[:4])
        errors.append(float(np.sqrt(((states[n] - exact[n]) ** 2).mean())))
    observed = [math.log2(a / b) for a, b in pairwise(errors)]
    expected = order + corrector
    assert expected - 0.15 < observed[-1] < expected + 0.35, observed


# Rows, and what is refused.


def test_the_half_corrector_acts_where_there_is_little_noise() -> None:
    times = (999.0, 800.0, 600.0, 499.5, 300.0, 100.0)
    steps = make_dpm_v3(times, LINEAR)
    assert [step.order for step in steps] == [1, 2, 3, 3, 2, 1]
    assert [step.corrector for step in steps] == [False, False, True, True, True, False]
    assert not any(step.corrector for step in make_dpm_v3(times, LINEAR, corrector_below=0.0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lam": np.array([0.0, -1.0, 1.0])}, "strictly increasing"),
        ({"l": np.full((3, 2), np.nan)}, "finite"),
        ({"s": np.zeros((3, 3))}, "shape of l"),
        ({"lam": np.array([0.0, 1.0])}, "row per level"),
    ],
)
def test_bad_statistics_are_refused(change: dict[str, Array], words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        replace(constant(1.0, 0.0, 0.0), **change)


def test_what_has_no_program_is_refused() -> None:
    statistics, step = constant(1.0, 0.0, 0.0), DpmV3Step(order=1)
    with pytest.raises(ScheduleError, match="row per timestep"):
        compile_dpm_v3((500.0, 100.0), [step], LINEAR, "noise", statistics)
    with pytest.raises(ScheduleError, match="decrease strictly"):
        compile_dpm_v3((500.0, 500.0), [step, step], LINEAR, "noise", statistics)
    noise = MeanReverting(drift="constant", stationary_std=1.0)
    with pytest.raises(ScheduleError, match="mean-reverting"):
        compile_dpm_v3((50.0,), [step], noise, "noise", statistics)
    with pytest.raises(ScheduleError, match=r"1\.\.3"):
        DpmV3Step(order=4)


def test_elementwise_programs_check_their_arrays() -> None:
    good = compile_dpm_v3((500.0, 100.0), [DpmV3Step(order=1)] * 2, LINEAR, "noise", constant(1.0, 0.0, 0.0))
    a = np.ones(2)
    with pytest.raises(ScheduleError, match="look ahead"):
        replace(good, terms=(((1, a, a),), ((1, a, a),)))
    with pytest.raises(ScheduleError, match="one shape"):
        replace(good, terms=(((0, np.ones(3), a),), ()))
    with pytest.raises(ScheduleError, match="finite"):
        replace(good, bias=(a, np.full(2, np.inf)))
    with pytest.raises(ScheduleError, match="per timestep"):
        replace(good, bias=(a,))
