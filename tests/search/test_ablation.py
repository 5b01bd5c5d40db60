"""Front members measured again without a column: which, how, and what becomes of it."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from autotune.evaluators.pool import InProcessPool
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.ablation import ablate_front, ablated_members
from autotune.search.budget import Budget
from autotune.search.clock import SimulatedClock
from autotune.search.study_plan import StudyPlan
from autotune.spaces.ablation import COLUMNS, Removal, removal_from_json, uses, without
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.errors import ScheduleError, StorageError, UsageError
from autotune.spaces.evaluation import Failure, Fidelity, Measurement
from autotune.spaces.front import pick, study_front
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.solvers import make_solver
from autotune.spaces.study_record import StudyRecord
from autotune.storage.database import Database
from autotune.storage.study_ablation import load_removals

from .conftest import make_plan, open_database
from .onlooker import make_loop


class Counting(TabulatedEvaluator):
    """Notes what it is asked to score."""

    def __init__(self) -> None:
        super().__init__()
        self.scored: list[tuple[Schedule, str, int]] = []

    def score(self, schedule: Schedule, fidelity: Fidelity, *, repeats: int = 1) -> Measurement | Failure:
        self.scored.append((schedule, fidelity.name, repeats))
        return super().score(schedule, fidelity, repeats=repeats)


OWN = TabulatedEvaluator().own_timesteps(20)


def given(evaluator: TabulatedEvaluator) -> Iterator[tuple[str, Schedule]]:
    """A solver with a cache, the same with fitted ratios, and a cache alone."""
    for n, every in ((10, 2), (14, 2), (20, 3)):
        table = np.ones((n, len(evaluator.inventory)), np.uint8)
        table[::every] = 0
        table[-2:] = 0
        cache = CachePlan.from_array(table)
        solver = make_solver("unipc-2", n, evaluator.condition.noise_schedule)
        both = Schedule(n_steps=n, time=evaluator.own_timesteps(n), solver=solver, cache=cache)
        yield f"both {n}", both
        yield f"fitted {n}", dataclasses.replace(both, compensation=(1.1,) * n)
        yield f"cache {n}", Schedule(n_steps=n, cache=cache)


@pytest.fixture(scope="module")
def plan() -> StudyPlan:
    evaluator = TabulatedEvaluator()
    schedules = tuple((label, canonical_schedule(s, evaluator.inventory)) for label, s in given(evaluator))
    return make_plan(Budget(evaluations=20), family="given", given=schedules)


@pytest.fixture(scope="module")
def database(plan: StudyPlan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database with a study of the given schedules and their rivals, done and verified."""
    with open_database(tmp_path_factory.mktemp("given") / "study.db", plan, TabulatedEvaluator()) as database:
        make_loop(plan, TabulatedEvaluator(), database, SimulatedClock()).run()
        yield database


@pytest.fixture(scope="module")
def record(plan: StudyPlan, database: Database) -> StudyRecord:
    return database.load_study(plan.name)


def test_each_column_is_measured_away_once_as_the_verification_measures(
    plan: StudyPlan, database: Database, record: StudyRecord
) -> None:
    evaluator, told = Counting(), []
    removals = ablate_front(
        record, ablated_members(record, 5), plan, InProcessPool(evaluator), database,
        lambda done, total, what: told.append((done, total, what)),
    )  # fmt: skip
    members = {c.schedule_hash: c for c in ablated_members(record, 5)}
    expected = [(h, name) for h, c in members.items() for name in COLUMNS if uses(c.schedule, name)]
    assert [(r.member, r.column) for r in removals] == expected
    assert {name for _, name in expected} >= {"solver", "time", "fit", "cache"}
    for removal in removals:
        own = members[removal.member].schedule
        rest = without(own, removal.column, record.inventory, evaluator.own_timesteps(own.n_steps))
        assert rest.n_steps == own.n_steps
        own_times = rest.time == evaluator.own_timesteps(own.n_steps)
        assert own_times if removal.column == "time" else not uses(rest, removal.column)
        assert removal.evaluation is not None
        repeats = plan.verification.repeats
        assert removal.evaluation.outcome == evaluator.score(rest, plan.held_out, repeats=repeats)
    n_told = len({r.key for r in removals})
    assert [(done, total) for done, total, _ in told] == [(i + 1, n_told) for i in range(n_told)]
    assert told[0][2].endswith("without " + removals[0].column)


def test_nothing_is_measured_twice(plan: StudyPlan, database: Database, record: StudyRecord) -> None:
    pool = InProcessPool(TabulatedEvaluator())
    members = ablated_members(record, 3)
    first = ablate_front(record, members, plan, pool, database)
    evaluator = Counting()
    again = ablate_front(record, members, plan, InProcessPool(evaluator), database)
    assert evaluator.scored == []
    assert again == first == load_removals(database, record)
    elsewhere = dataclasses.replace(record, condition=dataclasses.replace(record.condition, device="another card"))
    for other in (elsewhere, dataclasses.replace(record, name="another")):
        assert load_removals(database, other) == ()


