"""A folder that can't be written: one error, and what lay there is as it was."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .place import Finished, Place

Call = Callable[..., Finished]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="gives up a privilege of Linux's root user")

CAPABILITY_VERSION_3 = 0x20080522
DAC_OVERRIDE = 1 << 1


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Let permissions bind this process even where root runs it."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    words = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable of the low and of the high capabilities
    assert libc.capget(header, words) == 0
    before = words[0]
    words[0] = before & ~DAC_OVERRIDE
    assert libc.capset(header, words) == 0
    try:
        yield
    finally:
        words[0] = before
        assert libc.capset(header, words) == 0


@pytest.fixture
def locked() -> Iterator[Path]:
    """A read-only folder with one file in it."""
    folder = Path("locked")
    folder.mkdir()
    (folder / "old.json").write_text("old")
    folder.chmod(0o555)
    with ordinary_user():
        assert not os.access(folder, os.W_OK) or os.geteuid() == 0
        yield folder
    folder.chmod(0o755)


@pytest.mark.parametrize(
    "words",
    [
        ("export", "small", "-o", "locked/old.json"),
        ("report", "small", "-o", "locked"),
        ("report", "small", "-o", "locked/report"),
        ("run", "--model", "mini-flux", "--budget", "2m", "--out", "locked"),
        ("run", "--model", "mini-flux", "--budget", "2m", "--out", "locked/out"),
    ],
)
def test_a_folder_that_is_read_only(small: Place, call: Call, locked: Path, words: tuple[str, ...]) -> None:
    done = call(*words, "--storage", small.storage)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert "locked" in done.err
    assert "Permission denied" in done.err
    assert [path.name for path in locked.iterdir()] == ["old.json"]
    assert (locked / "old.json").read_text() == "old"


def test_a_database_in_a_folder_that_is_read_only(call: Call, locked: Path) -> None:
    done = call("run", "--model", "mini-flux", "--budget", "2m", "--storage", "locked/studies.db")
    assert done.code == 1
    assert done.err.startswith("error: the database")
    assert "locked/studies.db" in done.err
    assert [path.name for path in Path().iterdir()] == ["locked"]
    assert [path.name for path in locked.iterdir()] == ["old.json"]
