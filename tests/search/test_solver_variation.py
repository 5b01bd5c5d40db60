"""Variation of solver schedules: whatever the chain of operators, the offspring is a schedule that runs."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.spaces.noise_cases import COSINE, FLOW, REVERTING, SCALED

from autotune.search import solver_variation
from autotune.search.solver_variation import SolverVariation
from autotune.spaces.mean_reverting import MeanReverting
from autotune.spaces.noise_schedule import NoiseSchedule
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_formula import Prediction
from autotune.spaces.solver_program import compile_program
from autotune.spaces.solver_step import SolverStep, View
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

STARTED: tuple[tuple[NoiseSchedule, Prediction, float], ...] = (
    (SCALED, "noise", 999.0), (SCALED, "noise", 951.0), (COSINE, "velocity", 999.0), (FLOW, "velocity", 1000.0),
)  # fmt: skip
"""Where an analytic first step exists."""
CASES = (*STARTED, *((noise, "noise", noise.t_max) for noise in REVERTING))
SOLVERS = ("unipc-3", "ab2", "euler", "ghvb-2.8", "bdia", "heun", "dpmpp-2s", "dpmpp-3s")
Array = NDArray[np.float64]
Rng = np.random.Generator


def plan_on(noise: NoiseSchedule, start: float, n: int = 6, solver: str = "unipc-3", end: float = 3.0) -> Schedule:
    times = uniform_lambda(noise, n, t_start=start, t_end=end)
    return Schedule(n_steps=n, time=times, solver=make_solver(solver, n, noise))


def check(schedule: Schedule, noise: NoiseSchedule, prediction: Prediction, start: float) -> None:
    time, solver = schedule.solver_columns
    assert len(time) == len(solver) == schedule.n_steps
    assert np.all(np.diff(time) < 0)
    assert time[-1] >= (0.0 if float(noise.sigma(0.0)) else 1.0)
    if schedule.start is None:
        assert time[0] == start
    else:
        assert schedule.start == start
        assert time[0] < start
    program = compile_program(schedule, noise, prediction)
    assert np.all(np.isfinite(program.output_coefs))


@pytest.mark.parametrize(
    ("noise", "prediction", "start", "with_start"),
    [(*case, False) for case in CASES] + [(*case, True) for case in STARTED],
)
def test_chains_of_mutations_and_crossings_stay_valid(
    noise: NoiseSchedule, prediction: Prediction, start: float, with_start: bool
) -> None:
    variation = SolverVariation(noise, start)
    rng = np.random.default_rng(0)
    pool = [plan_on(noise, start, solver=solver) for solver in SOLVERS]
    if with_start:
        pool = [variation.toggle_start(plan, rng) for plan in pool]
    for _ in range(200):
        first, second = (pool[int(i)] for i in rng.integers(len(pool), size=2))
        child = variation.mutate(variation.cross(first, second, rng), rng)
        check(child, noise, prediction, start)
        assert (child.start is not None) == with_start
        pool[int(rng.integers(len(pool)))] = child


@pytest.mark.parametrize(("noise", "prediction", "start"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_chains_of_all_operators_stay_valid(
    noise: NoiseSchedule, prediction: Prediction, start: float, seed: int
) -> None:
    variation = SolverVariation(noise, start)
    rng = np.random.default_rng(seed)
    solver = ("unipc-3", "dpmpp-3s", "heun")[seed]
    operators: dict[str, Callable[[Schedule, Rng], Schedule]] = {
        "mutate": variation.mutate,
        "moved_step": variation.moved_step,
        "toggle_start": variation.toggle_start,
        "lengthened": variation.lengthened,
        "shortened": variation.shortened,
    }
    schedule = plan_on(noise, start, solver=solver)
    for _ in range(200):
        names = [name for name in operators if name != "shortened" or schedule.n_steps > 2]
        if schedule.n_steps >= 12:
            names.remove("lengthened")
        name = names[int(rng.integers(len(names)))]
        changed = operators[name](schedule, rng)
        check(changed, noise, prediction, start)
        grows = {"lengthened": 1, "shortened": -1}
        assert changed.n_steps == schedule.n_steps + grows.get(name, 0)
        toggles = name == "toggle_start" and not isinstance(noise, MeanReverting)
        assert (changed.start is None) == ((schedule.start is None) != toggles)
        schedule = changed


@pytest.mark.parametrize(("noise", "prediction", "start"), CASES)
def test_a_step_is_inserted_between_neighbours_and_left_out_of_them(
    noise: NoiseSchedule, prediction: Prediction, start: float
) -> None:
    variation = SolverVariation(noise, start)
    plan = plan_on(noise, start)
    time, _ = plan.solver_columns
    for seed in range(10):
        rng = np.random.default_rng(seed)
        longer, _ = variation.lengthened(plan, rng).solver_columns
        kept = [t for t in time if np.isclose(longer, t, rtol=1e-9).any()]
        assert len(kept) == len(time)
        shorter, _ = variation.shortened(plan, rng).solver_columns
        assert set(shorter) < set(time)
        assert shorter[0] == time[0]


@pytest.mark.parametrize("guided", [False, True])
def test_guidance_varies_only_where_there_is_some(guided: bool) -> None:
    variation, rng = SolverVariation(SCALED, 999.0, guided=guided), np.random.default_rng(0)
    schedule = plan_on(SCALED, 999.0)
    for _ in range(20):
        schedule = variation.mutate(schedule, rng)
    gains = {row.guidance_gain for row in schedule.solver_columns[1] if isinstance(row, SolverStep)}
    assert gains == {1.0} or guided
    assert len(gains) > 1 or not guided
    assert all(0.5 < gain < 1.5 for gain in gains)


def test_times_reach_below_the_first_trained_timestep_and_stay_within_the_levels() -> None:
    variation, rng = SolverVariation(SCALED, 999.0), np.random.default_rng(0)
    schedule = plan_on(SCALED, 999.0, end=0.5)
    lowest = []
    for _ in range(100):
        schedule = variation.mutate(schedule, rng)
        check(schedule, SCALED, "noise", 999.0)
        lowest.append(schedule.solver_columns[0][-1])
    assert 0.0 <= min(lowest) < 0.5


def test_an_analytic_start_is_taken_back_exactly() -> None:
    variation = SolverVariation(FLOW, 1000.0)
    plan = plan_on(FLOW, 1000.0)
    there = variation.toggle_start(plan, np.random.default_rng(0))
    assert there.start == 1000.0
    assert variation.toggle_start(there, np.random.default_rng(1)) == plan


@pytest.mark.parametrize(("noise", "prediction", "start"), CASES)
@pytest.mark.parametrize("solver", ["euler", "dpmpp-2m", "dpmpp-3m", "ab2", "ghvb-2.8"])
def test_an_enriched_schedule_is_the_same_program(
    noise: NoiseSchedule, prediction: Prediction, start: float, solver: str
) -> None:
    variation, plan = SolverVariation(noise, start), plan_on(noise, start, solver=solver)
    richer = variation.enriched(plan)
    first, second = (compile_program(p, noise, prediction) for p in (plan, richer))
    np.testing.assert_allclose(first.state_coefs, second.state_coefs, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(first.output_coefs, second.output_coefs, rtol=1e-9, atol=1e-12)
    rows = [row for row in richer.solver_columns[1] if isinstance(row, SolverStep)]
    assert all(row.order == 3 for row in rows)
    assert len(rows) == (0 if solver == "ghvb-2.8" else 6)


@pytest.mark.parametrize(("noise", "prediction", "start"), CASES)
@pytest.mark.parametrize("view", ["data", "noise"])
def test_an_enriched_schedule_keeps_the_factors_of_its_last_row(
    noise: NoiseSchedule, prediction: Prediction, start: float, view: View
) -> None:
    variation, plan = SolverVariation(noise, start), plan_on(noise, start, solver="euler")
    _, rows = plan.solver_columns
    last = SolverStep(view=view, domain="lambda", order=1, state_gain=1.0 if view == "data" else 0.97, output_gain=1.05)
    plan = replace(plan, solver=(*rows[:-1], last))
    first, second = (compile_program(p, noise, prediction) for p in (plan, variation.enriched(plan)))
    np.testing.assert_allclose(first.state_coefs, second.state_coefs, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(first.output_coefs, second.output_coefs, rtol=1e-9, atol=1e-12)


def test_a_last_row_whose_gain_would_pass_the_limit_stays_in_lambda() -> None:
    plan = Schedule(n_steps=1, start=1000.0, time=(999.0,), solver=make_solver("euler", 1, FLOW))
    row = SolverStep(view="noise", domain="lambda", order=1, state_gain=1.5, output_gain=0.5)
    (richer,) = SolverVariation(FLOW, 1000.0).enriched(replace(plan, solver=(row,))).solver_columns[1]
    assert isinstance(richer, SolverStep)
    assert richer.form == row.form


def test_variation_is_drawn_from_the_given_generator_alone() -> None:
    variation, plan = SolverVariation(SCALED, 999.0), plan_on(SCALED, 999.0)
    first = [variation.mutate(plan, np.random.default_rng(4)) for _ in range(2)]
    assert first[0] == first[1] != plan
    assert variation.mutate(plan, np.random.default_rng(5)) != first[0]


def test_every_choice_of_the_space_is_reached() -> None:
    variation, rng = SolverVariation(FLOW, 1000.0), np.random.default_rng(0)
    schedule = plan_on(FLOW, 1000.0, solver="ghvb-2.8")
    names = ("view", "domain", "order", "corrector", "slope_points", "relaxation")
    seen: dict[str, set[object]] = {name: set() for name in names}
    for _ in range(2000):
        schedule = variation.mutate(schedule, rng)
        _, solver = schedule.solver_columns
        for step in solver:
            for name, values in seen.items():
                if hasattr(step, "view"):
                    values.add(getattr(step, name))
    assert seen["view"] == {"data", "noise", "velocity"}
    assert seen["domain"] == {"lambda", "sigma"}
    assert {1, 2, 3, 4} <= seen["order"]
    assert seen["corrector"] == {True, False}
    assert {0, 1, 2, 3} <= seen["slope_points"]
    assert seen["relaxation"] == {"taylor", "b1", "b2"}


def test_small_mutations_are_small() -> None:
    """Half of the offspring differ little: times by less than a tenth of a gap."""
    variation, plan = SolverVariation(SCALED, 999.0), plan_on(SCALED, 999.0)
    lam = SCALED.lam(np.array(plan.time))
    gap = float(np.diff(lam).mean())
    moves = []
    for seed in range(200):
        child = variation.mutate(plan, np.random.default_rng(seed))
        moves.append(float(np.abs(SCALED.lam(np.array(child.time)) - lam).max()) / gap)
    assert np.median(moves) < 0.15
    assert np.max(moves) > 0.5


def test_crossed_times_come_with_their_start_and_formulas_whole() -> None:
    variation = SolverVariation(SCALED, 999.0)
    plain = replace(plan_on(SCALED, 999.0, end=5.0), solver=make_solver("ab2", 6, SCALED))
    started = variation.toggle_start(plan_on(SCALED, 999.0), np.random.default_rng(0))
    children = [variation.cross(started, plain, np.random.default_rng(seed)) for seed in range(200)]
    assert {(child.time, child.start) for child in children} == {(p.time, p.start) for p in (started, plain)}
    from_second = np.mean([child.start is None for child in children])
    assert from_second == pytest.approx(0.5, abs=0.12)
    for i, parents in enumerate(zip(started.solver_columns[1], plain.solver_columns[1], strict=True)):
        rows = [child.solver_columns[1][i] for child in children]
        assert set(rows) == set(parents)
        assert np.mean([row == parents[0] for row in rows]) == pytest.approx(0.5, abs=0.12)


def test_times_of_equal_starts_are_often_mixed() -> None:
    variation = SolverVariation(SCALED, 999.0)
    first, second = plan_on(SCALED, 999.0), plan_on(SCALED, 999.0, end=30.0)
    rng = np.random.default_rng(0)
    times = [variation.cross(first, second, rng).time for _ in range(800)]
    shares = [times.count(parent.time) / 800 for parent in (first, second)]
    assert shares == pytest.approx([0.25, 0.25], abs=0.06)


@pytest.fixture
def _no_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times and factors that walk stay where they are, but for 1e-9."""
    monkeypatch.setattr(solver_variation, "SCALES", (1e-12, 1e-12))


