"""Errors on a trace against the true ones, of data for which the network is known: unit Gaussian, so X = s_t x."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.spaces.noise_schedule import NoiseSchedule
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_formula import Prediction, levels_of, view_of_output
from autotune.spaces.solver_program import SolverProgram, compile_program
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda
from autotune.spaces.trace import Trace
from autotune.spaces.traced_run import MAX_ELEMENTS, RESPONSES, TracedRun

from .conftest import Toy
from .noise_cases import FLOW, SCALED

Array = NDArray[np.float64]

CASES: list[tuple[NoiseSchedule, Prediction]] = [
    (FLOW, "velocity"), (SCALED, "noise"), (SCALED, "velocity"), (SCALED, "data"),
]  # fmt: skip


def network(x: Array, t: float, noise: NoiseSchedule, prediction: Prediction) -> Array:
    """What the exact network of unit Gaussian data puts out."""
    levels = levels_of((t,), noise)
    alpha, sigma = levels.alpha[0], levels.sigma[0]
    on_state, on_output = view_of_output("data", prediction, alpha, sigma, levels.flow)
    return (alpha / (alpha**2 + sigma**2) - on_state) / on_output * x


def trace_of(noise: NoiseSchedule, prediction: Prediction, n_elements: int = 8) -> Trace:
    """The exact trajectories: x_t is sqrt(alpha^2 + sigma^2) times a constant."""
    times = uniform_lambda(noise, 60)
    levels = levels_of(times, noise)
    z = np.random.default_rng(0).standard_normal((3, n_elements))
    states = np.hypot(levels.alpha, levels.sigma)[:, None, None] * z
    outputs = np.array([network(x, t, noise, prediction) for x, t in zip(states, times, strict=False)])
    return Trace(timesteps=np.array(times), states=states.astype(np.float32), outputs=outputs.astype(np.float32))


def program_of(noise: NoiseSchedule, prediction: Prediction, solver: str, calls: Sequence[float]) -> SolverProgram:
    """A solver whose calls lie at, or between, some of the trace's levels."""
    times = np.interp(calls, np.arange(60), uniform_lambda(noise, 60)).tolist()
    rows = make_solver(solver, len(calls), noise)
    return compile_program(Schedule(n_steps=len(calls), time=tuple(times), solver=rows), noise, prediction)


def true_log_error(
    toy: Toy, program: SolverProgram, trace: Trace, noise: NoiseSchedule, prediction: Prediction
) -> float:
    start = program.initial_scale * trace.states[0].astype(np.float64)
    sample = toy.run(program, lambda x, t: network(x, t, noise, prediction), start)[-1]
    off = np.linalg.norm(sample - trace.states[-1], axis=1) / np.linalg.norm(trace.states[-1], axis=1)
    return float(np.log(1e-4 + off.mean()))


@pytest.mark.parametrize(("noise", "prediction"), CASES)
@pytest.mark.parametrize("solver", ["euler", "unipc-2", "ab2"])
def test_with_the_response_of_a_gaussian_the_error_is_the_true_one(
    toy: Toy, noise: NoiseSchedule, prediction: Prediction, solver: str
) -> None:
    trace = trace_of(noise, prediction)
    program = program_of(noise, prediction, solver, (0, 14, 25, 33, 47))
    errors = TracedRun(trace, noise, prediction).log_errors(program)
    assert errors[RESPONSES.index(1.0)] == pytest.approx(
        true_log_error(toy, program, trace, noise, prediction), abs=2e-3
    )
    assert len(set(np.round(errors, 6))) == len(RESPONSES)


@pytest.mark.parametrize(("noise", "prediction"), CASES)
def test_between_traced_levels_it_is_nearly_so(toy: Toy, noise: NoiseSchedule, prediction: Prediction) -> None:
    trace = trace_of(noise, prediction)
    program = program_of(noise, prediction, "unipc-2", (0, 14.5, 25.5, 33.3, 47.7))
    errors = TracedRun(trace, noise, prediction).log_errors(program)
    assert errors[RESPONSES.index(1.0)] == pytest.approx(
        true_log_error(toy, program, trace, noise, prediction), abs=0.1
    )


def test_a_finer_program_has_less_error_at_every_response() -> None:
    run = TracedRun(trace_of(FLOW, "velocity"), FLOW, "velocity")
    coarse = run.log_errors(program_of(FLOW, "velocity", "ab2", (0, 20, 40)))
    fine = run.log_errors(program_of(FLOW, "velocity", "ab2", tuple(range(0, 60, 3))))
    assert np.all(fine < coarse - 1.0)


def test_an_analytic_start_scales_the_noise() -> None:
    run = TracedRun(trace_of(FLOW, "velocity"), FLOW, "velocity")
    plain = program_of(FLOW, "velocity", "euler", (10, 20, 40))
    scaled = run.log_errors(replace(plain, initial_scale=0.5))
    assert not np.allclose(scaled, run.log_errors(plain))


def test_large_samples_are_thinned_out() -> None:
    """Elements are alike, so that the error of some stands for that of all."""
    whole = TracedRun(trace_of(FLOW, "velocity", 5 * MAX_ELEMENTS), FLOW, "velocity")
    assert whole._states.shape[-1] <= MAX_ELEMENTS
    program = program_of(FLOW, "velocity", "ab2", (0, 14, 25, 33, 47))
    small = TracedRun(trace_of(FLOW, "velocity", MAX_ELEMENTS), FLOW, "velocity")
    np.testing.assert_allclose(whole.log_errors(program), small.log_errors(program), atol=0.05)
