"""A real study, killed with SIGKILL at random moments, ends as one that was never killed."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autotune.spaces.evaluation import Evaluation
from autotune.storage.database import Database

from .place import N_EVALUATIONS, Finished, Place, finished, kill_group, query, study_words

N_KILLS = 3
TIMED = ("latency_ms", "speedup", "peak_memory_bytes")
"""Keys of a front's rows that differ from run to run."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")]


def timings(place: Place) -> set[tuple[object, ...]]:
    """Every raw timing with its evaluation: what a second measurement would change."""
    columns = [str(row[1]) for row in query(place, "PRAGMA table_info(timing)")]
    names = ", ".join(f"t.{name}" for name in columns if name not in ("id", "evaluation_id"))
    if not names:
        return set()
    return set(query(place, f"SELECT e.key, {names} FROM timing t JOIN evaluation e ON e.id = t.evaluation_id"))


def kill_at(place: Place, process: subprocess.Popen[str], n_finished: int, delay_s: float) -> bool:
    """Kill a process group some time after an evaluation is done; False if the process ended before."""
    while len(finished(place)) < n_finished:
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    time.sleep(delay_s)
    alive = process.poll() is None
    kill_group(process)
    return alive


def fixed_part(row: dict[str, object]) -> dict[str, object]:
    """What a row of a front must say in every run."""
    intervals = row["intervals"]
    assert isinstance(intervals, dict)
    kept = {name: value for name, value in row.items() if name not in (*TIMED, "intervals")}
    return kept | {"intervals": {name: value for name, value in intervals.items() if name not in TIMED}}


def scores(evaluation: Evaluation | None) -> object:
    """What an evaluation must say in every run."""
    if evaluation is None or evaluation.measurement is None:
        return evaluation and evaluation.outcome
    m = evaluation.measurement
    return evaluation.key, dict(m.quality), m.macs, m.baseline_macs, m.network_calls


def candidates(place: Place, study: str) -> list[tuple[object, ...]]:
    """A study's candidates in the order in which they were tried, and its contact sheets."""
    with Database.open(place.storage) as database:
        record = database.load_study(study)
    tried: list[tuple[object, ...]] = [
        (c.number, c.family, c.label, c.schedule_hash, scores(c.calibration), scores(c.held_out))
        for c in record.candidates
    ]
    return [*tried, tuple(sorted(record.images.items()))]


def test_kills_change_nothing(small: Place, prompts: Path, tmp_path: Path) -> None:
    """The kills fall anywhere from the first to the last evaluation, at any point within one; no database is shared."""
    moments = random.Random(8)
    with Database.open(small.storage) as database:  # which holds studies of other tests as well
        record = database.load_study("small")
    keys = {e.key for c in record.candidates for e in (c.calibration, c.held_out) if e is not None}
    # All but the default run are measured on one prompt first.
    total = len(keys) + sum(m.n_prompts > 1 for c in record.candidates[1:] if (m := c.calibration.measurement))
    place = Place(tmp_path)
    first_words = [*study_words(place, "killed", prompts=prompts), "--evaluations", N_EVALUATIONS]
    then_words = ["resume", "killed", "--storage", place.storage, "--out", tmp_path / "out"]
    kept: set[tuple[object, ...]] = set()
    alive, done_at = 0, []
    for n_finished in sorted(moments.sample(range(total), N_KILLS)):
        words = then_words if query(place, "SELECT id FROM study") else first_words
        process = place.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            alive += kill_at(place, process, n_finished, 0.5 * moments.random())
        finally:
            kill_group(process)
        now = timings(place)
        assert kept <= now  # nothing that was finished is lost or made again
        kept = now
        done_at.append(len(finished(place)))
        assert len(query(place, "SELECT key FROM evaluation WHERE state = 'running'")) <= 1
    assert alive == N_KILLS
    assert len(set(done_at)) >= 2, "the kills must fall all over the study"
    last: Finished = place.run(*then_words)
    assert last.code == 0, last.err

    assert [fixed_part(row) for row in place.front("killed")] == [fixed_part(row) for row in small.front("small")]
    assert candidates(place, "killed") == candidates(small, "small")
    assert kept <= timings(place)
    assert keys <= finished(place)
    assert query(place, "SELECT count(*) FROM evaluation") == [(total,)]
    assert query(place, "SELECT count(DISTINCT key) FROM evaluation WHERE state = 'complete'") == [(total,)]
    assert query(place, "SELECT state FROM study") == [("done",)]
    assert query(place, "PRAGMA integrity_check") == [("ok",)]
    assert query(place, "PRAGMA foreign_key_check") == []
    ours, theirs = tmp_path / "out" / "killed", small.folder / "out" / "small"
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}
    assert (ours / "samples.png").read_bytes() == (theirs / "samples.png").read_bytes()  # every image is the same
