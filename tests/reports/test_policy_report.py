"""A policy's study in all tables, figures and pages: success in place of deviation, episodes in place of prompts."""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import pytest

from autotune.cli.output import Format
from autotune.cli.studies import print_front
from autotune.reports.bench_table import bench_json, bench_tables
from autotune.reports.column_table import column_table, pick_table
from autotune.reports.compare_report import comparison_files
from autotune.reports.compare_tables import comparison_json, member_rows
from autotune.reports.comparison import compare, difference_table, hypervolume_table
from autotune.reports.equal_levels import AS_DEFAULT, equal_quality_table
from autotune.reports.finding import sentences
from autotune.reports.front_figure import FrontPlot, draw_front
from autotune.reports.given_table import given_columns, given_rows
from autotune.reports.point import Point, error_interval, study_points
from autotune.reports.report import report_files
from autotune.reports.sample_grid import Sample, make_grid, sample_columns, sample_text
from autotune.reports.summary import summarise
from autotune.reports.tables import front_rows, refuted_rows, to_csv, to_markdown
from autotune.spaces.ablation import Removal
from autotune.spaces.bench_result import BenchResult, Contestant
from autotune.spaces.error_scale import FAILURES
from autotune.spaces.evaluation import Measurement
from autotune.spaces.front import pick, study_front
from autotune.spaces.given_schedule import GivenSchedule
from autotune.spaces.study_record import StudyRecord

from .episodes import N_HELD_OUT, make_policy_record
from .test_bench_table import bench, measured
from .test_page_in_browser import CHROMIUM, running_browser
from .test_report import Page
from .twin import without_held_out


@pytest.fixture(scope="module")
def policy() -> StudyRecord:
    return make_policy_record()


@pytest.fixture(scope="module")
def policy_files(policy: StudyRecord) -> dict[str, bytes]:
    return report_files(policy, lambda name: None)


def held_out(point_or_candidate: object) -> Measurement:
    evaluation = point_or_candidate.held_out  # type: ignore[attr-defined]
    assert evaluation.measurement is not None
    return evaluation.measurement  # type: ignore[no-any-return]


def test_rows_tell_success_with_wilsons_interval_and_nothing_of_deviation(policy: StudyRecord) -> None:
    rows = front_rows(policy)
    json.dumps(rows, allow_nan=False)
    assert len(rows) >= 3
    for row, candidate in zip(rows, study_front(policy), strict=True):
        own = held_out(candidate)
        assert row["success"] == own.mean("success")
        assert row["action-error"] == own.mean("action-error")
        assert row["episodes"] == N_HELD_OUT
        assert row["deviation"] is row["calibration_deviation"] is row["psnr"] is None
        calibration = candidate.calibration.measurement
        assert calibration is not None
        assert row["calibration_success"] == calibration.mean("success")
        assert row["overfit_metric"] == ("success" if row["overfit"] is not None else None)
        found = row["intervals"]
        assert isinstance(found, dict)
        assert set(found) - {"overfit"} == {"latency_ms", "speedup", "success", "action-error"}
        low, high = found["success"]
        assert low < own.mean("success") <= high


def test_csv_and_markdown_have_the_columns_of_episodes(policy: StudyRecord, record: StudyRecord) -> None:
    rows = [*front_rows(policy), *refuted_rows(policy)]
    cells = list(csv.DictReader(io.StringIO(to_csv(rows))))
    for cell, row in zip(cells, rows, strict=True):
        for name in ("success", "action-error", "calibration_success"):
            assert float(cell[name]) == row[name]
        assert int(cell["episodes"]) == N_HELD_OUT
        assert float(cell["success_low"]) == row["intervals"]["success"][0]  # type: ignore[index]
        assert cell["deviation"] == ""
    header = to_markdown(rows).splitlines()[0]
    assert "| success | action error | over-fit |" in header
    assert "deviation" not in header
    assert f"| {100 * float(cells[0]['success']):.1f} % [" in to_markdown(rows).splitlines()[2]
    of_images = next(csv.reader(io.StringIO(to_csv(front_rows(record)))))
    assert not {"success", "action-error", "calibration_success", "episodes"} & set(of_images)


