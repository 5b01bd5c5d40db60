"""Connections to a database, and what their errors mean to a user.

SQLite runs with a write-ahead log, so that readers and the one writer do not block each other, and with
`synchronous=FULL`: `NORMAL` survives a killed process as well, but may lose the last commits when the power fails. The
price is one flush to disk per commit, milliseconds against the seconds that an evaluation takes.
"""

import contextlib
import sqlite3
import time
from collections.abc import Iterator

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from autotune.spaces.errors import StorageError
from autotune.storage.location import Location

BUSY_TIMEOUT_S = 30.0
"""How long to wait for another process that writes; a commit takes milliseconds."""

WRITES = "autotune_writes"

_SQLITE_REMEDIES = {
    "SQLITE_CANTOPEN": "must be a file in a folder that can be written; check path and permissions, or choose another",
    "SQLITE_READONLY": "must be writable; change the permissions of the file and its folder, or copy it elsewhere",
    "SQLITE_NOTADB": "must be an SQLite database; the file is something else, choose another path",
    "SQLITE_CORRUPT": "must be intact; restore it from a backup, or rescue it with `sqlite3 FILE .recover`",
    "SQLITE_BUSY": "must be free within the time limit; another process holds it: wait for it, or end it",
    "SQLITE_LOCKED": "must be free within the time limit; another process holds it: wait for it, or end it",
    "SQLITE_FULL": "needs room to grow and the disk is full; nothing was half-written: free some space and resume",
    "SQLITE_IOERR": "could not be read or written; check the disk, its free space and quota, then resume",
}


def make_engine(location: Location) -> Engine:
    """The engine of a location; nothing is opened yet. `engine.execution_options(**{WRITES: True})` is for writing.

    Raises:
        StorageError: the database's driver is not installed.
    """
    is_sqlite = location.path is not None
    timeout = {} if not is_sqlite or "timeout" in location.url.query else {"timeout": BUSY_TIMEOUT_S}
    try:
        engine = create_engine(location.url, connect_args=timeout, hide_parameters=True, pool_pre_ping=not is_sqlite)
    except ImportError as error:
        raise StorageError(
            f"{location.shown} needs the Python package {error.name or location.url.get_driver_name()}, "
            "which can't be loaded: pip install 'psycopg[binary]'"
        ) from error
    if is_sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    assert isinstance(connection, sqlite3.Connection)
    connection.isolation_level = None  # the module's own BEGIN comes too late and can't be IMMEDIATE
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA synchronous=FULL")
    _switch_to_wal(connection)


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    # SQLite does not wait for other processes here, whatever the timeout: two that create one database would collide.
    (timeout_ms,) = connection.execute("PRAGMA busy_timeout").fetchone()
    deadline = time.monotonic() + timeout_ms / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if _sqlite_code(error) != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later fails at once if another process wrote in between.
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextlib.contextmanager
def storage_errors(location: Location) -> Iterator[None]:
    """Turn the errors of the database into a `StorageError` that says what to do."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise StorageError(_explain(error, location)) from error


def _explain(error: Exception, location: Location) -> str:
    cause = getattr(error, "orig", None) or error
    text = " ".join(str(cause).split()) or type(cause).__name__
    if location.path is None:
        return (
            f"the database {location.shown} could not be used: {text}; check that the server runs, "
            "and the user, password and database name in the URL"
        )
    code = _sqlite_code(cause)
    for prefix, remedy in _SQLITE_REMEDIES.items():
        if code.startswith(prefix):
            return f"the database {location.shown} {remedy} (SQLite: {text})"
    return f"the database {location.shown} refused an operation: {text}; this is a defect, please report it"


def _sqlite_code(error: BaseException) -> str:
    return str(getattr(error, "sqlite_errorname", ""))
