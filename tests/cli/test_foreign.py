"""Other tools' files on the command line."""

import json
from collections.abc import Callable
from pathlib import Path

from autotune.cli.foreign import ImportFormat
from autotune.cli.studies import ExportFormat
from autotune.evaluators.import_schedule import READERS
from autotune.reports.foreign_export import FOREIGN_EXPORTS
from autotune.spaces.schedule_file import load_schedule_file

from .place import Finished, Place, query

Call = Callable[..., Finished]


def test_every_format_can_be_asked_for() -> None:
    assert [str(form) for form in ImportFormat] == list(READERS)
    assert [str(form) for form in ExportFormat] == ["autotune", *FOREIGN_EXPORTS]


def test_import_makes_a_schedule_file(call: Call) -> None:
    Path("theirs.json").write_text('{"attn1": [1, 0, 0, 1], "ff": [1, 0, 1, 0]}')
    done = call("import", "theirs.json", "--as", "smoothcache", "--model", "mini-pixart", "-o", "ours.json")
    assert done == Finished(
        0, "wrote ours.json, of which nothing is measured; to use it: autotune.apply(pipe, 'ours.json')\n", ""
    )
    assert json.loads(call("validate", "ours.json", "--format", "json").out)[0]["columns"] == ["cache"]
    assert load_schedule_file("ours.json").condition.model == "mini-pixart"
    assert call("apply", "ours.json", "--prompt", "a cat", "-o", "x.png").code == 0


def test_import_says_what_is_not_carried(call: Call) -> None:
    Path("steps.json").write_text("[0, 2]")
    words = ("import", "steps.json", "--as", "steps", "--model", "mini-flux", "-o", "ours.json")
    done = call(*words, "--steps", "4")
    assert done.code == 0
    assert done.err.startswith("warning: a cached step reuses what the whole stack of blocks added")
    assert done.err.count("\n") == 1
    for more, said in (((), "--steps"), (("--steps", "2"), "below the number of steps"), (("--steps", "-1"), "-1")):
        bad = call(*words, *more)
        assert (bad.code, bad.out) == (2, "")
        assert bad.err.startswith("error: ")
        assert said in bad.err


def test_a_bad_import_writes_nothing(call: Call) -> None:
    Path("bad.json").write_text('{"attn3": [1, 0]}')
    for words, code, said in (
        (("bad.json", "--as", "smoothcache", "--model", "mini-pixart", "-o", "x"), 2, "bad.json: attn3 is not"),
        (("nofile", "--as", "ecad", "--model", "mini-flux", "-o", "x"), 2, "nofile"),
        (("bad.json", "--as", "yaml", "--model", "mini-flux", "-o", "x"), 2, "'yaml'"),
        (("bad.json", "--as", "ecad", "--model", "mini-flxu", "-o", "x"), 2, "did you mean mini-flux"),
    ):
        done = call("import", *words)
        assert (done.code, done.out) == (code, "")
        assert said in done.err
    assert [path.name for path in Path().iterdir()] == ["bad.json"]


def test_export_for_other_tools(small: Place, call: Call) -> None:
    ((cached,), *_) = query(small, "SELECT schedule_hash FROM candidate WHERE label LIKE 'FORA%'")
    for form in FOREIGN_EXPORTS:
        words = (
            "export",
            "small",
            "--pick",
            str(cached)[:10],
            "--format",
            form,
            "-o",
            form,
            "--storage",
            small.storage,
        )
        done = call(*words)
        assert (done.code, done.out) == (0, f"wrote {form}\n"), done.err
        assert all(line.startswith("warning: ") for line in done.err.splitlines())
    assert "steps_computation_mask: [1, " in Path("cache-dit").read_text()
    assert set(json.loads(Path("smoothcache").read_text())) >= {"attn", "single_proj_out"}
    assert "def apply_plan(" in Path("diffusers").read_text()
    plain = next(str(row["schedule_hash"]) for row in small.front("small") if row["family"] != "ecad")
    done = call("export", "small", "--pick", plain, "--format", "cache-dit", "-o", "x", "--storage", small.storage)
    assert (done.code, done.out) == (2, "")
    assert "only a schedule with a cache column" in done.err
    assert not Path("x").exists()
