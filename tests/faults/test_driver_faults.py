"""What may happen to the process that drives a study, and to its database and disk. Nothing is lost or made twice."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.spaces.study_record import StudyState

from ..storage.postgres import PostgresServer  # noqa: TID252 - the folders of tests are not on the path
from .processes import Expected, StudyProcess, kill_group, outcomes

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs signals")]

N_KILLS = 50


def rows(study: StudyProcess, sql: str) -> list[tuple[object, ...]]:
    """Rows of an SQLite database that another process may be writing to."""
    connection = sqlite3.connect(f"file:{study.folder / 's.db'}?mode=ro", uri=True, timeout=30)
    try:
        return connection.execute(sql).fetchall()
    except sqlite3.OperationalError:  # no tables yet
        return []
    finally:
        connection.close()


def timings(study: StudyProcess) -> set[tuple[object, ...]]:
    """What a second measurement would change."""
    sql = "SELECT key, finished, run, repeat, latency_ms FROM timing JOIN evaluation ON id = evaluation_id"
    return set(rows(study, sql))


def start_for_a_second(study: StudyProcess) -> "subprocess.Popen[str]":
    """Start a study and let it work for a second."""
    process = study.start()
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1.0)
    return process


def check_whole(study: StudyProcess) -> None:
    """Every evaluation is there once, with all its values and no other."""
    assert rows(study, "PRAGMA integrity_check") == [("ok",)]
    assert rows(study, "PRAGMA foreign_key_check") == []
    assert rows(study, "SELECT key FROM evaluation GROUP BY key HAVING count(*) > 1") == []
    counts = rows(
        study,
        "SELECT e.state, count(DISTINCT m.prompt_index) = json_array_length(p.prompts), count(DISTINCT m.metric)"
        " FROM evaluation e JOIN prompt_set p ON p.hash = e.prompt_set_hash"
        " LEFT JOIN measurement m ON m.evaluation_id = e.id GROUP BY e.id",
    )
    assert set(counts) <= {("complete", 1, 4), ("running", 0, 0)}


def test_fifty_kills_at_random_moments_change_nothing(study: StudyProcess, expected: Expected) -> None:
    moments = random.Random(5)
    kept: set[tuple[object, ...]] = set()
    n_killed, done_at = 0, []
    for _ in range(N_KILLS):
        process = study.start()
        assert process.stdout is not None
        process.stdout.readline()  # from now on it works
        until = len(kept) + 2 * moments.randrange(4)
        while process.poll() is None and len(timings(study)) < until:
            time.sleep(0.005)
        time.sleep(0.1 * moments.random())
        n_killed += process.poll() is None
        kill_group(process)
        now = timings(study)
        assert kept <= now, "what was finished is lost, or was made again"
        kept = now
        done_at.append(len(now))
        check_whole(study)
    assert n_killed >= 30
    assert len(set(done_at)) >= 20, "the kills must fall all over the study"
    study.finish()
    assert outcomes(study.record()) == expected()
    assert kept <= timings(study)
    assert rows(study, "SELECT count(*) FROM evaluation WHERE state != 'complete'") == [(0,)]
    check_whole(study)


def test_a_schedule_that_kills_the_process_three_times_is_left_alone(study: StudyProcess) -> None:
    """With one worker the process that dies is the study's own; a fourth attempt, made apart, tells who did it."""
    codes = []
    for _ in range(60):
        with study.start("kills") as process:
            process.communicate(timeout=60)
        codes.append(process.returncode)
        if process.returncode == 0:
            break
    assert codes[-1] == 0
    assert set(codes[:-1]) == {-signal.SIGKILL}
    record = study.record()
    assert record.state is StudyState.DONE
    of_seven = [c for c in record.candidates if c.schedule.n_steps == 7]
    assert of_seven
    assert len(codes) - 1 == 3 * len(of_seven)
    for candidate in record.candidates:
        if candidate in of_seven:
            reason = str(candidate.calibration.outcome)
            assert "lost 4 times" in reason
            assert reason.count("ended;") == 3
            assert "a process of its own ended with SIGKILL" in reason
        else:
            assert candidate.calibration.measurement is not None


def test_two_processes_never_drive_one_study(study: StudyProcess, expected: Expected) -> None:
    first = study.start(SCORE_S="0.2")
    assert first.stdout is not None
    first.stdout.readline()
    time.sleep(0.5)
    second = study.start()
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 1
    assert str(first.pid) in errors
    assert "Traceback" not in errors
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 0, errors
    assert outcomes(study.record()) == expected()


def test_a_clock_that_is_set_back_changes_nothing(study: StudyProcess, expected: Expected) -> None:
    process = study.start("clock goes back")
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.7)
    kill_group(process)
    study.finish("clock goes back")
    record = study.record()
    assert outcomes(record) == expected()
    assert 0.0 < record.wall_s < 600.0
    assert rows(study, "SELECT count(*) FROM evaluation WHERE wall_s < 0 OR owner IS NOT NULL") == [(0,)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_of_artifacts_stops_the_study_until_there_is_room(
    study: StudyProcess, small_disk: Path, expected: Expected
) -> None:
    study.storage += f"?artifacts={small_disk / 'artifacts'}"
    with study.start("draws large sheets") as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "No space left on device" in errors
    assert "Traceback" not in errors
    assert study.record().state is StudyState.INTERRUPTED
    kept = timings(study)
    assert len(study.record().candidates) == len(expected()) - 1
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    study.finish("draws large sheets")
    assert outcomes(study.record()) == expected()
    assert timings(study) == kept, "everything had been measured"


def test_a_database_server_that_is_away_for_ten_seconds_costs_only_time(
    postgres: PostgresServer, tmp_path: Path, expected: Expected
) -> None:
    with postgres.new_database(tmp_path / "artifacts") as url:
        study = StudyProcess(tmp_path, url)
        process = start_for_a_second(study)
        assert process.poll() is None
        postgres.stop()
        time.sleep(10.0)
        postgres.start()
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert outcomes(study.record()) == expected()


def test_a_killed_driver_on_a_server_is_followed_at_once(
    postgres: PostgresServer, tmp_path: Path, expected: Expected
) -> None:
    with postgres.new_database(tmp_path / "artifacts") as url:
        study = StudyProcess(tmp_path, url)
        process = start_for_a_second(study)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        began = time.monotonic()
        study.finish()
        assert time.monotonic() - began < 30.0, "a dead process holds no lease"
        assert outcomes(study.record()) == expected()
