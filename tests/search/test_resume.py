"""A study that was stopped and resumed."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.budget import Budget, Spent
from autotune.search.clock import SimulatedClock
from autotune.search.ladder import LadderSettings
from autotune.spaces.evaluation import Failure, Fidelity, Measurement
from autotune.spaces.front import study_front
from autotune.spaces.schedule import Schedule
from autotune.spaces.study_record import StudyRecord, StudyState

from .onlooker import Expected, MakePlan, Onlooker, OpenStudy, RunStudy, make_loop


class Stopped(Exception):
    """Stands in for a crash."""


class StoppingEvaluator(TabulatedEvaluator):
    """Breaks down at its n-th score."""

    def __init__(self, n: int, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.n_left = n

    def score(self, schedule: Schedule, fidelity: Fidelity, *, repeats: int = 1) -> Measurement | Failure:
        if self.n_left == 0:
            raise Stopped
        self.n_left -= 1
        return super().score(schedule, fidelity, repeats=repeats)


def front_values(record: StudyRecord) -> list[tuple[int, str, float]]:
    rows = []
    for candidate in study_front(record):
        assert candidate.calibration.measurement is not None
        rows.append((candidate.number, candidate.schedule_hash, candidate.calibration.measurement.mean("deviation")))
    return rows


def hashes(record: StudyRecord) -> list[tuple[int, str, str]]:
    return [(c.number, c.family, c.schedule_hash) for c in record.candidates]


@pytest.mark.parametrize(
    ("family", "n_scores"),
    [*(("ecad", n) for n in (0, 1, 5, 11, 12, 27, 40, 41)), ("random", 20), ("fewer-steps", 20), ("fewer-steps", 41)],
)
def test_a_study_that_broke_down_ends_as_an_undisturbed_one(
    family: str, n_scores: int, open_study: OpenStudy, expected: Expected, plan: MakePlan, onlooker: Onlooker
) -> None:
    study = plan(family=family)
    broken = StoppingEvaluator(n_scores)
    database = open_study("broken", study, broken)
    with pytest.raises(Stopped):
        make_loop(study, broken, database, SimulatedClock()).run()
    stopped = database.load_study("s")
    assert stopped.state is StudyState.INTERRUPTED
    assert len(stopped.candidates) == min(n_scores, 40)

    database = open_study("broken", study, broken)
    make_loop(study, TabulatedEvaluator(), database, SimulatedClock(), progress=onlooker).run()
    record = database.load_study("s")
    assert hashes(record) == hashes(expected(family))
    assert front_values(record) == front_values(expected(family))
    assert [e.reused for e in onlooker.events].count(True) == n_scores
    assert record.images == expected(family).images


KILLED = """
import os, signal, sys
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.budget import Budget
from autotune.search.clock import SimulatedClock
from autotune.search.ladder import LadderSettings
from autotune.evaluators.pool import InProcessPool
from autotune.search.study import StudyLoop
from autotune.search.study_plan import StudyPlan
from autotune.spaces.evaluation import Fidelity
from autotune.storage.database import Database

path, where, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
database, evaluator = Database.open(path), TabulatedEvaluator()
owner = evaluator if where == "score" else database
original, calls = getattr(owner, where), [0]

def killing(*args, **kwargs):
    calls[0] += 1
    if calls[0] == n:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)