def test_the_picks_come_first_and_the_others_span_the_front(record: StudyRecord) -> None:
    front = [c for c in study_front(record) if c.family != "baseline"]
    picks = {c.number for c in pick(front, record).values()}
    chosen = [c.number for c in ablated_members(record, len(picks) + 1)]
    assert set(chosen[: len(picks)]) == picks
    assert len(chosen) == min(len(front), len(picks) + 1)
    everything = ablated_members(record, 1000)
    assert {c.number for c in everything} == {c.number for c in front if c.held_out is not None}


def test_a_removal_that_leaves_rows_for_other_calls_is_left_out_with_its_reason(
    plan: StudyPlan, database: Database, record: StudyRecord
) -> None:
    class CallsOnceMore(TabulatedEvaluator):
        def own_timesteps(self, n_steps: int) -> tuple[float, ...]:
            own = super().own_timesteps(n_steps)
            return (*own, own[-1] / 2)

    removals = ablate_front(record, ablated_members(record, 1000), plan, InProcessPool(CallsOnceMore()), database)
    members = {c.schedule_hash: c.schedule for c in ablated_members(record, 1000)}
    for removal in removals:
        schedule = members[removal.member]
        rows = (schedule.cache or schedule.guidance) is not None
        meaningless = removal.column == "time" or (removal.column == "solver" and rows)
        assert (removal.key is None) == meaningless
        if meaningless:
            n = schedule.n_steps
            solver = f"calls the network {n + 1} times in {n} steps, and the other columns have {n} rows"
            time = f"time must have one row per step; got {n + 1} rows for {n} steps"
            assert (time if removal.column == "time" else solver) in removal.reason
    assert any(removal.reason for removal in removals)


def test_fits_go_with_the_solver_and_alone(record: StudyRecord) -> None:
    solver = next(c.schedule for c in record.candidates if c.schedule.time is not None and c.schedule.n_steps > 3)
    fitted = dataclasses.replace(solver, compensation=(1.1,) * solver.n_steps)
    own = TabulatedEvaluator().own_timesteps(solver.n_steps)
    assert without(fitted, "fit", record.inventory, own) == dataclasses.replace(fitted, compensation=None)
    bare = without(fitted, "solver", record.inventory, own)
    assert (bare.time, bare.solver, bare.compensation) == (None, None, None)


def test_times_first_step_and_factors_go_alone(record: StudyRecord) -> None:
    own = TabulatedEvaluator().own_timesteps(6)
    plain = tuple(SolverStep(view="data", domain="lambda", order=min(2, i + 1)) for i in range(6))
    rows = (dataclasses.replace(plain[0], output_gain=1.1), *plain[1:])
    times = tuple(0.9 * t + 50.0 for t in own)
    schedule = Schedule(n_steps=6, time=times, solver=rows, start=1000.0)
    assert all(uses(schedule, column) for column in ("time", "start", "factors"))
    for column, changes in (
        ("factors", {"solver": plain}),
        ("start", {"start": None}),
        ("time", {"time": own, "start": None}),
    ):
        expected = dataclasses.replace(schedule, **changes)
        assert without(schedule, column, record.inventory, own) == canonical_schedule(expected, record.inventory)
    assert not uses(dataclasses.replace(schedule, solver=plain), "factors")


def test_a_table_goes_alone_if_none_was_fitted_on_it_and_keeps_what_it_was_fitted_to() -> None:
    evaluator, table = TabulatedEvaluator(), np.zeros((20, 1), np.uint8)
    inventory = evaluator.inventory
    table[1::2] = 1
    cache = CachePlan.from_array(np.repeat(table, len(inventory), axis=1))
    tables = Schedule(n_steps=20, cache=cache, quantization="a" * 64, cache_correction="b" * 64)
    assert uses(tables, "precision")
    rest = without(tables, "cache correction", inventory, OWN)
    assert rest.tables == {"quantization": "a" * 64}
    assert without(rest, "precision", inventory, OWN) == canonical_schedule(tables.without_tables, inventory)
    with pytest.raises(ScheduleError, match="table of cache_correction was fitted together with the precision"):
        without(tables, "precision", inventory, OWN)
    with pytest.raises(ScheduleError, match="table of quantization was fitted together with the cache"):
        without(rest, "cache", inventory, OWN)


def test_a_removal_of_another_version_is_refused() -> None:
    good = Removal(member="a", column="cache", schedule_hash="b", key="c").to_json()
    assert removal_from_json(good) == Removal(member="a", column="cache", schedule_hash="b", key="c")
    with pytest.raises(StorageError, match="another form here"):
        removal_from_json(good | {"weight": 1})
    with pytest.raises(StorageError, match=r"one of solver, time, .*, guidance; got 'clock'"):
        removal_from_json(good | {"column": "clock"})


@pytest.mark.parametrize("n", [0, -1])
def test_a_number_of_members_that_is_not_positive_is_refused(record: StudyRecord, n: int) -> None:
    with pytest.raises(UsageError, match=f"at least 1; got {n}"):
        ablated_members(record, n)


def test_a_study_that_was_not_verified_is_refused(record: StudyRecord) -> None:
    bare = dataclasses.replace(
        record, candidates=tuple(dataclasses.replace(c, held_out=None) for c in record.candidates)
    )
    with pytest.raises(UsageError, match="held-out values; study 's' has none: resume it"):
        ablated_members(bare, 3)
