"""The mean-reverting process against its own differential equations, and programs on it against exact solutions."""

import json
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad, solve_ivp

from autotune.spaces.errors import ScheduleError
from autotune.spaces.mean_reverting import MeanReverting
from autotune.spaces.noise_schedule import noise_schedule_from_json
from autotune.spaces.schedule import Schedule
from autotune.spaces.schedule_file import SCHEMA_PATH
from autotune.spaces.solver_formula import Prediction
from autotune.spaces.solver_program import SolverProgram, compile_program
from autotune.spaces.solver_step import SolverStep, View
from autotune.spaces.solvers import SOLVERS, make_solver
from autotune.spaces.time_grid import uniform_lambda

Array = NDArray[np.float64]

CONSTANT = MeanReverting(drift="constant", stationary_std=0.4)
COSINE = MeanReverting(drift="cosine", stationary_std=1.7, alpha_end=0.01, n_train=1000)
DEGRADED, CENTRE, VARIANCE = 2.0, 0.6, 0.3
"""The image that the process reverts to; mean and variance of clean images."""


def rate(noise: MeanReverting, t: float) -> float:
    """f(t), from the definition of each form."""

    def shape(u: float) -> float:
        def bar(v: float) -> float:
            return math.cos((v + 0.008) / 1.008 * math.pi / 2) ** 2

        return 1.0 if noise.drift == "constant" else 1.0 - bar(u) / bar(0.0)

    return -math.log(noise.alpha_end) * shape(t / noise.n_train) / (float(quad(shape, 0, 1)[0]) * noise.n_train)


@pytest.mark.parametrize("noise", [CONSTANT, COSINE], ids=["constant", "cosine"])
def test_levels_solve_the_forward_equation(noise: MeanReverting) -> None:
    times = noise.n_train * np.array([0.0, 0.02, 0.3, 0.7, 1.0])

    def moments(t: float, y: Array) -> Array:
        f = rate(noise, t)
        return np.array([-f * y[0], -2 * f * y[1] + 2 * noise.stationary_std**2 * f])

    solved = solve_ivp(moments, (0, noise.t_max), [1.0, 0.0], "DOP853", times, rtol=1e-10, atol=1e-13).y
    np.testing.assert_allclose(noise.alpha(times), solved[0], rtol=1e-8)
    np.testing.assert_allclose(noise.sigma(times) ** 2, solved[1], rtol=1e-7, atol=1e-12)
    assert float(noise.alpha(noise.t_max)) == pytest.approx(noise.alpha_end)


@pytest.mark.parametrize("noise", [CONSTANT, COSINE], ids=["constant", "cosine"])
@given(fraction=st.floats(0.002, 1.0))
def test_lambda_is_the_log_ratio_and_has_an_inverse(noise: MeanReverting, fraction: float) -> None:
    t = fraction * noise.t_max
    assert float(noise.lam(t)) == pytest.approx(math.log(float(noise.alpha(t) / noise.sigma(t))), abs=1e-10)
    assert float(noise.t_from_lam(noise.lam(t))) == pytest.approx(t, rel=1e-8)


@pytest.mark.parametrize("noise", [CONSTANT, COSINE], ids=["constant", "cosine"])
def test_json_round_trip(noise: MeanReverting) -> None:
    assert noise_schedule_from_json(noise.to_json()) == noise


def test_the_published_schema_knows_the_process() -> None:
    fields = json.loads(SCHEMA_PATH.read_text())["properties"]["condition"]["properties"]
    jsonschema.validate(COSINE.to_json(), fields["noise_schedule"])


@pytest.mark.parametrize(
    ("change", "words"),
    [({"drift": "linear"}, "drift"), ({"stationary_std": 0.0}, "above 0"), ({"alpha_end": 1.0}, "alpha_end")],
)
def test_bad_values_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        noise_schedule_from_json({**CONSTANT.to_json(), **change})


# Programs.


