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

from autotune.spaces.bdia_step import BdiaStep
from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import Inventory
from autotune.spaces.momentum_step import MomentumStep
from autotune.spaces.noise_schedule import Flow
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.solver_formula import Prediction
from autotune.spaces.solver_program import SolverProgram, compile_program
from autotune.spaces.solver_row import SolverRow
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
def solver_rows(draw: st.DrawFn, flow: bool, i: int, stochastic: bool, gains: bool) -> SolverRow:
    kind = draw(st.sampled_from(["unified"] * 6 + ["hb", "ghvb", "bdia"]))
    if kind == "bdia":
        return BdiaStep(gamma=draw(st.floats(0.0, 1.0)))
    if kind != "unified":
        return MomentumStep(method=kind, order=draw(st.integers(1, 4)), beta=draw(st.floats(0.1, 1.0)))  # type: ignore[arg-type]
    views: list[tuple[View, Domain]] = [
        ("data", "lambda"),
        ("noise", "lambda"),
        ("velocity", "sigma") if flow else ("noise", "sigma"),
    ]
    view, domain = draw(st.sampled_from(views))
    order, factors = draw(st.integers(1, 4)), st.sampled_from([1.0, 0.0, 0.5, 1.1, 2.0])
    tau = draw(st.sampled_from([0.0, 0.5, 1.0])) if stochastic and view == "data" else 0.0
    return SolverStep(
        view=view,
        domain=domain,
        order=order,
        relaxation=draw(st.sampled_from(["taylor", "b1", "b2"])),
        corrector=draw(st.booleans()) and not tau,
        slope_points=draw(st.none() | st.integers(1, 4)) if order > 1 else None,
        slope=draw(factors),
        curvature=draw(factors),
        state_gain=draw(factors) if gains else 1.0,
        output_gain=draw(factors) if gains else 1.0,
        origin=min(i, draw(st.sampled_from([0, 0, 0, 1, 2]))),
        stochastic=tau,
    )


@st.composite
def plans(draw: st.DrawFn, stochastic: bool = False, gains: bool = False) -> tuple[Schedule, Noise, Prediction]:
    choices: list[Noise] = [LINEAR, SCALED, FLOW, Flow()]
    noise = draw(st.sampled_from(choices))
    flow = isinstance(noise, Flow)
    prediction: Prediction = draw(st.sampled_from(["noise", "velocity", "data"]))
    eighths = st.integers(8, 8 * int(noise.t_max) - 1)
    levels = sorted((k / 8 for k in draw(st.sets(eighths, min_size=1, max_size=9))), reverse=True)
    start = draw(st.none() | st.floats(levels[0] + 0.01, noise.t_max))
    if start is None and draw(st.booleans()):
        levels[0] = noise.t_max
    times: list[float] = []
    rows: list[SolverRow] = []
    for k, t in enumerate(levels):
        times.append(t)
        rows.append(draw(solver_rows(flow, len(rows), stochastic, gains)))
        row = rows[-1]
        may_stay = k + 1 < len(levels) and row.origin > 0 and times[-1 - row.origin] != t
        if may_stay and draw(st.booleans()):  # an implicit corrector
            times.append(t)
            follower = draw(solver_rows(flow, len(rows), stochastic, gains))
            if isinstance(follower, SolverStep) and times[-1 - follower.origin] == t:
                follower = replace(follower, origin=0)
            rows.append(follower)
    ratios = tuple(draw(st.floats(0.5, 1.5)) for _ in times)
    return replace(schedule(noise, times, rows), compensation=ratios, start=start), noise, prediction


def outputs_on_a_line(
    prediction: Prediction, noise: Noise, levels: tuple[Array, Array], line: tuple[float, float]
) -> Array:
    """What the network puts out at the levels (alpha, sigma) if it knows one line = (x_0, noise)."""
    (alpha, sigma), (data, eps) = levels, line
    if prediction == "velocity":
        return eps - data + 0 * alpha if isinstance(noise, Flow) else alpha * eps - sigma * data
    return np.full_like(alpha, eps if prediction == "noise" else data)


@given(plans())
def test_every_recipe_compiles_to_a_finite_program_that_keeps_a_straight_line(
    case: tuple[Schedule, Noise, Prediction],
) -> None:
    """If the network knows one x_0 and one noise, every formula of any order stays on alpha x_0 + sigma eps."""
    plan, noise, prediction = case
    program = compile_program(plan, noise, prediction)
    assert np.all(np.isfinite(program.output_coefs))
    assert not np.any(np.triu(program.state_coefs, 1))
    assert not np.any(program.noise_coefs)
    data, eps = 0.6, -1.3
    sigma = noise.sigma(program.timesteps)
    alpha = noise.alpha(program.timesteps)
    states = alpha * data + sigma * eps
    outputs = outputs_on_a_line(prediction, noise, (alpha, sigma), (data, eps))
    reached = program.state_coefs @ states + program.output_coefs @ outputs
    size = np.abs(program.state_coefs).sum(axis=1) + np.abs(program.output_coefs).sum(axis=1)
    # Pure noise of a flow is clipped by 1e-6 where the formula needs lambda.
    clip = 1e-5 if isinstance(noise, Flow) and program.timesteps[0] > 999 else 0.0
    assert np.all(np.abs(reached - np.append(states[1:], data)) <= size * (1e-9 + clip))
    if plan.start is not None:
        assert program.initial_scale == pytest.approx(float(sigma[0] / noise.sigma(plan.start)))


@given(plans(stochastic=True))
def test_stochastic_recipes_keep_the_data_and_the_size_of_the_noise(case: tuple[Schedule, Noise, Prediction]) -> None:
    """From x = alpha X + sigma e, a network that knows X leads to alpha X and noise of the size of sigma."""
    plan, noise, _ = case
    assert plan.solver is not None
    assert plan.time is not None
    rows = [row for row in plan.solver if isinstance(row, SolverStep) and row.view == "data"]
    times = sorted(set(plan.time), reverse=True)[: len(rows)]
    steps = [replace(row, origin=0) for row in rows[: len(times)]]
    if not steps:
        return
    program = compile_program(schedule(noise, times, steps), noise, "data")
    sigma = np.append(np.minimum(noise.sigma(times), 1 - 1e-6) if isinstance(noise, Flow) else noise.sigma(times), 0.0)
    alpha = np.append(1 - sigma[:-1] if isinstance(noise, Flow) else noise.alpha(times), 1.0)
    kept = np.diagonal(program.state_coefs)
    np.testing.assert_allclose(kept * alpha[:-1] + program.output_coefs.sum(axis=1), alpha[1:], rtol=1e-9, atol=1e-9)
    carried = np.hypot(kept * sigma[:-1], program.noise_coefs)
    np.testing.assert_allclose(carried, sigma[1:], rtol=1e-9, atol=1e-12)


@given(plans(stochastic=True, gains=True))
def test_canonical_form_compiles_to_the_same_program(case: tuple[Schedule, Noise, Prediction]) -> None:
    plan, noise, prediction = case
    inventory = Inventory.__new__(Inventory)  # only the cache column reads it
    canonical = canonical_schedule(plan, inventory)
    assert canonical_schedule(canonical, inventory) == canonical
    first, second = (compile_program(p, noise, prediction) for p in (plan, canonical))
    np.testing.assert_array_equal(first.noise_coefs, second.noise_coefs)
    assert same_program(first, second)


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
