"""The database: every method commits before it returns.

What may run at the same time: any number of processes, on any number of machines, may open one database, read it, and
write evaluations and artifacts. An evaluation that runs belongs to one owner, and of two that finish it the first wins.
A study has one driver at a time: only the process that claimed it writes to it. Use one `Database` per process, opened
after a fork; threads may share it.

What survives: a process killed at any moment loses the candidates in flight and nothing else; on a disk that keeps its
promises, so does a power failure. A server that goes away is waited for: every method runs again where the connection
broke, and doing one twice is doing it once.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from sqlalchemy import Connection

from autotune.spaces.condition import Condition
from autotune.spaces.errors import StorageError
from autotune.spaces.evaluation import Evaluation, Failure, Measurement
from autotune.spaces.evaluation_request import EvaluationRequest
from autotune.spaces.inventory import Inventory
from autotune.spaces.study_record import Candidate, StudyRecord, StudyState
from autotune.storage import studies, study_loading
from autotune.storage.artifacts import ArtifactStore
from autotune.storage.evaluations import Claim, Evaluations
from autotune.storage.leases import Leases
from autotune.storage.location import Location
from autotune.storage.sessions import Sessions, open_sessions
from autotune.storage.studies import CandidateEntry, StudySummary
from autotune.storage.study_costs import load_costs, with_costs

__all__ = ["CandidateEntry", "Claim", "Database", "StudySummary"]


class Database:
    """Studies, evaluations and artifacts on SQLite or PostgreSQL; see `open`.

    `owner` names this object in what it holds. What it holds is another's after `LEASE_S` seconds without a call of
    `renew_lease`, or at once when its process is gone. `sessions` and `leases` are for the other modules of `storage`.
    """

    def __init__(self, sessions: Sessions, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.sessions = sessions
        self.leases = Leases(sessions, monotonic)
        self._evaluations = Evaluations(sessions, self.leases)
        self.artifacts = ArtifactStore(sessions)

    @classmethod
    def open(
        cls, url: str | None = None, *, must_exist: bool = False, monotonic: Callable[[], float] = time.monotonic
    ) -> Self:
        """Open a database, creating or upgrading its tables.

        Args:
            url: a path, `sqlite:///PATH` (`?timeout=SECONDS` to wait for other writers, 30 by default),
                `postgresql://...`, or None for `autotune.db` in the user's data folder. Both kinds of URL take
                `?artifacts=FOLDER`, where the files of artifacts lie: name one that all machines share where several
                work on one database. It is `PATH.artifacts`, or `artifacts` in the user's data folder.
            must_exist: an SQLite file that is missing is an error, not a new database.
            monotonic: the seconds by which other owners' leases run out.

        Raises:
            StorageError: it can't be opened, is not ours, or was made by a newer version. No message shows a password.
        """
        return cls(open_sessions(url, must_exist=must_exist)[0], monotonic)

    @property
    def location(self) -> Location:
        """Where the database lies."""
        return self.sessions.location

    @property
    def url(self) -> str:
        """The location for messages: the SQLite file, or the URL without its password."""
        return self.location.shown

    @property
    def owner(self) -> str:
        """The name of this object in what it holds: host, machine, process and a random word."""
        return self.leases.owner

    def close(self) -> None:
        """Give back what is held, as `release_leases` does, and close all connections.

        A database that was only read is not written to. One that can't be written now is left as it is: what it holds
        is taken for dead soon.
        """
        if self.leases.is_used:
            with contextlib.suppress(StorageError):
                self.sessions.write(self._release, patient=False)
        self.leases.close()
        self.sessions.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def renew_lease(self) -> None:
        """Show that this owner lives; call it every few seconds while it holds something, from any thread."""
        self.sessions.write(self.leases.renew)

    def release_leases(self) -> None:
        """Give back all that this owner holds: running evaluations wait for somebody again, studies for a driver.

        They do not count as lost.
        """
        self.sessions.write(self._release)
        self.leases.is_used = False

    def _release(self, connection: Connection) -> None:
        self._evaluations.release(connection)
        studies.release(connection, self.owner)
        self.leases.end(connection)

    def create_study(
        self,
        name: str,
        *,
        settings: Mapping[str, object],
        provenance: Mapping[str, object],
        condition: Condition,
        inventory: Inventory,
    ) -> None:
        """Note a new, running study and drive it.

        Raises:
            StudyExistsError: the name is taken.
            UsageError: the name can't be one, or settings or provenance hold something that JSON does not know.
        """
        self.leases.is_used = True
        now = datetime.now(UTC)
        self.sessions.write(
            lambda connection: studies.create(
                connection, name, settings=settings, provenance=provenance, condition=condition, inventory=inventory,
                created=now, owner=self.owner,
            )
        )  # fmt: skip

    def claim_study(self, study: str) -> None:
        """Become the driver of a study; again changes nothing.

        Where another owner holds it and can't be judged yet, its lease is watched, for `LEASE_S` seconds at most.

        Raises:
            StudyBusyError: another process drives it, and lives.
            StorageError: there is no such study.
        """
        self.leases.is_used = True
        studies.claim(self.sessions, study, self.leases)

    def start_evaluations(self, requests: Sequence[EvaluationRequest]) -> dict[str, Claim]:
        """Ask for evaluations to make; the answer of each, by key.

        One that nobody has started, that was given back, or whose owner is dead becomes ours, and so does one that is
        ours already. The dead owner counts as lost over it.
        """
        return self._evaluations.start(requests)

    def finish_evaluations(self, outcomes: Mapping[str, Measurement | Failure]) -> dict[str, Evaluation]:
        """Store what came of started evaluations, by key, and return what is stored.

        The first outcome stays, whoever held the evaluation: a late one of an owner that was taken for dead is stored
        if nobody was first, else dropped. Measurements must be whole and finite.

        Raises:
            StorageError: an evaluation was never started, or a measurement breaks that rule; none is stored.
        """
        return self._evaluations.finish(outcomes)

    def return_evaluations(self, keys: Collection[str], reason: str | None = None) -> None:
        """Let go of evaluations that this owner holds and did not finish, so that somebody else may make them.

        With a `reason`, what was made of them is lost, and counted.
        """
        self._evaluations.give_back(keys, reason)

    def find_evaluations(self, keys: Collection[str]) -> dict[str, Evaluation]:
        """The complete and failed ones of these evaluations, by key, whichever study made them."""
        return self._evaluations.find(keys)

    def add_candidates(self, study: str, entries: Sequence[CandidateEntry]) -> None:
        """Note candidates, before or after their evaluations are made; again for the same numbers changes nothing.

        A candidate whose evaluation never finished is replaced.

        Raises:
            StorageError: no such study, or a number belongs to another schedule that has been evaluated.
            StudyBusyError: another process drives the study.
        """
        self.sessions.write(lambda connection: studies.add_candidates(connection, study, entries, self.leases))

    def set_held_out(self, study: str, *, schedule_hash: str, key: str) -> None:
        """Note the held-out evaluation of a candidate, before or after it is made."""
        self._set_on_candidate(study, schedule_hash, held_out_key=key)

    def set_image(self, study: str, *, schedule_hash: str, artifact: str) -> None:
        """Note the name of the artifact that holds a candidate's contact sheet."""
        self._set_on_candidate(study, schedule_hash, image=artifact)

    def _set_on_candidate(self, study: str, schedule_hash: str, **values: str) -> None:
        self.sessions.write(
            lambda connection: studies.set_on_candidate(connection, study, schedule_hash, self.leases, **values)
        )

    def update_study(self, study: str, *, state: StudyState, wall_s: float, device_s: float | None = None) -> None:
        """Set a study's state and what it used so far, over all its sessions.

        Args:
            study: its name.
            state: the new state.
            wall_s: wall time in seconds.
            device_s: seconds of workers, all processes together; None leaves it as it is.

        Raises:
            StorageError: there is no such study.
            StudyBusyError: another process drives it.
        """
        self.sessions.write(
            lambda connection: studies.update_state(
                connection, study, self.leases, state=state, wall_s=wall_s, device_s=device_s
            )
        )

    def load_study(self, study: str, numbers: Collection[int] | None = None) -> StudyRecord:
        """The study as it stands: candidates with a final evaluation only, by number.

        Args:
            study: its name.
            numbers: those of the candidates to load; None for all.

        Raises:
            StorageError: there is no such study (the message names near ones), or a row can't be read.
        """
        record = self.sessions.read(lambda connection: study_loading.load(connection, study, numbers))
        costs = load_costs(self.artifacts, study)
        return replace(record, candidates=tuple(with_costs(record.candidates, costs)))

    def iterate_candidates(self, study: str, page: int = 500) -> Iterator[Candidate]:
        """The candidates with a final evaluation, by number, `page` of them in memory at a time.

        Each page is read by itself, so that candidates that are finished meanwhile may be among the later ones.
        """
        return with_costs(study_loading.iterate(self.sessions, study, page), load_costs(self.artifacts, study))

    def candidate_hashes(self, study: str) -> list[tuple[int, str, str]]:
        """Number, family and schedule hash of the candidates with a final evaluation, by number."""
        return self.sessions.read(lambda connection: study_loading.hashes(connection, study))

    def list_studies(self) -> tuple[StudySummary, ...]:
        """All studies, oldest first."""
        return self.sessions.read(studies.summaries)
