"""Costs of jumps against their definitions, and the grids of GITS and Align Your Steps on an exact network."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError
from autotune.spaces.noise_schedule import Flow
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_formula import Prediction
from autotune.spaces.solver_program import compile_program
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda
from autotune.spaces.trace import Trace
from autotune.spaces.traced_grid import ays, gits, jump_deviations, jump_errors, klub_costs

from .noise_cases import FLOW, LINEAR, SCALED, Noise, schedule

Array = NDArray[np.float64]
Grid = Callable[..., tuple[float, ...]]

KINDS: list[tuple[Noise, Prediction]] = [(LINEAR, "noise"), (SCALED, "velocity"), (FLOW, "velocity")]


def prediction_for(noise: Noise) -> Prediction:
    return "velocity" if isinstance(noise, Flow) else "noise"


def make_trace(states: Any, outputs: Any, times: Any) -> Trace:
    return Trace(
        timesteps=np.array(times),
        states=np.array(states, np.float32),
        outputs=np.array(outputs, np.float32),
    )


def teacher(toy: Any, noise: Noise, prediction: Prediction, times: tuple[float, ...], x0: Array) -> Trace:
    """A run of UniPC-3 with the exact network; samples of 4 elements."""
    net = toy.network(noise, prediction)
    program = compile_program(schedule(noise, times, make_solver("unipc-3", len(times), noise)), noise, prediction)
    states = toy.run(program, net, x0)
    outputs = [net(x, t) for x, t in zip(states, times, strict=False)]
    return make_trace(np.reshape(states, (len(states), -1, 4)), np.reshape(outputs, (len(outputs), -1, 4)), times)


@pytest.fixture(scope="module", params=KINDS, ids=["linear", "scaled", "flow"])
def case(request: pytest.FixtureRequest, toy: Any) -> tuple[Noise, Prediction, Trace]:
    noise, prediction = request.param
    return noise, prediction, teacher(toy, noise, prediction, uniform_lambda(noise, 40), toy.x0)


def test_a_network_that_is_right_at_once_makes_every_jump_free() -> None:
    data, eps = np.array([[0.6, -0.2]]), np.array([[-1.3, 0.4]])
    for noise in (LINEAR, FLOW):
        times = uniform_lambda(noise, 12)
        alpha, sigma = ([*map(float, f(times))] for f in (noise.alpha, noise.sigma))
        states = [a * data + s * eps for a, s in zip([*alpha, 1.0], [*sigma, 0.0], strict=True)]
        output = eps - data if isinstance(noise, Flow) else eps
        trace = make_trace(states, [output] * 12, times)
        for costs in (jump_errors, jump_deviations, klub_costs):
            np.testing.assert_allclose(costs(trace, noise, prediction_for(noise)), 0.0, atol=2e-5)


def test_a_jump_costs_how_far_the_first_order_step_ends_from_the_trajectory(
    case: tuple[Noise, Prediction, Trace],
) -> None:
    noise, prediction, trace = case
    costs = jump_errors(trace, noise, prediction)
    for i, j in ((0, 1), (0, 39), (5, 20), (38, 39)):
        times = trace.timesteps[[i, j]].tolist()
        program = compile_program(schedule(noise, times, make_solver("euler", 2, noise)), noise, prediction)
        reached = program.state_coefs[0, 0] * trace.states[i] + program.output_coefs[0, 0] * trace.outputs[i]
        expected = np.sqrt(((reached - trace.states[j]) ** 2).mean(axis=1)).mean()
        assert costs[i, j] == pytest.approx(expected, rel=1e-4, abs=2e-6)
    # The last jump, to the clean end, lands at the data prediction.
    time = (float(trace.timesteps[7]),)
    program = compile_program(schedule(noise, time, make_solver("euler", 1, noise)), noise, prediction)
    reached = program.state_coefs[0, 0] * trace.states[7] + program.output_coefs[0, 0] * trace.outputs[7]
    expected = np.sqrt(((reached - trace.states[-1]) ** 2).mean(axis=1)).mean()
    assert costs[7, 40] == pytest.approx(expected, rel=1e-4)
    assert not np.any(np.tril(costs))


def test_deviations_are_distances_to_the_chord(case: tuple[Noise, Prediction, Trace]) -> None:
    noise, prediction, trace = case
    costs = jump_deviations(trace, noise, prediction)
    scale = np.ones(41) if isinstance(noise, Flow) else np.append(noise.alpha(trace.timesteps), 1.0)
    y = trace.states / scale[:, None, None]

    def distance(point: Array, k: int) -> float:
        chord = y[0, k] - y[-1, k]
        along = np.dot(point - y[-1, k], chord) / np.dot(chord, chord)
        return float(np.linalg.norm(point - y[-1, k] - along * chord) / 2.0)  # a root mean square of 4 elements

    for i, j in ((0, 9), (4, 30), (20, 39)):
        times = trace.timesteps[[i, j]].tolist()
        program = compile_program(schedule(noise, times, make_solver("euler", 2, noise)), noise, prediction)
        reached = program.state_coefs[0, 0] * trace.states[i] + program.output_coefs[0, 0] * trace.outputs[i]
        gaps = [distance(reached[k] / scale[j], k) - distance(y[j, k], k) for k in range(trace.n_samples)]
        assert costs[i, j] == pytest.approx(np.mean(gaps), rel=1e-3, abs=2e-5)


def test_the_bound_is_the_integral_of_the_change_of_the_data_prediction(
    toy: Any, case: tuple[Noise, Prediction, Trace]
) -> None:
    noise, prediction, trace = case
    costs = klub_costs(trace, noise, prediction)
    lam = noise.lam(trace.timesteps)
    data = np.array(
        [
            toy.denoise(x.astype(np.float64), float(noise.alpha(t)), float(noise.sigma(t)))
            for x, t in zip(trace.states, trace.timesteps, strict=False)
        ]
    )
    for i, j in ((1, 2), (1, 30), (15, 38)):
        change = [np.exp(2 * lam[m]) * ((data[m] - data[i]) ** 2).mean() for m in range(i, j + 1)]
        assert costs[i, j] == pytest.approx(np.trapezoid(change, lam[i : j + 1]), rel=1e-2)
    np.testing.assert_array_equal(costs[:-2, -1], costs[:-2, -2])
    cut = klub_costs(trace, noise, prediction, t_end=float(trace.timesteps[25]))
    np.testing.assert_allclose(cut[:25, 26:], np.repeat(costs[:25, 25:26], 15, axis=1), rtol=1e-12)


def test_the_bound_does_not_depend_on_the_scale_of_the_state(toy: Any) -> None:
    """The same levels and trajectories, as a variance-preserving process and as a flow."""
    times = uniform_lambda(SCALED, 60, t_start=950.0)
    flow_times = tuple(FLOW.t_from_lam(SCALED.lam(times)).tolist())
    x0 = toy.x0
    preserving = teacher(toy, SCALED, "noise", times, x0)
    flow = teacher(toy, FLOW, "velocity", flow_times, x0 * float(FLOW.alpha(flow_times[0]) / SCALED.alpha(950.0)))
    one, other = klub_costs(preserving, SCALED, "noise"), klub_costs(flow, FLOW, "velocity")
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * one.max())
    assert ays(preserving, SCALED, "noise", 6) == pytest.approx(
        SCALED.t_from_lam(FLOW.lam(ays(flow, FLOW, "velocity", 6)))
    )


def terminal_error(toy: Any, noise: Noise, prediction: Prediction, name: str, times: Any, truth: Trace) -> float:
    n = len(times)
    program = compile_program(
        Schedule(n_steps=n, time=tuple(times), solver=make_solver(name, n, noise)), noise, prediction
    )
    sample = toy.run(program, toy.network(noise, prediction), toy.x0)[-1]
    return float(np.sqrt(((sample - truth.states[-1].ravel()) ** 2).mean()))


@pytest.mark.parametrize("name", ["euler", "dpmpp-2m"])
@pytest.mark.parametrize("grid", [gits, ays])
@pytest.mark.parametrize(("noise", "prediction"), [KINDS[0], KINDS[2]], ids=["linear", "flow"])
def test_planned_grids_beat_even_ones(toy: Any, noise: Noise, prediction: Prediction, grid: Grid, name: str) -> None:
    truth = teacher(toy, noise, prediction, uniform_lambda(noise, 100), toy.x0)
    ends = {"t_end": float(noise.t_from_lam(np.log(10.0)))} if grid is ays else {}  # at sigma = alpha / 10
    planned = grid(truth, noise, prediction, 5, **ends)
    assert len(planned) == 5
    assert planned[0] == noise.t_max
    assert np.all(np.diff(planned) < 0)
    assert set(planned) <= set(truth.timesteps.tolist())
    even = uniform_lambda(noise, 5)
    errors = [terminal_error(toy, noise, prediction, name, times, truth) for times in (planned, even)]
    assert errors[0] < errors[1]


def test_gits_is_the_least_sum_of_jump_errors(case: tuple[Noise, Prediction, Trace]) -> None:
    noise, prediction, trace = case
    costs = jump_errors(trace, noise, prediction)

    def total(times: tuple[float, ...]) -> float:
        nodes = [*(trace.timesteps.tolist().index(t) for t in times), 40]
        return float(sum(costs[i, j] for i, j in pairwise(nodes)))

    best = total(gits(trace, noise, prediction, 6, discount=1.0))
    rng = np.random.default_rng(0)
    for _ in range(200):
        nodes = np.sort(rng.choice(np.arange(1, 40), 5, replace=False))
        assert best <= total((trace.timesteps[0], *trace.timesteps[nodes].tolist()))
    assert best < total(gits(trace, noise, prediction, 6, discount=2.0))


def test_more_calls_than_levels_are_refused(case: tuple[Noise, Prediction, Trace]) -> None:
    noise, prediction, trace = case
    assert gits(trace, noise, prediction, 40) == tuple(trace.timesteps.tolist())
    with pytest.raises(ScheduleError, match="1 to 40 jumps; got 41"):
        gits(trace, noise, prediction, 41)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"timesteps": np.array([3.0, 5.0])}, "decrease"),
        ({"states": np.zeros((2, 1, 4), np.float32)}, "3 states and 2 outputs"),
        ({"outputs": np.full((2, 1, 4), np.nan, np.float32)}, "outputs of a trace must be finite"),
    ],
)
def test_a_trace_checks_itself(changes: dict[str, Any], words: str) -> None:
    good: dict[str, Any] = {
        "timesteps": np.array([5.0, 3.0]),
        "states": np.zeros((3, 1, 4), np.float32),
        "outputs": np.zeros((2, 1, 4), np.float32),
    }
    with pytest.raises(ValueError, match="read-only"):
        Trace(**good).states[0] = 1.0
    with pytest.raises(ScheduleError, match=words):
        Trace(**good | changes)
