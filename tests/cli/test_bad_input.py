"""Bad input: one clear error, the right exit code, and nothing lost, half-written or left behind."""

import base64
import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune.storage.database import Database

from .place import Finished, Place

Call = Callable[..., Finished]

FAILED, USAGE = 1, 2


@pytest.fixture
def exported(small: Place, call: Call) -> Path:
    """The schedule file of a pick that caches, in the folder of this test."""
    front = small.front("small")
    cached = next(str(row["schedule_hash"]) for row in front if row["family"] == "ecad")
    done = call("export", "small", "--pick", cached[:10], "-o", "good.schedule.json", "--storage", small.storage)
    assert done.code == 0, done.err
    return Path("good.schedule.json").resolve()


def check_error(done: Finished, code: int, *words: str) -> None:
    """One line on standard error that says these words, and nothing else anywhere."""
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    for word in words:
        assert word in done.err
    assert done.code == code


RUN = ("--model", "mini-flux")

BAD_RUNS: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("--model", "mini-flxu", "--budget", "2m"), ("'mini-flxu'", "did you mean mini-flux")),
    (("--model", "no/such/folder", "--budget", "2m"), ("'no/such/folder'", "mini-flux")),
    ((*RUN,), ("budget",)),
    ((*RUN, "--budget", "2 hours"), ("'2 hours'", "2h")),
    ((*RUN, "--budget", "-1"), ("'-1'", "2h")),
    ((*RUN, "--budget", "0"), ("'0'", "2h")),
    ((*RUN, "--budget", "0s"), ("'0s'", "2h")),
    ((*RUN, "--budget", ""), ("''", "2h")),
    ((*RUN, "--evaluations", "0"), ("evaluations", "0")),
    ((*RUN, "--network-calls", "-4"), ("network calls", "-4")),
    ((*RUN, "--budget", "2m", "--family", "genetic"), ("'genetic'", "ecad")),
    ((*RUN, "--budget", "2m", "--granularity", "steps"), ("--family ecad",)),
    ((*RUN, "--budget", "2m", "--steps", "-3"), ("steps", "-3")),
    ((*RUN, "--budget", "2m", "--steps", "0"), ("steps", "0")),
    ((*RUN, "--budget", "2m", "--resolution", "33"), ("resolution", "33", "8")),
    ((*RUN, "--budget", "2m", "--guidance", "nan"), ("guidance", "nan")),
    ((*RUN, "--budget", "2m", "--seed", "-1"), ("seed", "-1")),
    ((*RUN, "--budget", "2m", "--objective", "speed"), ("'speed'", "latency")),
    ((*RUN, "--budget", "2m", "--constraint", "deviation<0.1"), ("deviation<0.1", "<=")),
    ((*RUN, "--budget", "2m", "--prompts", "missing.txt"), ("missing.txt",)),
    ((*RUN, "--budget", "2m", "--prompts", "empty.txt"), ("empty.txt", "one prompt per line")),
    ((*RUN, "--budget", "2m", "--prompts", "latin1.txt"), ("latin1.txt", "UTF-8")),
    ((*RUN, "--budget", "2m", "--prompts", "one.txt"), ("one.txt", "two different prompts")),
    ((*RUN, "--budget", "2m", "--study", "../up"), ("'../up'", "slash")),
    ((*RUN, "--budget", "2m", "--study", " "), ("' '", "printable")),
    ((*RUN, "--budget", "2m", "--device", "cudda"), ("'cudda'", "cpu")),
    ((*RUN, "--budget", "2m", "--dtype", "int8"), ("'int8'", "float32")),
]


def test_a_bad_run_leaves_nothing(small: Place, call: Call) -> None:
    """Neither a folder for results nor a study; the prompts files are ours."""
    Path("empty.txt").write_text("\n# nothing\n")
    Path("latin1.txt").write_bytes("ein Käfer\nein Boot\n".encode("latin-1"))
    Path("one.txt").write_text("a cat\n")
    ours = set(Path().iterdir())
    with Database.open(small.storage) as database:
        studies = database.list_studies()
        for options, words in BAD_RUNS:
            check_error(call("run", *options, "--storage", small.storage), USAGE, *words)
            assert set(Path().iterdir()) == ours
        taken = call("run", *RUN, "--budget", "2m", "--study", "small", "--storage", small.storage)
        check_error(taken, USAGE, "'small'", "resume", "--study")
        assert database.list_studies() == studies
    assert set(Path().iterdir()) == ours


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("front", "smal"), ("'smal'", "did you mean 'small'")),
        (("show", "nothing like it"), ("'nothing like it'", "autotune list studies")),
        (("resume", "smal"), ("'smal'", "did you mean 'small'")),
        (("export", "smal", "-o", "x.json"), ("'smal'",)),
        (("report", "smal", "-o", "x"), ("'smal'",)),
        (("export", "small", "-o", "no/folder/x.json"), ("no/folder/x.json", "make the folder no/folder")),
        (("export", "small", "-o", "."), ("could not be written",)),
        (("report", "small", "-o", "a file"), ("a file", "folder")),
    ],
)
def test_what_is_not_there(small: Place, call: Call, words: tuple[str, ...], said: tuple[str, ...]) -> None:
    Path("a file").write_text("mine")
    check_error(call(*words, "--storage", small.storage), FAILED, *said)
    assert [path.name for path in Path().rglob("*") if path.name != "autotune-out"] == ["a file"]
    assert Path("a file").read_text() == "mine"
    assert not Path("autotune-out").exists()


