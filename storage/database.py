"""The database: every method commits before it returns.

What may run at the same time: any number of processes may open one database, read it, and write evaluations and
artifacts; of two that finish the same evaluation, the first wins. A study has one driver at a time: only the process
that runs it adds candidates. Use one `Database` per process, opened after a fork; threads may share it.

What survives: a process killed at any moment loses the candidates in flight and nothing else; on a disk that keeps its
promises, so does a power failure.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from autotune.spaces.condition import Condition
from autotune.spaces.errors import StorageError
from autotune.spaces.evaluation import Evaluation, Failure, Fidelity, Measurement
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule
from autotune.spaces.study_record import StudyRecord, StudyState
from autotune.storage import evaluations, studies
from autotune.storage.artifacts import ArtifactStore
from autotune.storage.connection import Sessions, make_engine
from autotune.storage.location import Location, parse_location
from autotune.storage.studies import StudySummary
from autotune.storage.tables import EvaluationRow

__all__ = ["Database", "StudySummary"]


class Database:
    """Studies, evaluations and artifacts on SQLite or PostgreSQL; see `open`."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self.artifacts = ArtifactStore(sessions)

    @classmethod
    def open(cls, url: str | None = None, *, must_exist: bool = False) -> Self:
        """Open a database, creating or upgrading its tables.

        Args:
            url: a path, `sqlite:///PATH` (`?timeout=SECONDS` to wait for other writers, 30 by default),
                `postgresql://...`, or None for `autotune.db` in the user's data folder.
            must_exist: an SQLite file that is missing is an error, not a new database.

        Raises:
            StorageError: it can't be opened, is not ours, or was made by a newer version. No message shows a password.
        """
        location = parse_location(url)
        if must_exist and location.path is not None and not location.path.exists():
            raise StorageError(f"the database must exist; there is none at {location.path}: check --storage")
        _make_folder(location)
        sessions = Sessions(make_engine(location), location)
        try:
            sessions.upgrade()
        except BaseException:
            sessions.engine.dispose()
            raise
        return cls(sessions)

    @property
    def location(self) -> Location:
        """Where the database lies."""
        return self._sessions.location

    @property
    def url(self) -> str:
        """The location for messages: the SQLite file, or the URL without its password."""
        return self.location.shown

    def close(self) -> None:
        """Close all connections."""
        self._sessions.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def create_study(
        self,
        name: str,
        *,
        settings: Mapping[str, object],
        provenance: Mapping[str, object],
        condition: Condition,
        inventory: Inventory,
    ) -> None:
        """Note a new, running study.

        Raises:
            StudyExistsError: the name is taken.
            UsageError: the name can't be one, or settings or provenance hold something that JSON does not know.
        """
        with self._sessions.writing() as session:
            studies.create(
                session, name, settings=settings, provenance=provenance, condition=condition, inventory=inventory
            )

    def find_evaluation(self, key: str) -> Evaluation | None:
        """The complete or failed evaluation of this key, whichever study made it; None if it is not finished."""
        with self._sessions.reading() as session:
            return evaluations.find(session, EvaluationRow.key == key).get(key)

    def start_evaluation(
        self, key: str, *, schedule: Schedule, schedule_hash: str, condition: Condition, fidelity: Fidelity
    ) -> None:
        """Note that an evaluation runs. One that a killed process left running starts anew; a finished one stays."""
        with self._sessions.writing() as session:
            evaluations.start(
                session, key, schedule=schedule, schedule_hash=schedule_hash, condition=condition, fidelity=fidelity
            )

    def finish_evaluation(self, key: str, outcome: Measurement | Failure) -> Evaluation:
        """Store what came of an evaluation, once; returns what is stored: the first outcome, if there was one.

        Raises:
            StorageError: the evaluation was never started, or a value of the measurement is missing or not finite.
        """
        with self._sessions.writing() as session:
            evaluations.finish(session, key, outcome)
            return evaluations.find(session, EvaluationRow.key == key)[key]

    def add_candidate(
        self, study: str, *, number: int, family: str, label: str, schedule: Schedule, schedule_hash: str, key: str
    ) -> None:
        """Note a candidate, before or after its evaluation `key` is made; again for the same number changes nothing.

        A candidate whose evaluation never finished is replaced.

        Raises:
            StorageError: no such study, or the number belongs to another schedule that has been evaluated.
        """
        with self._sessions.writing() as session:
            studies.add_candidate(
                session,
                study,
                number=number,
                family=family,
                label=label,
                schedule=schedule,
                schedule_hash=schedule_hash,
                key=key,
            )

    def set_held_out(self, study: str, *, schedule_hash: str, key: str) -> None:
        """Note the held-out evaluation of a candidate, before or after it is made."""
        with self._sessions.writing() as session:
            studies.set_on_candidate(session, study, schedule_hash, held_out_key=key)

    def set_image(self, study: str, *, schedule_hash: str, artifact: str) -> None:
        """Note the name of the artifact that holds a candidate's contact sheet."""
        with self._sessions.writing() as session:
            studies.set_on_candidate(session, study, schedule_hash, image=artifact)

    def update_study(self, study: str, *, state: StudyState, wall_s: float) -> None:
        """Set a study's state and the wall time used so far, in seconds over all its sessions."""
        with self._sessions.writing() as session:
            studies.update_state(session, study, state, wall_s)

    def load_study(self, study: str) -> StudyRecord:
        """The study as it stands: candidates with a final evaluation only, by number.

        Raises:
            StorageError: there is no such study (the message names near ones), or a row can't be read.
        """
        with self._sessions.reading() as session:
            return studies.load(session, study)

    def list_studies(self) -> tuple[StudySummary, ...]:
        """All studies, oldest first."""
        with self._sessions.reading() as session:
            return studies.summaries(session)


def _make_folder(location: Location) -> None:
    path = location.path
    if path is None:
        return
    if path.is_dir():
        raise StorageError(
            f"an SQLite database must be a file; {path} is a folder: give a file in it, {path / 'autotune.db'}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"the database {path} must lie in a folder that can be written: {error.strerror or error}; "
            "choose another place with --storage"
        ) from error
