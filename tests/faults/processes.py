"""Studies in processes that tests may harm."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from autotune.spaces.evaluation import Evaluation, Failure
from autotune.spaces.study_record import StudyRecord
from autotune.storage.database import Database

SCRIPT = Path(__file__).with_name("study_process.py")
N_EVALUATIONS = 60

Expected = Callable[[], list[tuple[object, ...]]]


@dataclass
class StudyProcess:
    """A study in `folder`, run by one process after the other."""

    folder: Path
    storage: str

    def start(self, trouble: str = "none", workers: int = 0, **environment: str) -> "subprocess.Popen[str]":
        """Run it, or go on with it, in a process group of its own."""
        words = [self.storage, trouble, str(workers), str(N_EVALUATIONS)]
        return subprocess.Popen(
            [sys.executable, "-P", str(SCRIPT), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        )

    def finish(self, trouble: str = "none", workers: int = 0, **environment: str) -> str:
        """Run it to its end, which must be a good one; what it said on standard error."""
        with self.start(trouble, workers, **environment) as process:
            try:
                _, errors = process.communicate(timeout=180)
            finally:
                kill_group(process)
        assert process.returncode == 0, errors
        return errors

    def record(self) -> StudyRecord:
        """The study as it stands."""
        with Database.open(self.storage) as database:
            return database.load_study("s")


def kill_group(process: "subprocess.Popen[str]") -> None:
    """End a process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)


def outcomes(record: StudyRecord) -> list[tuple[object, ...]]:
    """What a study must end with, however often it was stopped; times are left out."""

    def values(evaluation: Evaluation | None) -> object:
        if evaluation is None or evaluation.measurement is None:
            return evaluation and evaluation.outcome
        m = evaluation.measurement
        return evaluation.key, dict(m.quality), m.macs, m.network_calls

    tried: list[tuple[object, ...]] = [
        (c.number, c.family, c.label, c.schedule_hash, values(c.calibration), values(c.held_out))
        for c in record.candidates
    ]
    return [*tried, tuple(sorted(record.images.items()))]


def lost(record: StudyRecord) -> list[str]:
    """The reasons of the candidates that were given up."""
    found = [c.calibration.outcome for c in record.candidates]
    return [outcome.reason for outcome in found if isinstance(outcome, Failure) and outcome.kind == "lost"]