@pytest.mark.parametrize(("which", "fits"), [("nosuch", "fits 0"), ("", "fits")])
def test_a_pick_that_is_none(small: Place, call: Call, which: str, fits: str) -> None:
    done = call("export", "small", "--pick", which, "-o", "x.json", "--storage", small.storage)
    check_error(done, USAGE, repr(which), fits, "quality, balanced, fast")
    assert not Path("x.json").exists()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:////proc/nowhere/x.db", ("/proc/nowhere/x.db",)),
        ("missing.db", ("missing.db", "check --storage")),
        ("text.db", ("text.db", "something else")),
        (".", ("is a folder",)),
        ("mysql://u:secret@host/db", ("mysql", "sqlite:///PATH")),
        ("postgresql://u:secret@127.0.0.1:9/db", ("127.0.0.1:9",)),
    ],
)
def test_a_storage_that_cannot_be_opened(call: Call, url: str, said: tuple[str, ...]) -> None:
    Path("text.db").write_text("not a database at all, just text that somebody wrote\n" * 40)
    for words in (("front", "s"), ("list", "studies"), ("resume", "s")):
        done = call(*words, "--storage", url)
        check_error(done, FAILED, *said)
        assert "secret" not in done.err
    assert [path.name for path in Path().iterdir()] == ["text.db"]


def test_a_search_needs_a_folder_for_results(small: Place, call: Call) -> None:
    """It is tried before the search, since after it everything would have been in vain."""
    Path("a file").write_text("mine")
    for out in ("a file", "a file/below", "/proc/nowhere"):
        done = call("run", *RUN, "--budget", "2m", "--storage", small.storage, "--out", out)
        check_error(done, FAILED, out, "--out", "choose another")
    assert [path.name for path in Path().iterdir()] == ["a file"]


def broken(text: str, change: Callable[[dict[str, Any]], object]) -> str:
    """The text of a schedule file after a change of its content."""
    data = json.loads(text)
    change(data)
    return json.dumps(data)


def widen(data: dict[str, Any]) -> None:
    """A mask of one row too many."""
    cache = data["schedule"]["cache"]
    cache["packed"] = base64.b64encode(base64.b64decode(cache["packed"]) + b"\0" * cache["n_sites"]).decode()


BAD_FILES: dict[str, tuple[Callable[[str], str], str]] = {
    "truncated": (lambda text: text[: len(text) // 2], "truncated"),
    "empty": (lambda text: "", "not valid JSON"),
    "unknown key": (lambda text: broken(text, lambda d: d["schedule"].update(colour=1)), "schedule.colour"),
    "mask length": (lambda text: broken(text, widen), "schedule.cache.packed must hold"),
    "NaN": (lambda text: broken(text, lambda d: d["measured"].update(speedup=float("nan"))), "NaN"),
    "version": (lambda text: broken(text, lambda d: d.update(schema_version=99)), "schema_version must be 1; got 99"),
    "edited": (lambda text: broken(text, lambda d: d.update(hash="0" * 64)), "hash must be"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_schedule_file(exported: Path, call: Call, name: str) -> None:
    spoil, said = BAD_FILES[name]
    Path("bad.json").write_text(spoil(exported.read_text()))
    for command in (("validate", exported, "bad.json"), ("apply", "bad.json")):
        check_error(call(*command), USAGE, "bad.json", said)


def test_a_schedule_file_of_another_model(exported: Path, call: Call) -> None:
    """Well-formed, so that it validates, but it is not drawn with."""
    Path("other.json").write_text(
        broken(exported.read_text(), lambda d: d["condition"].update(inventory_hash="0" * 64))
    )
    assert call("validate", "other.json").code == 0
    done = call("apply", "other.json", "--prompt", "a cat", "-o", "x.png")
    check_error(done, USAGE, "inventory")
    assert not Path("x.png").exists()


def test_odd_words_for_apply_and_validate(exported: Path, call: Call) -> None:
    check_error(call("validate"), USAGE, "schedule file")
    check_error(call("validate", "nofile"), USAGE, "nofile")
    check_error(call("apply", exported, "--prompt", "a cat"), USAGE, "--output")
    check_error(call("apply", exported, "-o", "x.png"), USAGE, "--prompt")
    check_error(call("apply", exported, "--prompt", "a cat", "-o", "no/x.png"), USAGE, "no/x.png")


def test_a_full_disk_leaves_the_old_export(small: Place, call: Call) -> None:
    """The limit on file sizes makes writing fail as a full disk does, in the middle of the file."""
    Path("x.json").write_text("the old one")
    words = ("export", "small", "-o", "x.json", "--storage", small.storage)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Database.open(small.storage):  # keeps its shared memory file in place, which would be too large to make
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            done = call(*words)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    check_error(done, FAILED, "x.json", "nothing was changed", "free some space")
    assert [path.name for path in Path().iterdir()] == ["x.json"]
    assert Path("x.json").read_text() == "the old one"
    assert call(*words).code == 0
    assert call("validate", "x.json").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run",), "Missing option '--model'"),
        (("--model",), "'--model' requires an argument"),
        (("run", "--model", "mini-flux", "--nosuch"), "--nosuch"),
        (("run", "--model", "mini-flux", "--steps", "abc"), "'--steps'"),
        (("front",), "'STUDY'"),
        (("export", "small"), "'--output'"),
        (("frnt", "small"), "'front'"),
        (("front", "small", "--format", "xml"), "'xml'"),
    ],
)
def test_a_command_line_that_is_none(call: Call, words: tuple[str, ...], said: str) -> None:
    done = call(*words)
    assert done.code == USAGE
    assert done.out == ""
    assert said in done.err
    assert done.err.count("\n") <= 4
    assert "Traceback" not in done.err
