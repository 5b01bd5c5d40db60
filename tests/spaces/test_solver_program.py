"""Programs: special cases, compensation, what is refused, and how long compiling takes."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError
from autotune.spaces.noise_schedule import FLOW_START
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_formula import Prediction
from autotune.spaces.solver_program import compile_program
from autotune.spaces.solver_step import Domain, Relaxation, SolverStep, View
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import shifted_flow, uniform_lambda

from .noise_cases import COSINE, FLOW, LINEAR, SCALED, Noise, named, same_program, schedule

Array = NDArray[np.float64]


def uniform_steps(
    view: View, order: int, relaxation: Relaxation, domain: Domain = "lambda"
) -> Callable[[int], list[SolverStep]]:
    return lambda n: [SolverStep(view=view, domain=domain, order=order, relaxation=relaxation)] * n


@pytest.mark.parametrize("view", ["data", "noise"])
@pytest.mark.parametrize("noise", [LINEAR, SCALED, COSINE], ids=["linear", "scaled", "cosine"])
def test_first_order_noise_and_data_forms_are_ddim(noise: Noise, view: View) -> None:
    times = uniform_lambda(noise, 10)
    alpha, sigma = np.append(noise.alpha(times), 1.0), np.append(noise.sigma(times), 0.0)
    program = compile_program(schedule(noise, times, uniform_steps(view, 1, "taylor")(10)), noise, "noise")
    kept = alpha[1:] / alpha[:-1]
    np.testing.assert_allclose(program.state_coefs, np.diag(kept), rtol=1e-12)
    np.testing.assert_allclose(program.output_coefs, np.diag(sigma[1:] - kept * sigma[:-1]), rtol=1e-12)


def test_first_order_on_a_flow_is_euler() -> None:
    times = shifted_flow(FLOW, 10)
    euler = compile_program(schedule(FLOW, times, make_solver("euler", 10, FLOW)), FLOW, "velocity")
    np.testing.assert_array_equal(euler.state_coefs, np.eye(10))
    np.testing.assert_allclose(euler.output_coefs, np.diag(np.diff(np.append(times, 0.0)) / 1000), rtol=1e-12)


@pytest.mark.parametrize("view", ["data", "noise"])
def test_first_order_in_lambda_on_a_flow_is_euler_too(view: View) -> None:
    """From pure noise up to its clipping by 1e-6, where lambda is needed; 1 - sigma keeps ten digits there."""
    times = shifted_flow(FLOW, 11)
    steps = np.diff(np.append(np.minimum(times, 1000.0 * FLOW_START), 0.0)) / 1000
    for first, tolerance in ((1, 1e-12), (0, 1e-9)):
        n = len(times) - first
        program = compile_program(schedule(FLOW, times[first:], uniform_steps(view, 1, "taylor")(n)), FLOW, "velocity")
        np.testing.assert_allclose(program.state_coefs, np.eye(n), rtol=tolerance)
        np.testing.assert_allclose(program.output_coefs, np.diag(steps[first:]), rtol=tolerance)


def test_order_two_with_b2_is_the_midpoint_form_and_without_the_taylor_form() -> None:
    times = uniform_lambda(LINEAR, 10)
    for name, relaxation in (("dpmpp-2m", "b2"), ("dpmpp-2m-heun", "taylor")):
        steps = uniform_steps("data", 2, relaxation)(10)  # type: ignore[arg-type]
        unified = compile_program(schedule(LINEAR, times, steps), LINEAR, "noise")
        recipe = compile_program(schedule(LINEAR, times, make_solver(name, 10, LINEAR)), LINEAR, "noise")
        assert same_program(unified, recipe)


def test_order_three_does_not_depend_on_relaxation() -> None:
    b2, b1 = (compile_program(named(name, LINEAR, 12), LINEAR, "noise") for name in ("unipc-3", "unipc-3-b1"))
    # Row 1 has order 2 and a first-order corrector before it; from row 4 on to the tail both are identical.
    for i in range(4, 10):
        np.testing.assert_allclose(b2.output_coefs[i], b1.output_coefs[i], rtol=0, atol=1e-13)
    assert not same_program(b2, b1)


def test_prediction_kinds_give_the_same_run(toy: Any) -> None:
    kinds: tuple[Prediction, ...] = ("noise", "velocity", "data")
    for noise in (LINEAR, FLOW):
        times = uniform_lambda(noise, 8, t_start=990.0)
        plan = schedule(noise, times, make_solver("unipc-3", 8, noise))
        plan = replace(plan, compensation=(1, 1, 1.1, 0.9, 1.2, 1, 0.8, 1.1))
        runs = [toy.run(compile_program(plan, noise, kind), toy.network(noise, kind), toy.x0) for kind in kinds]
        for other in runs[1:]:
            assert toy.largest_gap(runs[0][1:], other[1:]) < 1e-12


def test_the_history_is_as_short_as_the_formula() -> None:
    cases: list[tuple[str, Noise, Prediction, int, int]] = [
        ("euler", FLOW, "velocity", 0, 0),
        ("ab2", FLOW, "velocity", 0, 1),
        ("ab3", LINEAR, "noise", 0, 2),
        ("dpmpp-2m", LINEAR, "noise", 1, 1),
        ("unipc-2", LINEAR, "data", 0, 2),
        ("unipc-3", FLOW, "velocity", 3, 3),
    ]
    for name, noise, prediction, states_kept, outputs_kept in cases:
        program = compile_program(named(name, noise, 12), noise, prediction)
        assert max(last - j for j, last in enumerate(program.state_last_used)) == states_kept, name
        assert max(last - j for j, last in enumerate(program.output_last_used)) == outputs_kept, name


@pytest.mark.parametrize(
    ("noise", "times", "step", "words"),
    [
        (LINEAR, (999.0, 500.0), ("velocity", "sigma"), "velocity view needs a flow"),
        (FLOW, (1000.0, 500.0), ("noise", "sigma"), "no sigma-domain form on a flow"),
        (LINEAR, (999.5, 500.0), ("data", "lambda"), r"time\[0\] must lie in \[0, 999\]"),
        (FLOW, (1000.0, 0.0), ("data", "lambda"), r"time\[1\] must lie in \(0, 1000\]"),
        (FLOW, (1000.0, 999.9999), ("data", "lambda"), "different noise levels"),
    ],
)
def test_impossible_schedules_are_refused(
    noise: Noise, times: tuple[float, ...], step: tuple[View, Domain], words: str
) -> None:
    steps = [SolverStep(view=step[0], domain=step[1], order=1)] * 2
    with pytest.raises(ScheduleError, match=words):
        compile_program(schedule(noise, times, steps), noise, "velocity")


def test_a_program_needs_a_solver_column() -> None:
    with pytest.raises(ScheduleError, match="time and solver"):
        compile_program(Schedule(n_steps=3), LINEAR, "noise")


def test_coefficients_that_can_not_be_computed_with_are_refused() -> None:
    """Ratios within their bounds multiply up; where timesteps are far apart, the message does not blame them."""
    plan = named("euler", FLOW, 12)
    with pytest.raises(ScheduleError, match=r"solver\[\d+\] must be at most 1e\+09 .*; lower its order"):
        compile_program(replace(plan, compensation=(10.0,) * 12), FLOW, "velocity")


@pytest.mark.parametrize("low", [1e-308, 5e-324])
def test_levels_that_overflow_are_refused(low: float) -> None:
    plan = schedule(FLOW, (1000.0, 500.0, low), [SolverStep(view="noise", domain="lambda", order=2)] * 3)
    with pytest.raises(ScheduleError, match=r"solver\[1\] must be at most 1e\+09 in size; got (inf|nan)"):
        compile_program(plan, FLOW, "velocity")


def test_programs_check_their_tables() -> None:
    good = compile_program(named("euler", FLOW, 3), FLOW, "velocity")
    with pytest.raises(ScheduleError, match="lower triangular"):
        replace(good, output_coefs=np.ones((3, 3)))
    with pytest.raises(ScheduleError, match="finite"):
        replace(good, state_coefs=np.full((3, 3), np.nan))
    with pytest.raises(ScheduleError, match="shape"):
        replace(good, state_coefs=np.zeros((2, 3)))
    with pytest.raises(ValueError, match="read-only"):
        good.output_coefs[0, 0] = 1.0


def test_compiling_takes_time_in_proportion_to_the_steps() -> None:
    """Milliseconds, whatever the machine: a schedule is compiled at each of a search's many turns."""

    def seconds(n: int) -> float:
        plan = named("unipc-3", LINEAR, n)
        measured = []
        for _ in range(7):
            start = time.process_time()
            compile_program(plan, LINEAR, "noise")
            measured.append(time.process_time() - start)
        return min(measured)

    # 4.5 as measured; 16 if every step looked at all before it.
    assert seconds(100) < 9.0 * seconds(25)