@pytest.mark.usefixtures("_no_walk")
def test_one_offspring_in_twenty_has_a_step_moved_and_two_in_five_a_choice_redrawn() -> None:
    variation, plan = SolverVariation(SCALED, 999.0), plan_on(SCALED, 999.0, n=7)
    plan = replace(plan, solver=(SolverStep(view="data", domain="lambda", order=2),) * 7)
    time, steps = plan.solver_columns
    names = ("view", "domain", "order", "relaxation", "corrector", "slope_points")
    moved, redrawn = [], []
    for seed in range(1500):
        child_time, child = variation.mutate(plan, np.random.default_rng(seed)).solver_columns
        moved.append(not np.allclose(child_time, time, rtol=1e-6))
        kept = [sum(np.isclose(child_time, t, rtol=1e-6)) for t in time]
        assert kept.count(0) <= 1
        changed = sum(any(getattr(a, k) != getattr(b, k) for k in names) for a, b in zip(child, steps, strict=True))
        assert changed <= 1
        redrawn.append(changed)
    assert np.mean(moved) == pytest.approx(0.05, abs=0.015)
    assert 0.25 < np.mean(redrawn) < 0.4  # a choice drawn anew may come out as it was


@pytest.mark.parametrize("noise", [SCALED, FLOW], ids=["scaled", "flow"])
def test_times_move_in_lambda_and_as_far_to_either_side(noise: NoiseSchedule) -> None:
    """Of levels far apart, moves that are even in timesteps would be lopsided and larger at one end than the other."""
    start = noise.t_max
    plan = plan_on(noise, start, n=4, solver="euler", end=5.0)
    lam = noise.lam(np.array(plan.solver_columns[0][1:]))
    gap = float(lam[1] - lam[0])
    variation, rng = SolverVariation(noise, start), np.random.default_rng(0)
    children: list[Array] = []
    while len(children) < 1500:
        times = np.array(variation.mutate(plan, rng).solver_columns[0][1:])
        moves = (noise.lam(times) - lam) / gap
        if np.abs(moves).max() < 0.5:  # no step moved
            children.append(moves[:2])
    moved = [column[np.abs(column) > 1e-9] for column in np.array(children).T]
    low, high = np.array([np.quantile(column, [0.1, 0.9]) for column in moved]).T
    np.testing.assert_allclose(-low, high, rtol=0.25)
    assert high[0] == pytest.approx(high[1], rel=0.25)
