"""Transactions on one database, with patience for a server that goes away and comes back."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from autotune.spaces.errors import StorageError
from autotune.storage.connection import WRITES, make_engine, storage_errors
from autotune.storage.location import Location, make_folder, parse_location
from autotune.storage.migrate import upgrade

RECONNECT_S = 60.0
"""How long to wait for a server that went away; a restart takes seconds."""

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 2.0

_CONFLICTS = ("40001", "40P01")  # serialization failure, deadlock: PostgreSQL asks to run the transaction again

T = TypeVar("T")


def open_sessions(url: str | None, *, must_exist: bool = False) -> "tuple[Sessions, str | None]":
    """A database whose tables are at this version, and the revision they had before, None if there were none.

    Args:
        url: as `Database.open` takes it.
        must_exist: an SQLite file that is missing is an error, not a new database.

    Raises:
        StorageError: it can't be opened, is not ours, or was made by a newer version.
    """
    location = parse_location(url)
    if must_exist and location.path is not None and not location.path.exists():
        raise StorageError(f"the database must exist; there is none at {location.path}: check --storage")
    make_folder(location)
    sessions = Sessions(make_engine(location), location)
    try:
        with storage_errors(location):
            return sessions, upgrade(sessions.for_writing, location)
    except BaseException:
        sessions.engine.dispose()
        raise


class Sessions:
    """Runs work in transactions: committed when the work returns, rolled back on an error.

    Where the connection to a server breaks, or the server is away, the work runs again on a new connection, for
    `reconnect_s` seconds at most. The connection may break when the commit is done and before the answer arrives, so
    work must be such that doing it twice is doing it once. `n_outages` counts the times that a connection was lost.
    `for_writing` is an engine whose transactions write.
    """

    def __init__(self, engine: Engine, location: Location, reconnect_s: float = RECONNECT_S) -> None:
        self.engine = engine
        self.location = location
        self.n_outages = 0
        self._reconnect_s = reconnect_s
        self._is_server = location.path is None
        self.for_writing = engine.execution_options(**{WRITES: True})
        # What one read sees must be of one moment, however many queries it takes; SQLite does so by itself.
        level = {"isolation_level": "REPEATABLE READ"} if self._is_server else {}
        self._for_reading = engine.execution_options(**level)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """One transaction that only reads, without patience; it sees one state of the database throughout."""
        with storage_errors(self.location), self._for_reading.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction that writes, without patience; on SQLite it waits here until no other process writes."""
        with storage_errors(self.location), self.for_writing.begin() as connection:
            yield connection

    def read(self, work: Callable[[Connection], T]) -> T:
        """The result of `work`, which only reads.

        Raises:
            StorageError: the database can't be used.
        """
        return self._run(self._for_reading, work, self._reconnect_s)

    def write(self, work: Callable[[Connection], T], *, patient: bool = True) -> T:
        """The result of `work`, committed; it may run more than once, so it must be safe to repeat.

        With `patient` false, a server that is away is an error at once.

        Raises:
            StorageError: the database can't be used; the work may have been done if the connection broke.
        """
        return self._run(self.for_writing, work, self._reconnect_s if patient else 0.0)

    def _run(self, engine: Engine, work: Callable[[Connection], T], patience_s: float) -> T:
        deadline, wait_s = time.monotonic() + patience_s, _FIRST_WAIT_S
        with storage_errors(self.location):
            while True:
                connected = False
                try:
                    with engine.begin() as connection:
                        connected = True
                        return work(connection)
                except DBAPIError as error:
                    lost = self._is_server and (error.connection_invalidated or not connected)
                    self.n_outages += lost
                    if not (lost or _is_conflict(error)) or time.monotonic() + wait_s > deadline:
                        raise
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


def _is_conflict(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in _CONFLICTS
