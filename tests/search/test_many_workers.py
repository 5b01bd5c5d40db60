"""A study on many workers, simulated ones: budgets, losses, resuming, the ladder."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from autotune.evaluators.job import Job, ScoreJob
from autotune.evaluators.pool import InProcessPool
from autotune.evaluators.simulated_pool import SimulatedPool
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.budget import Budget
from autotune.search.clock import SimulatedClock
from autotune.search.dispatcher import Dispatcher, Request
from autotune.search.ladder import LadderSettings
from autotune.search.study import StudyLoop
from autotune.search.study_plan import StudyPlan
from autotune.spaces.evaluation import Failure, FailureKind, Fidelity
from autotune.spaces.front import calibration_front, study_front
from autotune.spaces.schedule import Schedule, schedule_hash
from autotune.spaces.study_record import StudyRecord, StudyState

from .onlooker import MakePlan, Onlooker, OpenStudy, make_loop

SIXTEEN = Fidelity(name="calibration", prompts=tuple("abcdefghijklmnop"), seeds=tuple(range(16)))

RunOn = Callable[..., StudyRecord]


@pytest.fixture
def run_on(open_study: OpenStudy) -> RunOn:
    """A function that runs a plan on so many workers."""

    def run(plan: StudyPlan, n_workers: int, clock: SimulatedClock | None = None, **options: object) -> StudyRecord:
        clock = clock or SimulatedClock()
        evaluator = TabulatedEvaluator()
        database = open_study("many", plan, evaluator)
        pool = SimulatedPool(evaluator, clock, n_workers, duration_s=lambda job: 0.1, **options)  # type: ignore[arg-type]
        assert StudyLoop(plan, pool, database, clock).run() is StudyState.DONE
        return database.load_study(plan.name)

    return run


def calls(record: StudyRecord) -> int:
    """Network calls of a study's calibration."""
    found = [c.calibration.measurement for c in record.candidates]
    return sum(m.network_calls * m.n_prompts for m in found if m is not None)


@pytest.mark.parametrize("family", ["ecad", "s3", "optuna", "dc", "fewer-steps", "random"])
def test_every_family_keeps_eight_workers_within_its_budget(family: str, plan: MakePlan, run_on: RunOn) -> None:
    clock = SimulatedClock()
    record = run_on(plan(Budget(evaluations=60), family), 8, clock)
    assert [c.number for c in record.candidates] == list(range(60))
    assert len({c.schedule_hash for c in record.candidates}) == 60
    assert {c.family for c in record.candidates} <= {"baseline", "fewer-steps", "policies", family}
    assert study_front(record)
    measured = [c.calibration.measurement for c in record.candidates]
    worker_s = sum(m.wall_s for m in measured if m is not None)
    if family in ("ecad", "random"):  # the others wait for fits, or for results
        assert clock.now() < 0.6 * worker_s


@pytest.mark.parametrize("limit", [600, 1000, 2345])
def test_network_calls_under_way_count(limit: int, plan: MakePlan, run_on: RunOn) -> None:
    record = run_on(plan(Budget(network_calls=limit), "random"), 7)
    assert limit - 40 < calls(record) <= limit


def test_a_wall_budget_is_kept_by_many_workers(plan: MakePlan, run_on: RunOn) -> None:
    clock = SimulatedClock()
    study = plan(Budget(wall_s=20.0), "random", objectives=("latency", "deviation"))
    record = run_on(study, 5, clock)
    assert 0.8 * 20.0 <= clock.now() <= 20.0
    assert record.device_s == pytest.approx(5 * clock.now())
    assert any(c.held_out is not None for c in record.candidates[1:])


def test_money_is_spent_by_the_worker_and_hour(plan: MakePlan, run_on: RunOn) -> None:
    clock = SimulatedClock()
    budget = Budget(cost=0.05, price_per_hour=3.6)  # 50 seconds of a worker
    run_on(plan(budget, "random", objectives=("latency", "deviation")), 5, clock)
    assert 8.0 <= clock.now() <= 10.0


def test_what_is_lost_with_a_worker_is_made_again(plan: MakePlan, run_on: RunOn) -> None:
    seen: set[Job] = set()

    def loses(job: Job, worker: int) -> str | None:
        first = job not in seen
        seen.add(job)
        is_hit = isinstance(job, ScoreJob) and job.schedule.n_steps % 2 == 1
        return "the machine burnt down" if is_hit and first else None

    undisturbed = run_on(replace(plan(), name="t"), 1)
    record = run_on(plan(), 1, loses=loses, replaces=True)
    assert [(c.schedule_hash, c.calibration.outcome) for c in record.candidates] == [
        (c.schedule_hash, c.calibration.outcome) for c in undisturbed.candidates
    ]


def test_what_takes_three_workers_along_is_given_up(plan: MakePlan, run_on: RunOn) -> None:
    n_lost = 0

    def loses(job: Job, worker: int) -> str | None:
        nonlocal n_lost
        is_hit = isinstance(job, ScoreJob) and job.schedule.n_steps == 7
        n_lost += is_hit
        return f"fire {n_lost}" if is_hit else None

    record = run_on(plan(), 4, loses=loses, replaces=True)
    hit = [c.calibration.outcome for c in record.candidates if c.schedule.n_steps == 7]
    assert n_lost == 3 * len(hit) > 0
    for outcome in hit:
        assert isinstance(outcome, Failure)
        assert outcome.kind is FailureKind.LOST
        assert outcome.reason.count("fire") == 3
    assert len(record.candidates) == 40


