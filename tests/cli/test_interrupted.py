"""Ctrl-C once, twice, and SIGTERM, sent to a real study."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from autotune.spaces.study_record import StudyState
from autotune.storage.database import Database

from .place import Place, finished, kill_group, query, study_words

pytestmark = pytest.mark.slow

INTERRUPTED = 130


def n_candidates(place: Place) -> int:
    """Candidates of the study `stopped` so far."""
    sql = "SELECT count(*) FROM candidate c JOIN study s ON s.id = c.study_id WHERE s.name = 'stopped'"
    rows = query(place, sql)
    return int(str(rows[0][0])) if rows else 0


def state(place: Place) -> StudyState:
    """The state that the database gives the study."""
    with Database.open(place.storage) as database:
        return database.load_study("stopped").state


@pytest.fixture
def long_study(small: Place, prompts: Path) -> list[str]:
    """A command line of a study that would run for minutes; what the session's study measured costs it nothing."""
    words = study_words(small, "stopped", prompts=prompts)
    return [*words, "--family", "random", "--seed", "5", "--evaluations", "3000"]


def wait_for(place: Place, process: subprocess.Popen[str], n: int) -> None:
    """Wait until the study has tried so many candidates."""
    end = time.monotonic() + 120
    while n_candidates(place) < n:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_stop_and_go_on(small: Place, long_study: list[str]) -> None:
    """Every way to stop leaves a study that the next command goes on with; the last one ends it."""
    resume = ["resume", "stopped", "--storage", small.storage, "--out", str(small.folder / "out")]

    for words, number in ((long_study, signal.SIGINT), (resume, signal.SIGTERM)):
        before = n_candidates(small)
        process = small.start(*words)
        try:
            wait_for(small, process, before + 4)
            os.kill(process.pid, number)
            out, err = process.communicate(timeout=120)
        finally:
            kill_group(process)
        assert process.returncode == INTERRUPTED, err
        assert "Traceback" not in err
        assert "finishing the candidate, then saving; once more stops at once" in err
        assert shlex.join(["autotune", "resume", "stopped", "--storage", small.storage]) in err
        assert "held_out" in out  # the picks were verified all the same
        assert state(small) is StudyState.INTERRUPTED
        assert (small.folder / "out" / "stopped" / "report.html").is_file()

    before = n_candidates(small)
    process = small.start(*resume)
    try:
        wait_for(small, process, before + 3)
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.05)
        began = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        kill_group(process)
    assert process.returncode == INTERRUPTED, err
    assert time.monotonic() - began < 10  # less than verification and report take
    assert "Traceback" not in err
    assert "stopped; go on with   autotune resume stopped --storage" in err
    assert out == ""
    assert state(small) is StudyState.INTERRUPTED
    kept = finished(small)

    n = n_candidates(small) + 1
    done = small.run(*resume, "--evaluations", n, "--format", "csv")
    assert done.code == 0, done.err
    assert n_candidates(small) == n
    assert kept < finished(small)
    assert state(small) is StudyState.DONE


def test_a_stop_before_the_study_began_leaves_nothing(tmp_path: Path, prompts: Path) -> None:
    place = Place(tmp_path)
    process = place.start(*study_words(place, "early", prompts=prompts), "--evaluations", 3)
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "out").exists() and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.5)  # among the imports
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        kill_group(process)
    # Python ends by the signal itself where it came during an import; a shell calls both 130.
    assert process.returncode in (INTERRUPTED, -signal.SIGINT), err
    assert err == "stopped; no study had begun\n"
    assert not (tmp_path / "out").exists()
    assert query(place, "SELECT name FROM study") == []