def test_the_terminal_shows_success_and_hides_what_was_not_measured(
    policy: StudyRecord, record: StudyRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    print_front(policy, Format.TABLE)
    shown = capsys.readouterr().out
    assert " success " in shown
    assert "98.0 %" in shown
    assert "ms/chunk" in shown
    assert "deviation" not in shown
    print_front(record, Format.TABLE)
    shown = capsys.readouterr().out
    assert "ms/image" in shown
    assert "deviation" in shown


def test_the_report_speaks_of_episodes_only(policy: StudyRecord, policy_files: dict[str, bytes]) -> None:
    markdown, html = policy_files["report.md"].decode(), policy_files["report.html"].decode()
    page = Page(re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL))
    balanced = next(row for row in front_rows(policy) if "balanced" in row["picks"])  # type: ignore[operator]
    said = f"with {100 * float(str(balanced['success'])):.1f} % ["
    for text in (markdown, page.text):
        assert "deviat" not in text
        assert "prompt" not in text.replace("prompt unknown", "")
        assert "image" not in re.sub(r"!\[[^]]*\]|No images were kept", "", text)
        assert said in text
        assert f"of {N_HELD_OUT} episodes succeeding" in text
        assert (
            "The default run succeeds in 95.3 % of the calibration episodes and in 96.0 % of the held-out ones" in text
        )
        assert "calibration episodes" in text
        assert "runs the policy" in text
    assert "Success on calibration episodes 95.3 %, +0.7 points on held-out ones" in page.text
    assert "down to no latency and a success of 99.9 %" in page.text


def test_the_error_axis_is_that_of_nines_with_bars_above_0(policy: StudyRecord) -> None:
    front = study_front(policy)
    hashes = frozenset(c.schedule_hash for c in front)
    plot = FrontPlot(points=study_points(policy), front=hashes, picks=pick(front, policy), cost="latency")
    axes = draw_front(plot, narrow=False).axes[0]
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    assert {"90 %", "95 %", "98 %"} <= set(ticks)
    assert axes.get_yscale() == "log"
    places = {label.get_text(): y for label, y in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)}
    assert places["98 %"] == pytest.approx(0.02)
    assert "succeed" in axes.get_ylabel()
    for point in plot.members:
        interval = error_interval(point)
        assert interval is not None
        assert 0.0 < interval[0] <= point.error < interval[1]


def test_without_a_failure_a_point_stands_at_half_a_failure(policy: StudyRecord) -> None:
    own = dataclasses.replace(held_out(policy.candidates[0]), quality={"success": (1.0,) * 50})
    point = Point(candidate=policy.candidates[0], source="held_out", measurement=own, cost=1.0, error=own.error)
    assert point.error == 0.01
    interval = error_interval(point)
    assert interval is not None
    assert interval[0] == 0.01
    assert interval[1] == pytest.approx(1.959964**2 / (50 + 1.959964**2))


def test_pictures_say_how_an_episode_ended_and_none_is_the_worst(policy: StudyRecord) -> None:
    assert [sample_text(Sample(image=None, error=e), FAILURES) for e in (1.0, 0.0, None)] == ["fails", "succeeds", ""]
    picks = pick(study_front(policy), policy)
    columns = sample_columns(policy.candidates[0], picks, {})
    assert all(set(column.errors) == {0.0, 1.0} for column in columns)
    assert make_grid(columns, policy).n_prompts == N_HELD_OUT


def test_the_summary_and_the_findings_count_by_failures(policy: StudyRecord) -> None:
    points = study_points(policy)
    assert 0.2 < summarise(policy)["hypervolume"] < 0.6  # type: ignore[operator]
    assert len(points) == len(policy.whole)
    assert not any("deviat" in text for text in sentences((), points, points, "latency"))


def test_two_policies_are_compared_at_levels_of_success_paired_by_episode(policy: StudyRecord) -> None:
    numbers = {c.number for c in study_front(policy)[:1]}
    other = dataclasses.replace(without_held_out(policy, numbers), name="push-second")
    comparison = compare([policy, other])
    rows = equal_quality_table(comparison, absolute=False).rows
    assert {row["level"] for row in rows} == {AS_DEFAULT, "2 points of success less", "10 points of success less"}
    default = held_out(policy.candidates[0]).mean("success")
    members = {c.schedule_hash: held_out(c) for c in study_front(policy)}
    for row in (row for row in rows if row["name"] == policy.name):
        lost = {AS_DEFAULT: 0.0, "2 points of success less": 0.02, "10 points of success less": 0.1}[str(row["level"])]
        fit = [(m.relative_latency, h) for h, m in members.items() if m.mean("success") >= default - lost - 1e-9]
        assert row["schedule_hash"] == min(fit)[1]
        assert "deviation" not in row
    for row in hypervolume_table(comparison).rows:
        low, high = row["intervals"]["hypervolume"]  # type: ignore[index]
        assert low < row["hypervolume"] < high
    (difference,) = difference_table(comparison).rows
    assert difference["difference"] > 0.0  # type: ignore[operator]
    json.dumps(comparison_json(comparison, {}), allow_nan=False)
    text = comparison_files(comparison, {})["compare.md"].decode()
    assert "prompt" not in text.replace("Same condition, prompts and seeds", "")
    assert "deviation" not in text


