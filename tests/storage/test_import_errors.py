"""A file that is not as it was exported: one error with the line and the field, and nothing imported."""

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune.spaces.condition import Condition
from autotune.spaces.errors import StorageError, StudyExistsError, UsageError
from autotune.spaces.evaluation import Failure, FailureKind, Measurement
from autotune.spaces.inventory import Inventory
from autotune.storage.database import Database
from autotune.storage.exporting import export
from autotune.storage.importing import import_file

Lines = list[dict[str, Any]]
Change = Callable[[Lines], object]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'autotune.db'}"


@pytest.fixture
def lines(
    database: Database, start: Callable[..., str], add: Callable[[int, str], str],
    make_measurement: Callable[[float], Measurement], tmp_path: Path,
) -> Lines:  # fmt: skip
    """An export: the header, condition 1, prompt set 2, schedules 3 and 4, evaluations 5 and 6, study 7, candidates 8
    and 9, artifact 10, and the end."""
    for i in range(2):
        start(f"k{i}", i)
        add(i, f"k{i}")
    database.finish_evaluations({"k0": make_measurement(0), "k1": Failure(kind=FailureKind.NAN, reason="x")})
    database.artifacts.save("sheet", b"picture", "image/png")
    path = tmp_path / "good.jsonl"
    export(database, path, artifacts=True)
    made = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("kind") for line in made] == [
        None, "condition", "prompt_set", "schedule", "schedule", "evaluation", "evaluation", "study", "candidate",
        "candidate", "artifact", "end",
    ]  # fmt: skip
    return made


def write(path: Path, lines: Lines) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def is_empty(database: Database) -> bool:
    with database.sessions.reading() as connection:
        tables = ("model", "condition", "prompt_set", "schedule", "evaluation", "measurement", "timing", "study",
                  "candidate", "artifact")  # fmt: skip
        counts = [connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() for table in tables]
    files = [path for path in database.artifacts.folder.rglob("*") if path.is_file()]
    return set(counts) == {0} and files == []


def setting(number: int, field: str, value: object) -> Change:
    """Put a value into a field, a dotted one in an object of the line."""

    def change(lines: Lines) -> None:
        *path, last = field.split(".")
        target = lines[number]
        for name in path:
            target = target[name]
        target[last] = value

    return change


def without(number: int, field: str) -> Change:
    return lambda lines: lines[number].pop(field)


def dropping(number: int) -> Change:
    def change(lines: Lines) -> None:
        del lines[number]
        lines[-1]["n_lines"] -= 1

    return change


OTHER = "0" * 64

