import dataclasses
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.errors import StorageError, UsageError
from autotune.spaces.evaluation import Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.recorded_table import RecordedRow, RecordedTable, read_table, save_table
from autotune.spaces.schedule import Schedule
from autotune.spaces.solvers import make_solver

FIDELITY = Fidelity(name="calibration", prompts=("a cat", "ein Hünd"), seeds=(0, 7))


def make_table() -> RecordedTable:
    evaluator = TabulatedEvaluator(latency_noise=0.1)
    reuse = np.random.default_rng(0).random((20, len(evaluator.inventory))) < 0.5
    reuse[0] = False
    noise = evaluator.condition.noise_schedule
    schedules = [
        Schedule(n_steps=20),
        Schedule(n_steps=20, cache=CachePlan.from_array(reuse)),
        Schedule(n_steps=7, time=evaluator.own_timesteps(7), solver=make_solver("unipc-2", 7, noise)),
    ]
    rows = [
        RecordedRow(family="f", label=f"number {i}", schedule=s, outcome=evaluator.score(s, FIDELITY, repeats=3))
        for i, s in enumerate(schedules)
    ]
    partial = evaluator.score(Schedule(n_steps=9), FIDELITY.first(1))
    failure = Failure(kind=FailureKind.OUT_OF_MEMORY, reason="1 GiB asked for")
    rows.append(RecordedRow(family="f", label="one prompt", schedule=Schedule(n_steps=9), outcome=partial))
    rows.append(RecordedRow(family="f", label="broken", schedule=Schedule(n_steps=8), outcome=failure))
    return RecordedTable(
        condition=evaluator.condition, inventory=evaluator.inventory, fidelity=FIDELITY, rows=tuple(rows)
    )


def test_a_table_is_read_back_as_it_was_to_the_last_bit(tmp_path: Path) -> None:
    table = make_table()
    save_table(table, tmp_path / "a.gz")
    again = read_table(tmp_path / "a.gz")
    assert again == table
    assert again.rows[1].schedule.cache == table.rows[1].schedule.cache
    save_table(again, tmp_path / "b.gz")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_the_first_line_and_one_line_per_row_are_plain_json(tmp_path: Path) -> None:
    save_table(make_table(), tmp_path / "a.gz")
    header, *rows = map(json.loads, gzip.decompress((tmp_path / "a.gz").read_bytes()).splitlines())
    assert header["format"] == "autotune-table"
    assert header["prompts"] == ["a cat", "ein Hünd"]
    assert [row["label"] for row in rows] == ["number 0", "number 1", "number 2", "one prompt", "broken"]
    assert rows[4]["outcome"] == {"kind": "out_of_memory", "reason": "1 GiB asked for"}


def edited(path: Path, line: int, change: Callable[[dict[str, dict[str, object]]], object]) -> Path:
    lines = [json.loads(text) for text in gzip.decompress(path.read_bytes()).splitlines()]
    change(lines[line])
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    return path


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (0, lambda d: d.update(version=2), "the first line: format and version must be autotune-table 1; got .* 2"),
        (0, lambda d: d.update(extra=1), r"the first line: .* missing or unknown: \['extra'\]"),
        (0, lambda d: d.pop("seeds"), r"the first line: .* missing or unknown: \['seeds'\]"),
        (0, lambda d: d.update(seeds=[0]), "the first line: a fidelity needs one seed per prompt"),
        (0, lambda d: d["condition"].update(inventory_hash="0"), "the inventory of a table must be its condition's"),
        (2, lambda d: d.update(label=3), "line 3: label must be str; got 3"),
        (2, lambda d: d["schedule"].pop("time"), "line 3: a schedule must have the columns"),
        (2, lambda d: d["outcome"].update(macs=1.5), "line 3: macs must be int; got 1.5"),
        (2, lambda d: d["outcome"].update(macs=True), "line 3: macs must be int; got True"),
        (2, lambda d: d["outcome"].update(wall_s=float("nan")), "line 3: wall_s must hold finite numbers"),
        (2, lambda d: d["outcome"].update(quality={"psnr": [1.0, "2"]}), "line 3: psnr must hold finite numbers"),
        (2, lambda d: d["outcome"].update(quality={}), "row 1 of a table needs metrics"),
        (2, lambda d: d["outcome"].update(quality={"a": [1.0], "b": [1.0, 2.0]}), "equally many values, 1 to 2"),
        (5, lambda d: d["outcome"].update(kind="tired"), "line 6: 'tired' is not a valid FailureKind"),
    ],
)
def test_a_line_that_breaks_a_rule_is_named(
    tmp_path: Path, line: int, change: Callable[[dict[str, dict[str, object]]], object], message: str
) -> None:
    save_table(make_table(), tmp_path / "a.gz")
    with pytest.raises(UsageError, match=message):
        read_table(edited(tmp_path / "a.gz", line, change))


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"\xff"), gzip.compress(b"[]"), gzip.compress(b"{")],
    ids=["empty", "no gzip", "no text", "no object", "no JSON"],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.gz"):
        read_table(tmp_path / "a.gz")


def test_a_file_that_is_missing_cut_off_or_damaged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_table(tmp_path / "none.gz")
    save_table(make_table(), tmp_path / "a.gz")
    whole = (tmp_path / "a.gz").read_bytes()
    for damaged in (whole[:-20], whole[:200] + b"damage" + whole[206:]):
        (tmp_path / "a.gz").write_bytes(damaged)
        with pytest.raises(UsageError, match="gzip-compressed file of `autotune export-table`"):
            read_table(tmp_path / "a.gz")


def test_a_value_that_json_does_not_know_is_not_written(tmp_path: Path) -> None:
    table = make_table()
    outcome = table.rows[0].outcome
    assert isinstance(outcome, Measurement)
    row = dataclasses.replace(table.rows[0], outcome=dataclasses.replace(outcome, wall_s=float("inf")))
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_table(dataclasses.replace(table, rows=(row,)), tmp_path / "a.gz")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StorageError, match="could not be written"):
        save_table(table, tmp_path / "missing" / "a.gz")