def test_a_policy_and_images_meet_relative_to_their_own_default_runs(policy: StudyRecord, record: StudyRecord) -> None:
    comparison = compare([policy, record])
    rows = equal_quality_table(comparison, absolute=False).rows
    both = [row["name"] for row in rows if row["level"] == AS_DEFAULT]
    assert both == [policy.name, record.name]
    asked = {str(row["level"]): row["name"] for row in rows if row["level"] != AS_DEFAULT}
    assert {name for level, name in asked.items() if "success" in level} == {policy.name}
    assert {name for level, name in asked.items() if level.startswith(("PSNR", "deviation"))} == {record.name}
    members = {str(row["front"]): row for row in member_rows(comparison)}
    assert members[policy.name]["relative_deviation"] is None
    assert members[policy.name]["relative_failures"] is not None
    assert "relative_failures" not in members[record.name]
    files = comparison_files(comparison, {})
    cells = list(csv.DictReader(io.StringIO(files["members.csv"].decode())))
    assert {cell["front"] for cell in cells if cell["relative_failures"]} == {policy.name}
    assert {cell["front"] for cell in cells if cell["relative_deviation"]} == {record.name}
    assert "share of failed episodes" in files["compare.md"].decode()


def test_columns_are_worth_the_failures_that_they_save(policy: StudyRecord) -> None:
    member = next(c for c in study_front(policy) if c.schedule.cache is not None)
    assert member.held_out is not None
    worse = dataclasses.replace(held_out(member), quality={"success": (0.0, 1.0) * (N_HELD_OUT // 2)})
    removals = [
        Removal(member=member.schedule_hash, column="cache", schedule_hash="less", key="k",
                evaluation=dataclasses.replace(member.held_out, outcome=worse))
    ]  # fmt: skip
    table, picks = column_table(policy, removals), pick_table(policy, removals)
    assert table is not None
    assert picks is not None
    (row,) = table.rows
    low, high = row["intervals"]["worth"]  # type: ignore[index]
    assert 0.0 < low < row["worth"] < high
    assert picks.columns["success"] == "success"
    assert picks.texts()[0]["without_success"].startswith("50.0 % [")


def test_given_schedules_are_told_by_their_success(policy: StudyRecord) -> None:
    candidate = next(c for c in study_front(policy) if c.family == "ecad")
    source = {"model": "push", "n_steps": 20, "width": 1, "height": 1, "guidance_scale": 1.0, "success": 0.97}
    given = GivenSchedule(label="given", schedule=candidate.schedule, source=source).to_json()
    record = dataclasses.replace(policy, settings={**policy.settings, "given": [given]})
    rows = given_rows(record)
    assert [row["role"] for row in rows][:3] == ["source", "given", "refined"]
    assert [row["success"] for row in rows][:2] == [0.97, held_out(candidate).mean("success")]
    assert given_columns(record)["success"] == "success"
    assert "deviation" not in given_columns(record)


def of_episodes(result: BenchResult, own: int, rival: int, n: int) -> BenchResult:
    """A bench in which the schedule fails in `own` of n episodes, and every other run in `rival` of them."""

    def made(contestant: Contestant, failed: int) -> Contestant:
        quality = {"success": (0.0,) * failed + (1.0,) * (n - failed)}
        return dataclasses.replace(contestant, measurement=dataclasses.replace(contestant.measurement, quality=quality))

    return dataclasses.replace(
        result,
        default=made(result.default, rival),
        schedule=made(result.schedule, own),
        rivals=tuple(made(one, rival) for one in result.rivals),
    )


@pytest.mark.parametrize(
    ("own", "rival", "words"),
    [
        (
            2,
            30,
            "The schedule fails in 28.0 points fewer of the episodes than the rival (rival 0), which takes no more",
        ),
        (30, 2, "The schedule fails in 28.0 points more of the episodes than"),
        (5, 5, "The schedule ends every episode as the rival (rival 0) does."),
        (5, 6, "can't be told apart by success on these 100 episodes"),
    ],
)
def test_a_bench_judges_by_episodes(own: int, rival: int, words: str) -> None:
    result = of_episodes(bench(measured(0.5, [0.1]), measured(0.5, [0.1])), own, rival, 100)
    assert words in str(bench_json(result)["verdict"])
    table = bench_tables(result)[0]
    assert table.columns["difference"] == "failures vs rival"
    assert table.columns["latency_ms"] == "ms/chunk"
    assert "deviation" not in table.columns
    assert not any("prompt" in note for note in table.notes)


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs a browser at {CHROMIUM}")
def test_the_page_fits_and_its_points_tell_successes(policy_files: dict[str, bytes], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_bytes(policy_files["report.html"])
    with running_browser(tmp_path / "profile") as browser:
        for width in (390, 1280):
            browser.open(page, width)
            assert browser.value("document.documentElement.scrollWidth") <= width
            assert browser.named("Log.entryAdded") == []
        tips = browser.value("[...document.querySelectorAll('.wide .tip')].map(e => e.textContent)")
    assert len(tips) > 4
    assert all(re.search(r"success \d+\.\d % \[", tip) for tip in tips)
    assert all("episodes" in tip and "ms per chunk" in tip for tip in tips)
