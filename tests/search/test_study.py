from dataclasses import replace

import pytest

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.budget import Budget
from autotune.search.clock import SimulatedClock
from autotune.search.families import FAMILIES
from autotune.search.progress import Phase
from autotune.search.study_plan import StudyPlan
from autotune.search.verification import VerificationSettings
from autotune.spaces.errors import EvaluatorError, UsageError
from autotune.spaces.evaluation import Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.front import calibration_front, pick, study_front
from autotune.spaces.objective import parse_constraint
from autotune.spaces.schedule import Schedule
from autotune.spaces.study_record import StudyRecord, StudyState

from .onlooker import Expected, MakePlan, Onlooker, OpenStudy, RunStudy, make_loop

FAILURE = Failure(kind=FailureKind.OUT_OF_MEMORY, reason="too large")


def front_values(record: StudyRecord) -> list[tuple[int, str, float]]:
    rows = []
    for candidate in study_front(record):
        assert candidate.calibration.measurement is not None
        rows.append((candidate.number, candidate.schedule_hash, candidate.calibration.measurement.mean("deviation")))
    return rows


def test_a_study_starts_with_the_baseline_then_its_rivals_then_its_family(expected: Expected) -> None:
    record = expected("ecad")
    families = [c.family for c in record.candidates]
    assert families == ["baseline"] + ["fewer-steps"] * 10 + ["policies"] * 2 + ["ecad"] * 27
    assert [c.number for c in record.candidates] == list(range(40))
    assert len({c.schedule_hash for c in record.candidates}) == 40
    assert record.state is StudyState.DONE


