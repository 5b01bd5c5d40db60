"""Studies and families beside each other on the command line, and the replay without a column on a real model."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from autotune.spaces.front import study_front
from autotune.storage.database import Database

from .place import Finished, Place

Call = Callable[..., Finished]


@pytest.fixture
def twins(small: Place, call: Call) -> str:
    """A database with the small study under two names."""
    assert call("db", "export", "all.jsonl", "--storage", small.storage).code == 0
    storage = f"sqlite:///{Path('twins.db').resolve()}"
    for rename in ((), ("--rename", "small=twin")):
        done = call("db", "import", "all.jsonl", *rename, "--storage", storage)
        assert done.code == 0, done.err
    return storage


def test_two_studies_with_the_same_measurements_differ_by_nothing(twins: str, call: Call) -> None:
    done = call("compare", "small", "twin", "--storage", twins, "--format", "json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    (difference,) = found["differences"]
    assert difference["difference"] == 0.0
    assert difference["intervals"] == {"difference": [0.0, 0.0]}
    with Database.open(twins) as database:
        members = [c for c in study_front(database.load_study("small")) if c.held_out is not None]
    rows = [row for row in found["members"] if row["front"] == "twin" and row["role"] == "member"]
    assert {row["schedule_hash"] for row in rows} == {c.schedule_hash for c in members}
    printed = call("compare", "small", "twin", "--storage", twins, "--format", "csv")
    assert len(list(csv.DictReader(io.StringIO(printed.out)))) == len(found["members"])


def test_one_study_is_split_into_its_families(small: Place, call: Call) -> None:
    done = call("compare", "small", "--storage", small.storage, "--absolute")
    assert done.code == 0, done.err
    for text in ("all families", "ecad", "fewer-steps", "Hypervolume", "Speed at equal quality", "ms/image"):
        assert text in done.out


def test_a_folder_gets_a_page_with_its_figures(small: Place, call: Call) -> None:
    done = call("compare", "small", "-o", "new/folder", "--storage", small.storage)
    assert done.out == "wrote new/folder/compare.html\n"
    names = {path.name for path in Path("new/folder").iterdir()}
    assert names == {"compare.html", "compare.md", "relative.png", "absolute.png", "members.csv"}


@pytest.mark.parametrize(
    ("studies", "code", "words"),
    [
        (("small", "smal"), 1, ("'smal'", "did you mean 'small'")),
        (("small", "small"), 2, ("'small' was given 2 times",)),
        ((), 2, ("STUDY",)),
    ],
)
def test_bad_studies_are_one_clear_error(
    studies: tuple[str, ...], code: int, words: tuple[str, ...], small: Place, call: Call
) -> None:
    done = call("compare", *studies, "--storage", small.storage)
    assert (done.code, done.out) == (code, "")
    for word in words:
        assert word in done.err


def test_a_replay_needs_a_positive_number_of_members_and_says_so_before_it_loads(small: Place, call: Call) -> None:
    done = call("ablate", "small", "--members", "0", "--storage", small.storage)
    assert (done.code, done.out) == (2, "")
    assert "at least 1; got 0" in done.err


@pytest.mark.slow
def test_what_is_replayed_without_a_column_is_kept_and_compared(small: Place, tmp_path: Path, call: Call) -> None:
    """On the real model."""
    for path in small.folder.glob("studies.db*"):
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, tmp_path / path.name)
    storage = ("--storage", f"sqlite:///{tmp_path / 'studies.db'}")
    done = call("ablate", "small", "--members", "1", *storage, "--format", "json")
    assert done.code == 0, done.err
    rows = json.loads(done.out)
    used = [row["column"] for row in rows if row["used"]]
    assert used
    assert done.err.count(", without ") == len(used)
    compared = call("compare", "small", *storage, "--format", "json")
    assert json.loads(compared.out)["columns"] == {"small": rows}
    assert "What each column is worth: small" in call("compare", "small", *storage).out
