"""A folder to run the command in, each time in a process of its own."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

COMMAND = [sys.executable, "-P", "-m", "autotune.cli.main"]

N_EVALUATIONS = 12
"""Candidates of the study that is killed, and of the one that is not."""
N_STEPS = 8
"""Of their default run."""


@dataclass(frozen=True)
class Finished:
    """What a command left behind: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Place:
    """A folder to run commands in, with its own database and its own home of user data."""

    folder: Path

    @property
    def storage(self) -> str:
        """The database's URL."""
        return f"sqlite:///{self.folder / 'studies.db'}"

    def start(
        self, *words: object, stdin: int | None = None, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """Start the command in its own process group."""
        own = {"OMP_NUM_THREADS": "1", "XDG_DATA_HOME": str(self.folder / "home"), "COLUMNS": "120"}
        return subprocess.Popen(
            [*COMMAND, *map(str, words)],
            cwd=self.folder,
            env={**os.environ, **own},
            text=True,
            start_new_session=True,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )

    def run(self, *words: object) -> Finished:
        """Run the command to its end."""
        with self.start(*words) as process:
            try:
                out, err = process.communicate(timeout=300)
            finally:
                kill_group(process)
        return Finished(process.returncode, out, err)

    def front(self, study: str) -> list[dict[str, object]]:
        """The front of a study, as `front --format json` prints it."""
        done = self.run("front", study, "--storage", self.storage, "--format", "json")
        assert done.code == 0, done.err
        rows: list[dict[str, object]] = json.loads(done.out)
        return rows


def kill_group(process: subprocess.Popen[str]) -> None:
    """SIGKILL to a process and all its children, if it still runs."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def study_words(place: Place, name: str, *, prompts: Path) -> list[str]:
    """The command line of the small study, less its budget."""
    return [
        "run", "--model", "mini-flux", "--steps", str(N_STEPS), "--objective", "macs,deviation",
        "--prompts", str(prompts), "--study", name,
        "--storage", place.storage, "--out", str(place.folder / "out"), "--family", "ecad",
    ]  # fmt: skip


def query(place: Place, sql: str) -> list[tuple[object, ...]]:
    """Rows of a place's database, read without touching it; none while it has no tables."""
    try:
        connection = sqlite3.connect(f"file:{place.folder / 'studies.db'}?mode=ro", uri=True)
    except sqlite3.OperationalError:
        return []
    try:
        return connection.execute(sql).fetchall()
    except sqlite3.OperationalError:
        return []
    finally:
        connection.close()


def finished(place: Place) -> set[object]:
    """Keys of the evaluations that are done."""
    return {key for (key,) in query(place, "SELECT key FROM evaluation WHERE state != 'running'")}
