"""What may happen to workers in processes of their own. The study goes on; nothing is lost or made twice."""

import os
import signal
import subprocess
import sys
import time

import pytest

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.spaces.evaluation import Failure
from autotune.spaces.study_record import StudyRecord, StudyState
from autotune.storage.database import Database

from .processes import N_EVALUATIONS, StudyProcess, kill_group, lost
from .study_process import make_plan

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs signals")]

N_WORKERS = 2


def check(record: StudyRecord) -> None:
    """The study is done; every candidate is there once, with exactly the values of the formula."""
    assert record.state is StudyState.DONE
    assert [c.number for c in record.candidates] == list(range(N_EVALUATIONS))
    assert len({c.schedule_hash for c in record.candidates}) == N_EVALUATIONS
    evaluator, calibration = TabulatedEvaluator(), make_plan(N_EVALUATIONS).calibration
    for candidate in record.candidates:
        if candidate.calibration.measurement is not None:
            measured = candidate.calibration.measurement
            exact = evaluator.score(candidate.schedule, calibration.first(measured.n_prompts))
            assert not isinstance(exact, Failure)
            assert measured.quality == exact.quality
            assert measured.macs == exact.macs


def losses(study: StudyProcess) -> list[str]:
    """Why evaluations were lost with their workers, those that were made again later too."""
    import sqlite3

    connection = sqlite3.connect(str(study.folder / "s.db"))
    rows = connection.execute("SELECT lost_reason FROM evaluation WHERE n_lost > 0").fetchall()
    connection.close()
    return [str(reason) for (reason,) in rows]


def test_nothing_happens(study: StudyProcess) -> None:
    study.finish(workers=N_WORKERS)
    check(study.record())
    assert losses(study) == []


@pytest.mark.parametrize(
    ("trouble", "reason"), [("falls silent once", "was silent for 8 s"), ("hangs once", "hung: no answer after 12 s")]
)
def test_a_worker_that_falls_silent_or_hangs_is_replaced_and_its_work_done_again(
    trouble: str, reason: str, study: StudyProcess
) -> None:
    study.finish(trouble, N_WORKERS)
    record = study.record()
    check(record)
    assert lost(record) == []
    assert [reason in found for found in losses(study)] == [True]


def test_a_worker_that_leaks_until_it_is_killed_is_replaced(study: StudyProcess) -> None:
    psutil = pytest.importorskip("psutil")
    memory = psutil.virtual_memory()
    limit = (memory.total - memory.available + 2.5e9) / memory.total
    monitor = {"RAY_memory_usage_threshold": f"{limit:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    study.finish("leaks once", N_WORKERS, **monitor)
    record = study.record()
    check(record)
    assert lost(record) == []
    assert len(losses(study)) >= 1


def test_a_schedule_that_kills_three_workers_is_marked_and_left_alone(study: StudyProcess) -> None:
    study.finish("kills", N_WORKERS)
    record = study.record()
    check(record)
    of_seven = [c for c in record.candidates if c.schedule.n_steps == 7]
    assert of_seven
    assert len(lost(record)) == len(of_seven)
    for candidate in of_seven:
        assert "lost 3 times with its worker" in str(candidate.calibration.outcome)


def test_a_worker_that_gives_nan_makes_a_failure(study: StudyProcess) -> None:
    study.finish("gives NaN", N_WORKERS)
    record = study.record()
    check(record)
    failures = [c.calibration.outcome for c in record.candidates if c.schedule.n_steps == 7]
    assert failures
    for failure in failures:
        assert isinstance(failure, Failure)
        assert failure.kind == "nan"
        assert "deviation[0] = nan" in failure.reason


def test_a_driver_that_is_killed_is_followed_by_another(study: StudyProcess) -> None:
    process = start_and_wait(study, 10)
    os.kill(process.pid, signal.SIGKILL)  # the driver alone: its workers find out
    process.wait()
    study.finish(workers=N_WORKERS)
    kill_group(process)
    check(study.record())


def test_a_killed_head_of_the_cluster_stops_the_study_until_there_is_a_new_one(study: StudyProcess) -> None:
    process = start_and_wait(study, 10, SCORE_S="1")  # slow enough not to be done before the loss is noticed
    found = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "gcs_server"], capture_output=True, text=True)
    assert found.stdout.split()
    for pid in found.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    began = time.monotonic()
    _, errors = process.communicate(timeout=120)
    kill_group(process)
    assert process.returncode == 1
    assert "the head of the Ray cluster at 127.0.0.1" in errors
    assert "is gone" in errors
    assert time.monotonic() - began < 45.0
    before = study.record()
    assert before.state is StudyState.INTERRUPTED
    study.finish(workers=N_WORKERS)
    record = study.record()
    check(record)
    kept = [(c.number, c.schedule_hash, c.calibration) for c in before.candidates]
    assert [(c.number, c.schedule_hash, c.calibration) for c in record.candidates][: len(kept)] == kept


def start_and_wait(study: StudyProcess, n_candidates: int, **environment: str) -> "subprocess.Popen[str]":
    """Start a study, slowly, and wait until it has so many candidates."""
    process = study.start(workers=N_WORKERS, **{"SCORE_S": "0.2"} | environment)
    end = time.monotonic() + 90.0
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        with Database.open(study.storage) as database:
            if any(s.n_candidates >= n_candidates for s in database.list_studies()):
                return process
        time.sleep(0.1)
    raise AssertionError("the study does not get on")
