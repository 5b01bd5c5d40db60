"""Programs: special cases, compensation, any recipe, and what is refused."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import Inventory
from autotune.spaces.noise_schedule import Flow
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.solver_formula import Prediction
from autotune.spaces.solver_program import SolverProgram, compile_program
from autotune.spaces.solver_step import Domain, Relaxation, SolverStep, View
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import shifted_flow, uniform_lambda

from .noise_cases import FLOW, LINEAR, SCALED, Noise, named, schedule

Array = NDArray[np.float64]


def same_program(a: SolverProgram, b: SolverProgram, tolerance: float = 1e-12) -> bool:
    return all(
        float(np.abs(p - q).max()) <= tolerance * max(1.0, float(np.abs(q).max()))
        for p, q in ((a.state_coefs, b.state_coefs), (a.output_coefs, b.output_coefs))
    )


def uniform_steps(
    view: View, order: int, relaxation: Relaxation, domain: Domain = "lambda"
) -> Callable[[int], list[SolverStep]]:
    return lambda n: [SolverStep(view=view, domain=domain, order=order, relaxation=relaxation)] * n


@pytest.mark.parametrize("noise", [LINEAR, SCALED], ids=["linear", "scaled"])
def test_first_order_noise_and_data_forms_are_ddim(noise: Noise) -> None:
    times = uniform_lambda(noise, 10)
    expected = np.zeros((10, 10)), np.zeros((10, 10))
    for i, t in enumerate(times):
        a, s = float(noise.alpha(t)), float(noise.sigma(t))
        a_t, s_t = (float(noise.alpha(times[i + 1])), float(noise.sigma(times[i + 1]))) if i < 9 else (1.0, 0.0)
        expected[0][i, i], expected[1][i, i] = a_t / a, s_t - a_t * s / a
    for view in ("data", "noise"):
        program = compile_program(schedule(noise, times, uniform_steps(view, 1, "taylor")(10)), noise, "noise")
        assert np.abs(program.state_coefs / np.where(expected[0], expected[0], 1) - np.eye(10)).max() < 1e-11
        assert np.abs(program.output_coefs - expected[1]).max() < 1e-10


def test_first_order_on_a_flow_is_euler_in_every_form() -> None:
    times = shifted_flow(FLOW, 10)
    steps = np.diff(np.append(times, 0.0)) / 1000
    euler = compile_program(schedule(FLOW, times, make_solver("euler", 10, FLOW)), FLOW, "velocity")
    np.testing.assert_array_equal(euler.state_coefs, np.eye(10))
    np.testing.assert_allclose(euler.output_coefs, np.diag(steps), rtol=0, atol=1e-15)
    for view in ("data", "noise"):
        program = compile_program(schedule(FLOW, times, uniform_steps(view, 1, "taylor")(10)), FLOW, "velocity")
        np.testing.assert_allclose(program.state_coefs, np.eye(10), rtol=0, atol=1e-9)
        # Pure noise is clipped by 1e-6 where lambda is needed.
        np.testing.assert_allclose(program.output_coefs, np.diag(steps), rtol=0, atol=1.1e-6)


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
            assert toy.largest_gap(runs[0][1:], other[1:]) < 1e-9


def test_canonical_form_compiles_to_the_same_program() -> None:
    steps = [
        SolverStep(view="data", domain="lambda", order=4, relaxation="b1", corrector=True),
        SolverStep(view="noise", domain="sigma", order=3, relaxation="b2"),
        SolverStep(view="data", domain="lambda", order=3, relaxation="b1", corrector=True),
        SolverStep(view="noise", domain="lambda", order=2, relaxation="b2", corrector=True),
        SolverStep(view="noise", domain="lambda", order=3, relaxation="b2", corrector=True),
    ]
    plan = replace(schedule(LINEAR, uniform_lambda(LINEAR, 5), steps), compensation=(0.7, 0.6, 1.2, 1.0, 0.8))
    inventory = Inventory.__new__(Inventory)  # only the cache column reads it
    canonical = canonical_schedule(plan, inventory)
    assert canonical != plan
    first, second = (compile_program(p, LINEAR, "noise") for p in (plan, canonical))
    np.testing.assert_array_equal(first.output_coefs, second.output_coefs)
    np.testing.assert_array_equal(first.state_coefs, second.state_coefs)


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


# Any recipe.


@st.composite
def plans(draw: st.DrawFn) -> tuple[Schedule, Noise, Prediction]:
    choices: list[Noise] = [LINEAR, SCALED, FLOW, Flow()]
    noise = draw(st.sampled_from(choices))
    flow = isinstance(noise, Flow)
    prediction: Prediction = draw(st.sampled_from(["noise", "velocity", "data"]))
    eighths = st.integers(8, 8 * int(noise.t_max) - 1)
    times = sorted((k / 8 for k in draw(st.sets(eighths, min_size=1, max_size=9))), reverse=True)
    if draw(st.booleans()):
        times[0] = noise.t_max
    views: list[tuple[View, Domain]] = [
        ("data", "lambda"),
        ("noise", "lambda"),
        ("velocity", "sigma") if flow else ("noise", "sigma"),
    ]
    steps = []
    for _ in times:
        view, domain = draw(st.sampled_from(views))
        relaxation: Relaxation = draw(st.sampled_from(["taylor", "b1", "b2"]))
        order, corrector = draw(st.integers(1, 4)), draw(st.booleans())
        steps.append(SolverStep(view=view, domain=domain, order=order, relaxation=relaxation, corrector=corrector))
    ratios = tuple(draw(st.floats(0.5, 1.5)) for _ in times)
    return replace(schedule(noise, times, steps), compensation=ratios), noise, prediction


@given(plans())
def test_every_recipe_compiles_to_a_finite_program_that_keeps_a_straight_line(
    case: tuple[Schedule, Noise, Prediction],
) -> None:
    """If the network knows one x_0 and one noise, every formula of any order stays on alpha x_0 + sigma eps."""
    plan, noise, prediction = case
    program = compile_program(plan, noise, prediction)
    assert np.all(np.isfinite(program.output_coefs))
    assert not np.any(np.triu(program.state_coefs, 1))
    data, eps = 0.6, -1.3
    sigma = noise.sigma(program.timesteps)
    alpha = noise.alpha(program.timesteps)
    states = alpha * data + sigma * eps
    outputs = {
        "noise": np.full_like(states, eps),
        "data": np.full_like(states, data),
        "velocity": eps - data + 0 * states if isinstance(noise, Flow) else alpha * eps - sigma * data,
    }[prediction]
    reached = program.state_coefs @ states + program.output_coefs @ outputs
    size = np.abs(program.state_coefs).sum(axis=1) + np.abs(program.output_coefs).sum(axis=1)
    # Pure noise of a flow is clipped by 1e-6 where the formula needs lambda.
    clip = 1e-5 if isinstance(noise, Flow) and program.timesteps[0] > 999 else 0.0
    assert np.all(np.abs(reached - np.append(states[1:], data)) <= size * (1e-9 + clip))


# Errors and speed.


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


def test_compiling_a_hundred_steps_is_fast() -> None:
    plan = named("unipc-3", LINEAR, 100)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        compile_program(plan, LINEAR, "noise")
        seconds.append(time.process_time() - start)
    # 8 ms on a 2.5 GHz core.
    assert min(seconds) < 0.02