BAD: list[tuple[Change, str]] = [
    (setting(0, "format", "other"), "must be a file that `autotune db export` wrote"),
    (setting(0, "version", 2), "must have version 1; got 2: pip install --upgrade"),
    (setting(0, "version", "1"), 'line 1: version must be a whole number; got "1"'),
    (setting(0, "more", 1), "line 1: more is not a known field"),
    (setting(5, "kind", "thing"), "line 6: kind must be one of condition, .*got 'thing'"),
    (without(5, "kind"), "line 6: kind is missing"),
    (setting(5, "kind", 3), "line 6: kind must be a text; got 3"),
    (setting(1, "hash", OTHER), "line 2: hash must be that of the value, .*got 000"),
    (setting(1, "data.height", "64"), "line 2: condition.height must be int"),
    (setting(1, "data.height", 65), "line 2: hash must be that of the value"),
    (without(2, "seeds"), "line 3: seeds is missing"),
    (setting(2, "seeds", [1]), "line 3: a fidelity needs one seed per prompt"),
    (setting(2, "seeds", [1, "x"]), r'line 3: seeds\[1\] must be int; got "x"'),
    (setting(2, "prompts", ["a", "b"]), "line 3: hash must be that of the value"),
    (setting(2, "name", ""), 'line 3: name must have 1 to 32 characters; got ""'),
    (setting(3, "data.time", [1.0, 0.5]), "line 4: hash must be that of the value"),
    (without(3, "data"), "line 4: data is missing"),
    (setting(3, "data", {"n_steps": 2}), "line 4: a schedule must have the columns"),
    (setting(3, "extra", None), "line 4: extra is not a known field"),
    (dropping(3), "line [56]: schedule must name what stands before it or in the database"),
    (dropping(1), "line 5: condition must name what stands before it or in the database"),
    (dropping(2), "line 5: prompt_set must name what stands before it or in the database"),
    (dropping(5), "line 8: key must name what stands before it or in the database"),
    (dropping(7), "line 8: study must name one that stands before it; there is no 'flux'"),
    (setting(5, "key", ""), "line 6: key must have 1 to 64 characters"),
    (setting(5, "started", "yesterday"), 'line 6: started must be a moment such as .*got "yesterday"'),
    (setting(5, "finished", "2026-01-02T03:04:05"), "line 6: finished must be a moment"),
    (setting(5, "wall_s", None), "line 6: wall_s must be a number; got null"),
    (setting(5, "wall_s", 10**400), "line 6: wall_s must be finite"),
    (setting(5, "n_lost", -1), "line 6: n_lost must be a whole number from 0"),
    (setting(5, "n_lost", True), "line 6: n_lost must be a whole number; got true"),
    (setting(5, "measurement.macs", 2**63), "line 6: macs must be a whole number from 0 to 2"),
    (setting(5, "measurement.quality.psnr", [1.0]), "line 6: .*got 1 values of psnr for 2 prompts"),
    (setting(5, "measurement.quality", {"x" * 33: [1.0, 2.0]}), "line 6: a metric must have at most 32 characters"),
    (setting(5, "measurement.latency_ms", [None]), r"line 6: latency_ms\[0\] must be int or float; got null"),
    (setting(5, "measurement.more", 1), "line 6: more is not a known field"),
    (without(5, "measurement"), "line 6: measurement is missing"),
    (setting(6, "failure.kind", "bored"), "line 7: failure.kind must be one of .*got 'bored'"),
    (setting(6, "failure.reason", "a\0b"), "line 7: reason must hold no NUL"),
    (setting(6, "lost_reason", 5), "line 7: lost_reason must be a text; got 5"),
    (setting(7, "name", "../x"), "line 8: a study name must not begin with"),
    (setting(7, "state", "paused"), "line 8: state must be one of running, .*got 'paused'"),
    (setting(7, "settings", []), r"line 8: settings must be an object; got \[\]"),
    (setting(7, "inventory", {}), "line 8: "),
    (setting(7, "condition", OTHER), "line 8: condition must name what stands before it"),
    (setting(8, "number", 2**31), "line 9: number must be a whole number from 0 to 2"),
    (setting(8, "schedule", OTHER), "line 9: schedule must name what stands before it"),
    (setting(8, "held_out", OTHER), "line 9: held_out must name what stands before it"),
    (setting(8, "number", 1), "line 10: number 1 of study 'flux' stands twice"),
    (setting(10, "sha256", OTHER), "line 11: sha256 must be that of content"),
    (setting(10, "sha256", "../../x"), "line 11: sha256 must be a SHA-256 as 64 hex digits"),
    (setting(10, "content", "%%%"), "line 11: content must be base64"),
    (setting(10, "content", base64.b64encode(b"other").decode()), "line 11: sha256 must be that of content"),
    (setting(11, "n_lines", 9), "line 12: n_lines must be the number of lines before, 10"),
    (lambda lines: lines.pop(), "must end with a line of kind 'end'; it was cut off"),
    (lambda lines: lines.append(lines[1]), "line 13: the line of kind 'end' must be the last one"),
    (lambda lines: lines.clear(), "must be a file that `autotune db export` wrote"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message[:50] for _, message in BAD])
def test_a_wrong_line_is_one_error_and_nothing_is_imported(
    lines: Lines, tmp_path: Path, change: Change, message: str
) -> None:
    change(lines)
    path = write(tmp_path / "bad.jsonl", lines)
    with Database.open(str(tmp_path / "new.db")) as new:
        with pytest.raises(UsageError, match=message) as caught:
            import_file(new, path)
        assert str(caught.value).startswith(str(path))
        assert is_empty(new)


BYTES: list[tuple[str, bytes, str]] = [
    ("x.jsonl", b"", "must be a file that `autotune db export` wrote"),
    ("x.jsonl", b"\x7fELF\x02\x01\xff\xfe", "line 1: a line must be JSON"),
    ("x.jsonl", b"[1, 2]\n", r"line 1: a line must be a JSON object; got \[1, 2\]"),
    ("x.jsonl", b'{"format": NaN}\n', "line 1: a line must be JSON; NaN is not a number"),
    ("x.jsonl", b"[" * 100_000, "line 1: a line must be JSON"),
    ("x.jsonl.gz", b'{"format": 1}\n', "must be an intact gzip file"),
]