setattr(owner, where, killing)
plan = StudyPlan(
    name="s", family="ecad", budget=Budget(evaluations=40), objectives=("macs", "deviation"),
    calibration=Fidelity(name="calibration", prompts=("a cat", "a dog"), seeds=(0, 1)),
    held_out=Fidelity(name="held_out", prompts=("a ship", "a deer", "a frog"), seeds=(100, 101, 102)),
)
StudyLoop(plan, InProcessPool(evaluator), database, SimulatedClock()).run()
"""


@pytest.mark.parametrize(("where", "n"), [("score", 23), ("add_candidates", 30), ("set_held_out", 2)])
def test_a_killed_study_ends_as_an_undisturbed_one(
    where: str, n: int, open_study: OpenStudy, tmp_path: Path, expected: Expected, plan: MakePlan
) -> None:
    study = plan()
    open_study("killed", study, TabulatedEvaluator())
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "killed.db"), where, str(n)], check=False)
    assert done.returncode == -signal.SIGKILL
    database = open_study("killed", study, TabulatedEvaluator())
    assert database.load_study("s").state is StudyState.RUNNING
    make_loop(study, TabulatedEvaluator(), database, SimulatedClock()).run()
    record = database.load_study("s")
    assert hashes(record) == hashes(expected("ecad"))
    assert front_values(record) == front_values(expected("ecad"))


def test_resuming_a_finished_study_changes_nothing(
    open_study: OpenStudy, plan: MakePlan, undisturbed: RunStudy, onlooker: Onlooker
) -> None:
    study = plan()
    expected = undisturbed(study)
    database = open_study("undisturbed", study, TabulatedEvaluator())
    make_loop(study, StoppingEvaluator(0), database, SimulatedClock(), progress=onlooker).run()
    assert all(event.reused for event in onlooker.events)
    assert database.load_study("s").candidates == expected.candidates


def test_a_larger_budget_goes_on_from_the_record(plan: MakePlan, undisturbed: RunStudy) -> None:
    first = undisturbed(plan())
    second = undisturbed(plan(Budget(evaluations=60)))
    assert len(second.candidates) == 60
    assert hashes(second)[:40] == hashes(first)
    assert {c.family for c in second.candidates[40:]} == {"ecad"}


def test_a_record_that_the_searcher_would_not_repeat_is_kept(plan: MakePlan, undisturbed: RunStudy) -> None:
    # As after an upgrade that changed an operator: here another seed stands in for it.
    first = undisturbed(plan())
    second = undisturbed(plan(Budget(evaluations=50), seed=8))
    assert hashes(second)[:40] == hashes(first)
    assert len(second.candidates) == 50
    assert len({c.schedule_hash for c in second.candidates}) == 50


def test_wall_time_of_earlier_sessions_counts(open_study: OpenStudy, plan: MakePlan) -> None:
    clock = SimulatedClock()
    evaluator = StoppingEvaluator(12, clock=clock)
    study = plan(Budget(wall_s=12.0), objectives=("latency", "deviation"))
    database = open_study("timed", study, evaluator)
    with pytest.raises(Stopped):
        make_loop(study, evaluator, database, clock).run()
    used_s = database.load_study("s").wall_s
    assert used_s == pytest.approx(clock.now())
    clock = SimulatedClock()
    evaluator = StoppingEvaluator(-1, clock=clock)
    make_loop(study, evaluator, database, clock, used=Spent(wall_s=used_s)).run()
    # A resumed study does not know what a reference takes and keeps more time for it.
    assert 0.6 * 12.0 <= used_s + clock.now() <= 12.0
    assert database.load_study("s").wall_s == pytest.approx(used_s + clock.now())


@pytest.mark.parametrize("n_scores", [12, 21, 30, 43, 50])
def test_a_study_that_broke_down_as_a_candidate_climbed_goes_on_in_the_same_order(
    n_scores: int, open_study: OpenStudy, plan: MakePlan, undisturbed: RunStudy
) -> None:
    prompts = Fidelity(name="calibration", prompts=tuple("abcdefgh"), seeds=tuple(range(8)))
    study = replace(plan(ladder=LadderSettings()), calibration=prompts)
    broken = StoppingEvaluator(n_scores)
    database = open_study("broken", study, broken)
    with pytest.raises(Stopped):
        make_loop(study, broken, database, SimulatedClock()).run()
    make_loop(study, TabulatedEvaluator(), database, SimulatedClock()).run()
    assert hashes(database.load_study("s")) == hashes(undisturbed(study))
