"""Databases that can't be opened or written: one clear error each, and nothing changed on disk."""

import os
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL

from autotune.spaces.errors import StorageError
from autotune.storage.connection import make_engine
from autotune.storage.database import Database
from autotune.storage.location import parse_location
from autotune.storage.sessions import Sessions


@pytest.fixture
def read_only_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a database in it that can't be written, not even by root."""
    folder = tmp_path / "read_only"
    folder.mkdir()
    Database.open(str(folder / "a.db")).close()
    if os.geteuid() == 0:
        mounted = ["mount", "--bind", "-o", "ro", str(folder), str(folder)]
        if sys.platform != "linux" or subprocess.run(mounted, capture_output=True).returncode:
            pytest.skip("root can write everywhere here, and may not mount")
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
    else:
        (folder / "a.db").chmod(0o444)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    Database.open(str(tmp_path / "runs" / "today" / "a.db")).close()
    assert (tmp_path / "runs" / "today" / "a.db").is_file()


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"must be a file; .* is a folder: give a file in it, .*autotune\.db"):
        Database.open(str(tmp_path))


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"must lie in a folder that can be written: .*; choose another place"):
        Database.open(str(tmp_path / "file" / "a.db"))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where nobody can make a file")
def test_a_folder_that_takes_no_file_is_refused() -> None:
    with pytest.raises(StorageError, match=r"/proc/a\.db must be a file in a folder that can be written"):
        Database.open("sqlite:////proc/a.db")


def test_a_read_only_database_is_refused_when_it_is_opened(read_only_folder: Path) -> None:
    before = sorted(read_only_folder.iterdir())
    with pytest.raises(StorageError, match=r"a\.db must be .*writ"):
        Database.open(str(read_only_folder / "a.db"))
    with pytest.raises(StorageError, match=r"new\.db must be .*writ"):
        Database.open(str(read_only_folder / "new.db"))
    assert sorted(read_only_folder.iterdir()) == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to be looked at as one\n" * 40)
    before = path.read_bytes()
    with pytest.raises(StorageError, match="must be an SQLite database; the file is something else"):
        Database.open(str(path))
    assert path.read_bytes() == before


def test_the_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE trials (id INTEGER)")
    connection.close()
    with pytest.raises(StorageError, match=r"holds tables of another program \(trials\): choose another one"):
        Database.open(str(path))
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("trials",)]
    connection.close()


def test_a_locked_database_is_refused_when_the_time_is_up(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    Database.open(str(path)).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="must be free within the time limit; another process holds it"):
        Database.open(f"sqlite:///{path}?timeout=0.1")
    other.execute("ROLLBACK")
    other.close()
    Database.open(f"sqlite:///{path}?timeout=0.1").close()


def test_a_missing_driver_is_named_with_its_install_command() -> None:
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from autotune.storage.database import Database\n"
        "Database.open('postgresql://me:secret@localhost/x')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "StorageError: postgresql+psycopg://me:***@localhost/x needs the Python package psycopg" in run.stderr
    assert "pip install 'psycopg[binary]'" in run.stderr
    assert "secret" not in run.stderr.replace(code, "").replace("Database.open('postgresql://me:secret", "")


def test_a_server_that_does_not_answer_is_one_clear_error_without_the_password() -> None:
    pytest.importorskip("psycopg", reason="PostgreSQL needs its driver")
    with pytest.raises(
        StorageError, match=r"postgresql\+psycopg://me:\*\*\*@127\.0\.0\.1:1/x could not be used"
    ) as caught:
        Database.open(URL.create("postgresql", "me", "sec" + "ret", "127.0.0.1", 1, "x").render_as_string(False))
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_connections_flush_every_commit_and_check_references(sqlite_database: Database) -> None:
    location = sqlite_database.location
    engine = make_engine(location)
    with Sessions(engine, location).reading() as connection:
        pragmas = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in
                   ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")]  # fmt: skip
    engine.dispose()
    assert pragmas == ["wal", 2, 1, 30_000]


def test_a_reader_is_not_held_up_by_a_writer(tmp_path: Path) -> None:
    location = parse_location(str(tmp_path / "a.db"))
    first, second = Database.open(str(location.path)), make_engine(location)
    sessions = Sessions(second, location)
    with sessions.writing() as connection:
        connection.exec_driver_sql("DELETE FROM study")
        assert first.list_studies() == ()
    first.close()
    second.dispose()


def test_importing_storage_loads_neither_torch_nor_alembic() -> None:
    code = (
        "import sys, autotune.storage.database\n"
        "print([name for name in ('torch', 'diffusers', 'alembic', 'rich') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
