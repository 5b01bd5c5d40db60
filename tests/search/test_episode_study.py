"""Whole studies of a policy, whose results are episodes that succeed or fail and nothing else."""

import dataclasses

import pytest

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.reports.point import study_points
from autotune.reports.summary import summarise
from autotune.search.budget import Budget
from autotune.search.clock import SimulatedClock
from autotune.search.study_plan import StudyPlan
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.front import calibration_front, pick, study_front
from autotune.spaces.pareto import front_hypervolume
from autotune.spaces.study_record import StudyRecord, StudyState

from .onlooker import MakePlan, Onlooker, OpenStudy, make_loop

CALIBRATION = Fidelity(name="calibration", prompts=("push",) * 32, seeds=tuple(range(32)))
HELD_OUT = Fidelity(name="held_out", prompts=("push",) * 50, seeds=tuple(range(1000, 1050)))


def policy_plan(plan: MakePlan, family: str, n: int = 40, **changes: object) -> StudyPlan:
    made = plan(Budget(evaluations=n), family, objectives=("latency", "success"), **changes)
    return dataclasses.replace(made, calibration=CALIBRATION, held_out=HELD_OUT)


def measured(record: StudyRecord) -> list[Measurement]:
    return [m for c in record.candidates if (m := c.calibration.measurement)]


@pytest.mark.parametrize("family", ["ecad", "fewer-steps", "joint", "s3", "optuna", "dc", "sada", "cachequant"])
def test_every_kind_of_search_runs_on_success_alone(
    family: str, plan: MakePlan, open_study: OpenStudy, onlooker: Onlooker
) -> None:
    evaluator = TabulatedEvaluator(episodes=True)
    study = policy_plan(plan, family)
    database = open_study(family, study, evaluator)
    loop = make_loop(study, evaluator, database, SimulatedClock(), progress=onlooker)
    assert loop.run() is StudyState.DONE
    record = database.load_study(study.name)
    assert len(record.candidates) >= 30
    assert all(set(m.quality) == {"success", "action-error"} for m in measured(record))
    front = [m for c in calibration_front(record) if (m := c.calibration.measurement)]
    assert len(front) >= 3
    assert all(0.0 < m.error <= 1.0 for m in front)
    expected = front_hypervolume([m.relative_latency for m in front], [m.error for m in front])
    assert onlooker.events[-1].hypervolume == pytest.approx(expected)
    assert expected > 0.1
    assert set(pick(study_front(record), record)) == {"quality", "balanced", "fast"}
    assert len(study_points(record)) == len(record.whole)
    assert summarise(record)["hypervolume"] > 0.1  # type: ignore[operator]


def test_the_ladder_saves_episodes_and_stops_nobody_that_is_better(plan: MakePlan, open_study: OpenStudy) -> None:
    evaluator = TabulatedEvaluator(episodes=True)
    study = policy_plan(plan, "ecad", 80)
    database = open_study("ladder", study, evaluator)
    make_loop(study, evaluator, database, SimulatedClock()).run()
    record = database.load_study(study.name)
    front = [m for c in calibration_front(record) if (m := c.calibration.measurement)]
    stopped = [c for c in record.candidates if (m := c.calibration.measurement) and m.n_prompts < 32]
    assert len(stopped) >= 10
    n_better = 0
    for candidate in stopped:
        full = evaluator.score(candidate.schedule, CALIBRATION)
        assert isinstance(full, Measurement)
        beaten = any(m.relative_latency <= full.relative_latency and m.error <= full.error for m in front)
        n_better += not beaten
    assert n_better <= len(stopped) / 8
