import csv
import io
import json
from statistics import median

import pytest

from autotune.reports.tables import front_rows, refuted_rows, to_csv, to_markdown
from autotune.spaces.front import calibration_front, front_support, pick, study_front
from autotune.spaces.study_record import StudyRecord


def test_rows_are_the_front_in_its_order(record: StudyRecord) -> None:
    front = study_front(record)
    assert len(front) >= 4
    assert [row["schedule_hash"] for row in front_rows(record)] == [c.schedule_hash for c in front]


def test_figures_come_from_the_held_out_measurement(record: StudyRecord) -> None:
    for row, candidate in zip(front_rows(record), study_front(record), strict=True):
        assert candidate.held_out is not None
        measured, before = candidate.held_out.measurement, candidate.calibration.measurement
        assert measured is not None
        assert before is not None
        assert row["source"] == "held_out"
        assert row["deviation"] == measured.mean("deviation")
        assert row["calibration_deviation"] == before.mean("deviation") != row["deviation"]
        assert row["latency_ms"] == median(measured.latency_ms)
        pairs = zip(measured.latency_ms, measured.baseline_latency_ms, strict=True)
        assert row["speedup"] == pytest.approx(1.0 / median(a / b for a, b in pairs))


def test_without_held_out_values_calibration_is_reported_and_named(search_only: StudyRecord) -> None:
    rows = front_rows(search_only)
    assert {row["source"] for row in rows} == {"calibration"}
    assert all(row["deviation"] == row["calibration_deviation"] for row in rows)


def test_every_interval_holds_its_figure(record: StudyRecord) -> None:
    for row in front_rows(record):
        intervals = row["intervals"]
        assert isinstance(intervals, dict)
        assert set(intervals) - {"overfit"} == {"latency_ms", "speedup", "deviation", "psnr", "ssim", "alignment"}
        for name, (low, high) in intervals.items():
            value = row[name]
            assert isinstance(value, float)
            assert low <= value <= high


def test_each_pick_is_named_on_its_row_once(record: StudyRecord) -> None:
    rows = front_rows(record)
    for name, candidate in pick(study_front(record), record).items():
        named = [row["schedule_hash"] for row in rows if name in row["picks"]]  # type: ignore[operator]
        assert named == [candidate.schedule_hash]


def test_unmeasured_metrics_are_none_and_rows_are_strict_json(deviation_only: StudyRecord) -> None:
    rows = front_rows(deviation_only)
    assert rows
    for row in rows:
        assert row["psnr"] is row["ssim"] is row["alignment"] is None
        assert isinstance(row["deviation"], float)
    json.dumps(rows, allow_nan=False)


def test_csv_gives_the_same_numbers_back(record: StudyRecord) -> None:
    rows = front_rows(record)
    parsed = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert len(parsed) == len(rows)
    for cells, row in zip(parsed, rows, strict=True):
        assert cells["schedule_hash"] == row["schedule_hash"]
        assert cells["picks"].split(";") == (row["picks"] or [""])
        for name in ("latency_ms", "speedup", "relative_macs", "deviation", "psnr", "ssim", "alignment"):
            assert float(cells[name]) == row[name]
        for name, (low, high) in row["intervals"].items():  # type: ignore[attr-defined]
            assert (float(cells[f"{name}_low"]), float(cells[f"{name}_high"])) == (low, high)


def test_csv_leaves_unmeasured_cells_empty(deviation_only: StudyRecord) -> None:
    cells = next(csv.DictReader(io.StringIO(to_csv(front_rows(deviation_only)))))
    assert cells["psnr"] == cells["psnr_low"] == ""


def test_markdown_has_one_line_per_member_and_the_same_number_of_cells(record: StudyRecord) -> None:
    rows = front_rows(record)
    lines = to_markdown(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert len({line.count("|") for line in lines}) == 1
    for line, row in zip(lines[2:], rows, strict=True):
        assert str(row["schedule_hash"])[:12] in line
        assert f"{row['speedup']:.2f}x [" in line


def test_markdown_keeps_a_pipe_or_a_line_break_inside_its_cell(record: StudyRecord) -> None:
    row = front_rows(record)[0] | {"label": "a|b\nc <i>"}
    line = to_markdown([row]).splitlines()[2]
    assert "a\\|b c &lt;i>" in line


def test_no_rows_give_headers_only() -> None:
    assert len(to_markdown([]).splitlines()) == 2
    assert len(to_csv([]).splitlines()) == 1


def test_every_member_of_the_calibration_front_has_a_row_with_its_mark(record: StudyRecord) -> None:
    support = {c.schedule_hash: front_support(record)[c.number] for c in calibration_front(record)}
    rows = [*front_rows(record), *refuted_rows(record)]
    assert {row["schedule_hash"]: row["support"] for row in rows} == support
    assert {row["on_front"] for row in refuted_rows(record)} == {False}
    assert len({*support.values()}) > 1
    cells = list(csv.DictReader(io.StringIO(to_csv(rows))))
    for line, cell, row in zip(to_markdown(rows).splitlines()[2:], cells, rows, strict=True):
        assert f"| {row['support']} |" in line
        assert cell["support"] == row["support"]


def test_over_fitting_is_the_shift_between_the_prompt_sets_beyond_that_of_the_default_run(record: StudyRecord) -> None:
    rows = {row["schedule_hash"]: row for row in front_rows(record)}
    default = record.candidates[0]
    assert rows.keys() - {default.schedule_hash}
    for digest, row in rows.items():
        if digest == default.schedule_hash:
            assert row["overfit"] is None
            continue
        before, after = row["calibration_deviation"], row["deviation"]
        assert isinstance(before, float)
        assert isinstance(after, float)
        assert default.held_out is not None
        own, held_out = default.calibration.measurement, default.held_out.measurement
        assert own is not None
        assert held_out is not None
        expected = after / before / (held_out.mean("deviation") / own.mean("deviation")) - 1.0
        assert row["overfit_metric"] == "deviation"
        assert row["overfit"] == pytest.approx(expected)
        assert row["calibration_minus_held_out"] == pytest.approx(before - after)


def test_rewards_and_energy_have_columns_where_they_are_measured(record: StudyRecord) -> None:
    rows = [row | {"clip-score": 0.31, "energy_j": 2.5} for row in front_rows(record)]
    assert next(csv.DictReader(io.StringIO(to_csv(rows))))["clip-score"] == "0.31"
    assert "| clip-score | energy (J) |" in to_markdown(rows).splitlines()[0]
    assert "clip-score" not in to_markdown(front_rows(record))