def spread(noise: MeanReverting, t: Any) -> tuple[Array, Array]:
    """Mean and variance of x_t over clean images."""
    alpha, sigma = noise.alpha(t), noise.sigma(t)
    return alpha * CENTRE + (1 - alpha) * DEGRADED, alpha**2 * VARIANCE + sigma**2


def network(noise: MeanReverting, prediction: Prediction) -> Callable[[Array, float], Array]:
    """The exact network for Gaussian clean images: linear in x."""

    def call(x: Array, t: float) -> Array:
        mean, variance = spread(noise, t)
        eps = noise.sigma(t) * (x - mean) / variance
        data = (x - (1 - noise.alpha(t)) * DEGRADED - noise.sigma(t) * eps) / noise.alpha(t)
        return np.asarray(eps if prediction == "noise" else data)

    return call


def run(program: SolverProgram, net: Callable[[Array, float], Array], x: Array, *, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    assert program.mean_coefs is not None
    states, outputs = [x], []
    for i in range(program.n_steps):
        outputs.append(net(states[i], float(program.timesteps[i])))
        after = program.mean_coefs[i] * DEGRADED + sum(a * states[j] + b * outputs[j] for j, a, b in program.terms[i])
        if program.noise_coefs[i]:
            after = after + program.noise_coefs[i] * rng.standard_normal(x.shape)
        states.append(np.asarray(after))
    return states


def program_of(noise: MeanReverting, n: int, step: SolverStep, prediction: Prediction) -> SolverProgram:
    times = uniform_lambda(noise, n, t_end=0.02 * noise.n_train)
    return compile_program(Schedule(n_steps=n, time=times, solver=(step,) * n), noise, prediction)


@pytest.mark.parametrize("noise", [CONSTANT, COSINE], ids=["constant", "cosine"])
def test_the_exact_trajectory_solves_the_probability_flow_equation(noise: MeanReverting) -> None:
    """dx = f (mean - x) dt - g^2 / 2 score dt, in t and in x; the order tests compare with its solution."""
    end = 0.02 * noise.n_train

    def flow(t: float, x: Array) -> Array:
        mean, variance = spread(noise, t)
        f = rate(noise, t)
        return np.asarray(f * (DEGRADED - x) + noise.stationary_std**2 * f * (x - mean) / variance)

    x = np.array([-1.0, 2.5])
    solved = solve_ivp(flow, (noise.t_max, end), x, "DOP853", rtol=1e-9, atol=1e-11).y[:, -1]
    np.testing.assert_allclose(transported(noise, x, noise.t_max, end), solved, rtol=1e-7)


def transported(noise: MeanReverting, x: Array, start: float, end: float) -> Array:
    (mean, variance), (mean_end, variance_end) = spread(noise, start), spread(noise, end)
    return np.asarray(mean_end + np.sqrt(variance_end / variance) * (x - mean))


@pytest.mark.parametrize("noise", [CONSTANT, COSINE], ids=["constant", "cosine"])
@pytest.mark.parametrize("prediction", ["noise", "data"])
@pytest.mark.parametrize("view", ["noise", "data"])
@pytest.mark.parametrize("order", [1, 2])
def test_measured_orders(noise: MeanReverting, prediction: Prediction, view: View, order: int) -> None:
    x, errors = np.linspace(-1.0, 4.0, 7), []
    for n in (80, 160, 320):
        program = program_of(noise, n, SolverStep(view=view, domain="lambda", order=order), prediction)
        states = run(program, network(noise, prediction), x)
        errors.append(float(np.abs(states[-2] - transported(noise, x, noise.t_max, program.timesteps[-1])).max()))
    observed = [math.log2(a / b) for a, b in pairwise(errors)]
    assert order - 0.1 < observed[-1] < order + 0.3, observed


def test_second_order_stochastic_samples_have_the_exact_marginals() -> None:
    """Up to 4 standard errors of 200 000 samples."""
    n_samples, n_steps = 200_000, 50
    program = program_of(CONSTANT, n_steps, SolverStep(view="data", domain="lambda", order=2, stochastic=1.0), "noise")
    mean, variance = spread(CONSTANT, CONSTANT.t_max)
    x = mean + np.sqrt(variance) * np.random.default_rng(1).standard_normal(n_samples)
    states = run(program, network(CONSTANT, "noise"), x)
    for i in (n_steps // 2, n_steps - 1):
        mean, variance = spread(CONSTANT, program.timesteps[i])
        assert abs(states[i].mean() - mean) < 4 * math.sqrt(variance / n_samples)
        assert abs(states[i].var() - variance) < 4 * variance * math.sqrt(2 / n_samples)
    # The data prediction at the last level: what the noise there leaves of the clean image's spread.
    t = program.timesteps[-1]
    kept = CONSTANT.alpha(t) ** 2 * VARIANCE**2 / spread(CONSTANT, t)[1]
    assert abs(states[-1].mean() - CENTRE) < 4 * math.sqrt(VARIANCE / n_samples)
    assert abs(states[-1].var() - kept) < 4 * kept * math.sqrt(2 / n_samples)


def test_first_order_stochastic_marginals_converge_at_order_one() -> None:
    """Mean and variance of the linear map x -> x_{i+1} that the exact network makes of a step, without sampling."""
    step, errors = SolverStep(view="data", domain="lambda", order=1, stochastic=1.0), []
    net = network(CONSTANT, "noise")
    for n in (100, 200, 400):
        program = program_of(CONSTANT, n, step, "noise")
        assert program.mean_coefs is not None
        mean, variance = spread(CONSTANT, CONSTANT.t_max)
        for i in range(n - 1):
            ((_, a, b),) = program.terms[i]
            at_mean, above = net(np.array([mean, mean + 1.0]), float(program.timesteps[i]))
            mean = a * mean + b * at_mean + program.mean_coefs[i] * DEGRADED
            variance = (a + b * (above - at_mean)) ** 2 * variance + program.noise_coefs[i] ** 2
        exact_mean, exact_variance = spread(CONSTANT, program.timesteps[-1])
        assert mean == pytest.approx(float(exact_mean), rel=1e-9)
        errors.append(abs(float(variance - exact_variance)))
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([1.0, 1.0], abs=0.1)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_point_mass_stays_where_it_is_under_every_solver(name: str) -> None:
    """Of one clean image and one noise, every formula of any order stays on the forward process."""
    times = uniform_lambda(COSINE, 9)
    program = compile_program(Schedule(n_steps=9, time=times, solver=make_solver(name, 9, COSINE)), COSINE, "noise")
    alpha, sigma = COSINE.alpha(times), COSINE.sigma(times)
    states = alpha * CENTRE + (1 - alpha) * DEGRADED + sigma * 1.3
    assert program.mean_coefs is not None
    reached = program.state_coefs @ states + program.output_coefs @ np.full(9, 1.3) + program.mean_coefs * DEGRADED
    np.testing.assert_allclose(reached, np.append(states[1:], CENTRE), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["velocity", "start"])
def test_what_has_no_meaning_is_refused(kind: Literal["velocity", "start"]) -> None:
    times = uniform_lambda(CONSTANT, 3, t_start=80.0)
    plan = Schedule(
        n_steps=3, time=times, solver=make_solver("euler", 3, CONSTANT), start=100.0 if kind == "start" else None
    )
    with pytest.raises(ScheduleError, match="no velocity prediction and no analytic start"):
        compile_program(plan, CONSTANT, "velocity" if kind == "velocity" else "noise")


def test_timestep_zero_has_no_noise_and_is_refused() -> None:
    plan = Schedule(n_steps=2, time=(50.0, 0.0), solver=make_solver("euler", 2, CONSTANT))
    with pytest.raises(ScheduleError, match=r"time\[1\] must lie in \(0, 100\]"):
        compile_program(plan, CONSTANT, "noise")