def test_a_study_of_many_workers_goes_on_with_fewer(open_study: OpenStudy, plan: MakePlan, onlooker: Onlooker) -> None:
    evaluator, clock = TabulatedEvaluator(), SimulatedClock()
    database = open_study("many", plan(), evaluator)
    pool = SimulatedPool(evaluator, clock, 8)
    loop = StudyLoop(plan(), pool, database, clock, progress=onlooker, interrupt=lambda: len(onlooker.events) >= 20)
    assert loop.run() is StudyState.INTERRUPTED
    before = database.load_study("s").candidates
    assert 20 <= len(before) <= 28  # what was under way is finished
    make_loop(plan(), evaluator, database, SimulatedClock()).run()
    after = database.load_study("s").candidates
    assert len(after) == 40
    assert [(c.number, c.schedule_hash) for c in after[: len(before)]] == [(c.number, c.schedule_hash) for c in before]
    assert len({c.schedule_hash for c in after}) == 40


@pytest.mark.parametrize("n_workers", [1, 6])
def test_the_ladder_saves_calls_and_keeps_the_front_whole(n_workers: int, plan: MakePlan, run_on: RunOn) -> None:
    ladder = LadderSettings()
    study = replace(plan(Budget(evaluations=120)), calibration=SIXTEEN, ladder=ladder)
    record = run_on(study, n_workers)
    counts = [m.n_prompts for c in record.candidates if (m := c.calibration.measurement) is not None]
    assert {1, 16} <= set(counts) <= set(ladder.rungs(16))
    assert counts[0] == 16
    whole = [c.schedule_hash for c in record.whole]
    assert {c.schedule_hash for c in calibration_front(record)} <= set(whole)
    off = replace(study, name="t", ladder=LadderSettings(first=16))
    without = run_on(off, n_workers)
    assert len(without.whole) == len(without.candidates)
    assert calls(record) < 0.7 * calls(without)


def test_a_candidate_that_climbs_costs_what_a_whole_measurement_costs(plan: MakePlan, open_study: OpenStudy) -> None:
    study = replace(plan(Budget(evaluations=60)), calibration=SIXTEEN)
    scored: list[tuple[str, int]] = []

    class Counting(TabulatedEvaluator):
        def score(self, schedule, fidelity, *, repeats=1):  # type: ignore[no-untyped-def]
            if fidelity.name == "calibration":
                scored.extend((str(hash(schedule)), seed) for seed in fidelity.seeds)
            return super().score(schedule, fidelity, repeats=repeats)

    database = open_study("climb", study, Counting())
    StudyLoop(study, InProcessPool(Counting()), database, SimulatedClock()).run()
    assert len(scored) == len(set(scored)), "no prompt is run twice for one schedule"
    measured = [m.n_prompts for c in database.load_study("s").candidates if (m := c.calibration.measurement)]
    assert len(scored) == sum(measured)


def test_rungs_that_another_study_has_stored_are_taken_up_by_one_worker(plan: MakePlan, open_study: OpenStudy) -> None:
    """A candidate may end a rung without a worker while the next one is already being measured."""
    study = replace(plan(Budget(evaluations=60)), calibration=SIXTEEN, ladder=LadderSettings())
    alone = open_study("alone", study, TabulatedEvaluator())
    make_loop(study, TabulatedEvaluator(), alone, SimulatedClock()).run()
    expected = alone.load_study(study.name)
    shared = open_study("shared", study, TabulatedEvaluator())
    dispatcher = Dispatcher(InProcessPool(TabulatedEvaluator()), shared)
    for candidate in expected.candidates:
        for n in LadderSettings().rungs(16)[:-1]:
            fidelity = SIXTEEN.first(n)
            request = Request(schedule=candidate.schedule, schedule_hash=candidate.schedule_hash, fidelity=fidelity)
            dispatcher.submit([request])
            dispatcher.collect()
    assert make_loop(study, TabulatedEvaluator(), shared, SimulatedClock()).run() is StudyState.DONE
    fronts = [calibration_front(record) for record in (expected, shared.load_study(study.name))]
    assert [c.schedule_hash for c in fronts[0]] == [c.schedule_hash for c in fronts[1]]


def test_what_finds_no_worker_free_waits_for_one(plan: MakePlan, open_study: OpenStudy) -> None:
    database = open_study("waits", plan(Budget(evaluations=9)), TabulatedEvaluator())
    dispatcher = Dispatcher(InProcessPool(TabulatedEvaluator()), database)
    requests = [
        Request(schedule=schedule, schedule_hash=schedule_hash(schedule), fidelity=SIXTEEN.first(2))
        for schedule in (Schedule(n_steps=n) for n in (5, 6, 7))
    ]
    dispatcher.submit(requests)
    assert (dispatcher.n_free, dispatcher.n_open) == (0, 3)
    ended = []
    while dispatcher.n_open:
        ended += dispatcher.collect()
    assert sorted(measured.request.schedule.n_steps for measured in ended) == [5, 6, 7]
    assert not any(measured.reused for measured in ended)