@pytest.mark.parametrize(("name", "data", "message"), BYTES)
def test_bytes_that_are_no_export_are_one_error(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with Database.open(str(tmp_path / "new.db")) as new, pytest.raises(UsageError, match=message):
        import_file(new, tmp_path / name)


def test_a_file_that_was_cut_off_anywhere_is_refused(lines: Lines, tmp_path: Path) -> None:
    whole = gzip.compress(write(tmp_path / "good.jsonl", lines).read_bytes())
    path = tmp_path / "cut.jsonl.gz"
    with Database.open(str(tmp_path / "new.db")) as new:
        for n in (10, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:n])
            with pytest.raises(UsageError, match="must be an intact gzip file"):
                import_file(new, path)
        path.write_bytes(whole[: len(whole) // 2] + bytes(50) + whole[len(whole) // 2 + 50 :])
        with pytest.raises(UsageError, match=r"intact gzip file|line \d+"):
            import_file(new, path)
        assert is_empty(new)


@pytest.mark.parametrize("path", ["missing.jsonl", "."])
def test_a_file_that_can_not_be_read_is_one_error(tmp_path: Path, path: str) -> None:
    with Database.open(str(tmp_path / "new.db")) as new, pytest.raises(UsageError, match="must be a file that can be"):
        import_file(new, tmp_path / path)


def test_the_name_of_another_study_is_refused_with_the_way_on(
    lines: Lines, tmp_path: Path, condition: Condition, inventory: Inventory
) -> None:
    path = write(tmp_path / "x.jsonl", lines)
    with Database.open(str(tmp_path / "new.db")) as new:
        new.create_study("flux", settings={}, provenance={}, condition=condition, inventory=inventory)
        new.release_leases()
        before = new.list_studies()
        with pytest.raises(StudyExistsError, match=r"line 8: another study is named 'flux' here.*--rename flux=NEW"):
            import_file(new, path)
        assert new.list_studies() == before
        import_file(new, path, rename={"flux": "theirs"})
        assert {s.name for s in new.list_studies()} == {"flux", "theirs"}


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ({"flx": "b"}, "a study to rename must be in the file; .*none named 'flx', but 'flux'"),
        ({"flux": "-b"}, "line 8"),
    ],
)
def test_a_rename_that_can_not_be_done_is_refused(
    lines: Lines, tmp_path: Path, rename: dict[str, str], message: str
) -> None:
    path = write(tmp_path / "x.jsonl", lines)
    with Database.open(str(tmp_path / "new.db")) as new, pytest.raises(UsageError, match=message):
        import_file(new, path, rename=rename)


def test_a_study_that_went_on_in_two_places_is_refused(lines: Lines, tmp_path: Path) -> None:
    with Database.open(str(tmp_path / "new.db")) as new:
        import_file(new, write(tmp_path / "x.jsonl", lines))
        for name in ("schedule", "key"):
            lines[8][name], lines[9][name] = lines[9][name], lines[8][name]
        with pytest.raises(UsageError, match=r"line 9: candidate number 0 must be schedule .*rename one with --rename"):
            import_file(new, write(tmp_path / "x.jsonl", lines))


def test_an_evaluation_of_another_schedule_is_refused(lines: Lines, tmp_path: Path) -> None:
    with Database.open(str(tmp_path / "new.db")) as new:
        import_file(new, write(tmp_path / "x.jsonl", lines))
        lines[5]["schedule"], lines[6]["schedule"] = lines[6]["schedule"], lines[5]["schedule"]
        with pytest.raises(UsageError, match=r"line 6: schedule must be that of evaluation .* here"):
            import_file(new, write(tmp_path / "x.jsonl", lines))


def test_a_folder_of_artifacts_that_can_not_be_written_imports_nothing(lines: Lines, tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", lines)
    with Database.open(str(tmp_path / "new.db")) as new:
        new.artifacts.folder.write_text("in the way")
        with pytest.raises(StorageError, match=r"folder .* of the artifacts must be writable"):
            import_file(new, path)
        new.artifacts.folder.unlink()
        assert is_empty(new)
