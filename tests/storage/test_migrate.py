"""Tables are created and upgraded when a database is opened, whole or not at all."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from autotune.spaces.errors import StorageError
from autotune.storage import migrate
from autotune.storage.connection import make_engine
from autotune.storage.database import Database
from autotune.storage.location import parse_location
from autotune.storage.tables import Base

from .postgres import KINDS, make_database


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of each kind without tables."""
    yield from make_database(request, tmp_path, bare=True)


def test_the_revisions_build_the_tables_that_the_code_expects(url: str) -> None:
    Database.open(url).close()
    engine = make_engine(parse_location(url))
    options = {"version_table": migrate.VERSION_TABLE, "compare_type": True, "compare_server_default": True}
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []
        for name, table in Base.metadata.tables.items():
            primary = inspect(connection).get_pk_constraint(name)
            assert primary["constrained_columns"] == [column.name for column in table.primary_key]
            assert primary["name"] == table.primary_key.name
            if engine.dialect.name == "sqlite":
                options_of = connection.exec_driver_sql("SELECT wr FROM pragma_table_list(?)", (name,)).scalar()
                assert bool(options_of) == (table.dialect_options["sqlite"]["with_rowid"] is False)
        (index,) = [i for i in inspect(connection).get_indexes("evaluation") if i["column_names"] == ["owner"]]
        (where,) = [str(v) for k, v in index["dialect_options"].items() if k.endswith("_where")]
        assert where.strip("()") == "owner IS NOT NULL"
    engine.dispose()


def test_head_is_the_newest_revision() -> None:
    script = ScriptDirectory(str(Path(migrate.__file__).with_name("migrations")))
    assert script.get_heads() == [migrate.HEAD]


def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    Database.open(str(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE {migrate.VERSION_TABLE} SET version_num = '9999'")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"up to 0004; it has 9999, .*: pip install --upgrade diffusion-autotune"):
        Database.open(str(path))
    assert path.read_bytes() == before


def test_a_creation_that_fails_leaves_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.db"
    monkeypatch.setattr("alembic.op.create_index", lambda *_: 1 / 0)  # halfway through the first revision
    with pytest.raises(ZeroDivisionError):
        Database.open(str(path))
    monkeypatch.undo()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    connection.close()
    Database.open(str(path)).close()


@pytest.mark.slow
def test_processes_that_create_one_database_together_all_succeed(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from autotune.storage.database import Database\n"
        "import alembic.command\n"
        "time.sleep(max(0.0, float(sys.argv[2]) - time.time()))\n"
        "Database.open(sys.argv[1]).close()"
    )
    together = str(time.time() + 3)
    command = [sys.executable, "-c", code, str(tmp_path / "a.db"), together]
    children = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [child.communicate()[1] for child in children] == [""] * 4


def test_opening_prints_and_logs_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    Database.open(str(tmp_path / "a.db")).close()
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")] == []


def test_an_up_to_date_database_opens_without_alembic(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    Database.open(str(path)).close()
    code = (
        "import sys, time\n"
        "from autotune.storage.database import Database\n"
        "begin = time.perf_counter()\n"
        "Database.open(sys.argv[1])\n"
        "print('alembic' in sys.modules, time.perf_counter() - begin < 0.15)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert run.stdout == "False True\n", run.stderr
