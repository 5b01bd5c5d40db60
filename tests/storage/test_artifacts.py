"""Artifacts come back byte for byte, or not at all."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autotune.spaces.errors import StorageError
from autotune.storage.database import Database


def files(database: Database) -> list[Path]:
    return sorted(path for path in database.artifacts.folder.rglob("*") if path.is_file())


def test_what_was_saved_comes_back(database: Database) -> None:
    data = bytes(range(256)) * 1000
    database.artifacts.save("reference/1", data, "reference")
    database.artifacts.save("empty", b"", "sheet")
    assert database.artifacts.load("reference/1") == data
    assert database.artifacts.load("empty") == b""


def test_a_name_never_saved_is_none_and_makes_no_folder(database: Database) -> None:
    assert database.artifacts.load("reference/1") is None
    assert not database.artifacts.folder.exists()


def test_a_file_is_named_by_its_content_and_stored_once(database: Database, tmp_path: Path) -> None:
    database.artifacts.save("a", b"same", "x")
    database.artifacts.save("b", b"same", "x")
    digest = hashlib.sha256(b"same").hexdigest()
    assert files(database) == [tmp_path / "autotune.db.artifacts" / digest[:2] / digest[2:]]


def test_saving_a_name_again_replaces_what_it_stands_for(database: Database) -> None:
    database.artifacts.save("a", b"old", "x")
    database.artifacts.save("b", b"old", "x")
    database.artifacts.save("a", b"new", "x")
    assert database.artifacts.load("a") == b"new"
    assert database.artifacts.load("b") == b"old"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone", "folder gone"])
def test_a_damaged_file_counts_as_not_there_and_can_be_saved_again(database: Database, damage: str) -> None:
    database.artifacts.save("a", b"0123456789", "x")
    (path,) = files(database)
    if damage == "truncated":
        path.write_bytes(b"01234")
    elif damage == "flipped":
        path.write_bytes(b"0123456780")
    else:
        path.unlink()
        if damage == "folder gone":
            path.parent.rmdir()
    assert database.artifacts.load("a") is None
    database.artifacts.save("a", b"0123456789", "x")
    assert database.artifacts.load("a") == b"0123456789"


def test_a_folder_that_can_not_be_made_is_one_clear_error_and_no_name(database: Database) -> None:
    database.artifacts.folder.write_text("a file is in the way")
    with pytest.raises(StorageError, match=r"folder .*artifacts.* must be writable: .*; change its permissions"):
        database.artifacts.save("a", b"data", "x")
    assert database.artifacts.load("a") is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_leaves_the_old_content_and_no_partial_file(database: Database, url: str) -> None:
    database.artifacts.save("a", b"old", "x")
    before = files(database)
    code = (
        "import resource, signal, sys\n"
        "from autotune.spaces.errors import StorageError\n"
        "from autotune.storage.database import Database\n"
        "database = Database.open(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "try:\n"
        "    database.artifacts.save('a', bytes(1_000_000), 'x')\n"
        "except StorageError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True)
    assert "could not be written" in run.stdout, run.stderr
    assert files(database) == before
    assert database.artifacts.load("a") == b"old"


def fill(database: Database) -> None:
    for i in range(10_000):
        database.artifacts.save(f"name {i}", b"first", "x" * 30)


def test_a_disk_that_is_full_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    """On a real small file system: the database reports the full disk and goes on when there is room again."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        with Database.open(str(folder / "a.db")) as database:
            database.artifacts.save("first", b"first", "x")
            ballast = folder / "ballast"
            with pytest.raises(OSError, match="No space left"):
                ballast.write_bytes(bytes(1_000_000))
            kept = files(database)
            with pytest.raises(StorageError, match=r"artifacts.* No space left on device"):
                database.artifacts.save("second", bytes(100_000), "x")
            assert files(database) == kept
            with pytest.raises(StorageError, match=r"needs room to grow|could not be read or written"):
                fill(database)
            assert database.artifacts.load("first") == b"first"
            ballast.unlink()
            database.artifacts.save("second", bytes(100_000), "x")
            assert database.artifacts.load("second") == bytes(100_000)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_leftovers_of_a_killed_process_are_removed_a_day_later(database: Database, url: str) -> None:
    database.artifacts.save("a", b"data", "x")
    (kept,) = files(database)
    old, young = kept.parent / ".dead.tmp1", kept.parent / ".busy.tmp2"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    os.utime(kept, (time.time() - 2 * 24 * 3600,) * 2)
    with Database.open(url) as again:
        again.artifacts.save("b", b"other", "x")
        assert not old.exists()
        assert young.exists()
        assert again.artifacts.load("a") == b"data"