@pytest.mark.parametrize(
    ("family", "n"),
    [(family, n) for family in FAMILIES for n in (1, 2, 3, 7, 40) if (family, n) != ("optuna-gp", 40)],  # slow to think
)
def test_a_budget_of_evaluations_is_spent_to_the_last(
    n: int, family: str, plan: MakePlan, undisturbed: RunStudy
) -> None:
    record = undisturbed(plan(Budget(evaluations=n), family))
    # The default run, a quarter and a twentieth of the budget for rivals, and all plans, or none where nobody gave any.
    n_there_are = {
        "cache-plan": 37,
        "cachequant": 33,
        "teacache": 25,
        "first-block": 39,
        "given": 1 + max(1, n // 4),
    }.get(family, n)
    assert len(record.candidates) == min(n, n_there_are)


def test_the_front_is_measured_again_and_drawn(plan: MakePlan, undisturbed: RunStudy) -> None:
    study = plan(family="fewer-steps", verification=VerificationSettings(max_members=4))
    record = undisturbed(study)
    verified = [c for c in record.candidates if c.held_out is not None]
    front = calibration_front(record)
    assert len(front) > 4
    assert len([c for c in front if c.held_out is not None]) == 4
    assert record.candidates[0] in verified
    for candidate in verified:
        assert candidate.held_out is not None
        assert candidate.held_out.measurement is not None
        assert len(candidate.held_out.measurement.latency_ms) == 3
        assert len(candidate.held_out.measurement.quality["deviation"]) == 3
    drawn = {c.schedule_hash for c in pick(study_front(record), record).values()}
    assert set(record.images) == drawn | {record.candidates[0].schedule_hash}


def test_pictures_are_of_the_prompts_on_which_the_picks_are_worst(plan: MakePlan, open_study: OpenStudy) -> None:
    held_out = Fidelity(name="held_out", prompts=tuple(f"number {i}" for i in range(12)), seeds=tuple(range(50, 62)))
    study, evaluator = replace(plan(family="fewer-steps"), held_out=held_out), TabulatedEvaluator()
    database = open_study("worst", study, evaluator)
    make_loop(study, evaluator, database, SimulatedClock()).run()
    record = database.load_study(study.name)
    picks = pick(study_front(record), record)
    worst = dict.fromkeys(range(12), 0.0)
    for candidate in picks.values():
        assert candidate.held_out is not None
        assert candidate.held_out.measurement is not None
        for i, error in enumerate(candidate.held_out.measurement.quality["deviation"]):
            worst[i] = max(worst[i], error)
    least = sorted(worst, key=lambda i: worst[i])[:4]
    for schedule_hash, name in record.images.items():
        expected = sorted(set(range(12)) - set(least))
        assert database.artifacts.load(name) == f"sheet of {schedule_hash}, {expected}".encode()


def test_an_interrupt_ends_the_search_but_not_without_a_result(
    open_study: OpenStudy, expected: Expected, plan: MakePlan, onlooker: Onlooker
) -> None:
    study = plan()
    database = open_study("stopped", study, TabulatedEvaluator())
    loop = make_loop(
        study,
        TabulatedEvaluator(),
        database,
        SimulatedClock(),
        progress=onlooker,
        interrupt=lambda: len(onlooker.events) >= 20,
    )
    assert loop.run() is StudyState.INTERRUPTED
    record = database.load_study("s")
    assert len(record.candidates) == 20
    assert record.candidates[0].held_out is not None
    assert all(c.held_out is not None for c in pick(study_front(record), record).values())
    assert len(record.images) >= 2
    make_loop(study, TabulatedEvaluator(), database, SimulatedClock()).run()
    assert front_values(database.load_study("s")) == front_values(expected("ecad"))


def test_a_second_interrupt_leaves_a_resumable_study(open_study: OpenStudy, plan: MakePlan) -> None:
    class Impatient(TabulatedEvaluator):
        def score(self, schedule: Schedule, fidelity: Fidelity, *, repeats: int = 1) -> Measurement | Failure:
            if fidelity.name == "held_out":
                raise KeyboardInterrupt
            return super().score(schedule, fidelity, repeats=repeats)

    database = open_study("stopped", plan(), Impatient())
    with pytest.raises(KeyboardInterrupt):
        make_loop(plan(), Impatient(), database, SimulatedClock()).run()
    assert database.load_study("s").state is StudyState.INTERRUPTED


def test_failed_candidates_are_kept_and_the_study_goes_on(open_study: OpenStudy, plan: MakePlan) -> None:
    evaluator = TabulatedEvaluator(fails=lambda s: FAILURE if s.cache and sum(s.cache.actions) % 2 else None)
    database = open_study("flaky", plan(), evaluator)
    assert make_loop(plan(), evaluator, database, SimulatedClock()).run() is StudyState.DONE
    record = database.load_study("s")
    failed = [c for c in record.candidates if c.calibration.outcome == FAILURE]
    assert len(record.candidates) == 40
    assert failed
    assert not {c.number for c in study_front(record)} & {c.number for c in failed}


def test_a_baseline_that_fails_is_an_error(open_study: OpenStudy, plan: MakePlan) -> None:
    evaluator = TabulatedEvaluator(fails=lambda s: FAILURE)
    database = open_study("hopeless", plan(), evaluator)
    with pytest.raises(EvaluatorError, match="too large"):
        make_loop(plan(), evaluator, database, SimulatedClock()).run()


def test_measurements_of_another_study_are_used(
    open_study: OpenStudy, plan: MakePlan, undisturbed: RunStudy, onlooker: Onlooker
) -> None:
    undisturbed(plan(), "shared")
    other = StudyPlan(
        name="t", family="ecad", calibration=plan().calibration, held_out=plan().held_out, budget=Budget(evaluations=20)
    )
    database = open_study("shared", other, TabulatedEvaluator())
    make_loop(other, TabulatedEvaluator(), database, SimulatedClock(), progress=onlooker).run()
    first_five = [event.reused for event in onlooker.events[:5]]
    assert first_five == [True] * 5


def test_progress_tells_phases_and_candidates(open_study: OpenStudy, plan: MakePlan, onlooker: Onlooker) -> None:
    study = plan()
    database = open_study("watched", study, TabulatedEvaluator())
    make_loop(study, TabulatedEvaluator(), database, SimulatedClock(), progress=onlooker).run()
    search = [Phase.FEWER_STEPS, Phase.POLICIES, Phase.SEARCH]
    assert onlooker.phases == [Phase.BASELINE, *search, Phase.VERIFICATION, Phase.IMAGES]
    searched = [e for e in onlooker.events if e.phase is not Phase.VERIFICATION]
    assert [e.number for e in searched] == list(range(40))
    assert [e.used_fraction for e in searched] == [(i + 1) / 40 for i in range(40)]
    assert sorted(e.hypervolume for e in searched) == [e.hypervolume for e in searched]


@pytest.mark.parametrize(
    ("family", "n_policies"), [("ecad", 5), ("cache-plan", 5), ("joint", 0), ("s3", 0), ("sada", 0), ("policies", 74)]
)
def test_adaptive_policies_are_rivals_of_what_decides_a_cache(
    undisturbed: RunStudy, plan: MakePlan, family: str, n_policies: int
) -> None:
    """A twentieth of the budget; `joint` has an arm of them."""
    record = undisturbed(plan(family=family, budget=Budget(evaluations=100)), family)
    found = [c for c in record.candidates if c.family == "policies"]
    assert len(found) == n_policies
    assert all(c.schedule.policy is not None and c.schedule.cache is None for c in found)
    if family in ("ecad", "cache-plan"):
        assert {c.family for c in record.candidates[found[-1].number + 1 :]} == {family}


@pytest.mark.parametrize(("family", "exhausted"), [("fewer-steps", True), ("random", False)])
def test_it_is_told_where_a_family_ends_before_its_budget(
    open_study: OpenStudy, plan: MakePlan, onlooker: Onlooker, family: str, exhausted: bool
) -> None:
    study = plan(family=family, budget=Budget(evaluations=400))
    make_loop(study, TabulatedEvaluator(), open_study(family, study, TabulatedEvaluator()), SimulatedClock(),
              progress=onlooker).run()  # fmt: skip
    assert onlooker.is_exhausted is exhausted


def test_constraints_are_kept(plan: MakePlan, undisturbed: RunStudy) -> None:
    study = plan(constraints=(parse_constraint("deviation<=0.05"),))
    record = undisturbed(study)
    assert study_front(record)
    for candidate in study_front(record):
        assert candidate.calibration.measurement is not None
        assert candidate.calibration.measurement.mean("deviation") <= 0.05


def test_calibration_and_held_out_must_not_share_seeds(plan: MakePlan) -> None:
    with pytest.raises(UsageError, match=r"seeds .* both have \[1\]"):
        StudyPlan(
            name="s",
            family="ecad",
            calibration=plan().calibration,
            held_out=Fidelity(name="held_out", prompts=("a ship",), seeds=(1,)),
            budget=Budget(evaluations=5),
        )


def test_an_unknown_family_is_refused_before_anything_runs(plan: MakePlan) -> None:
    with pytest.raises(UsageError, match="fewer-steps"):
        plan(family="genetic")
