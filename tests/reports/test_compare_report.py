"""A comparison as page, Markdown and CSV: whole, self-contained and the same every time; and in a real browser."""

import csv
import dataclasses
import io
import re
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pytest
from PIL import Image

from autotune.reports.compare_figure import draw_comparison
from autotune.reports.compare_report import comparison_files, write_comparison
from autotune.reports.compare_tables import comparison_json, comparison_tables, member_rows
from autotune.reports.comparison import Comparison, compare
from autotune.spaces.ablation import Removal
from autotune.spaces.front import study_front
from autotune.spaces.study_record import StudyRecord

from .test_page_in_browser import CHROMIUM, Browser, running_browser
from .test_report import Page
from .twin import removal, twin

Removals = dict[str, tuple[Removal, ...]]


@pytest.fixture(scope="module")
def comparison(record: StudyRecord) -> Comparison:
    better = twin(record, "better-with-a-name-that-is-as-long-as-names-of-studies-get", cost=0.9, deviation=0.8)
    return compare([record, better, twin(record, "elsewhere", cost=0.8, model="mini-pixart", device="another card")])


@pytest.fixture(scope="module")
def removals(record: StudyRecord) -> Removals:
    members = [c for c in study_front(record) if c.schedule.cache is not None]
    return {record.name: tuple(removal(c, "cache", cost=1.4) for c in members[:4])}


@pytest.fixture(scope="module")
def files(comparison: Comparison, removals: Removals) -> dict[str, bytes]:
    return comparison_files(comparison, removals)


def test_page_loads_nothing_runs_nothing_and_holds_every_table(
    comparison: Comparison, removals: Removals, files: dict[str, bytes]
) -> None:
    text = files["compare.html"].decode()
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [a for _, a in page.tags if "src" in a or str(a.get("href", "#"))[0] != "#"]
    ids = [str(a["id"]) for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
    tables = comparison_tables(comparison, removals)
    titles = ["What differs", "Hypervolume", "Differences in hypervolume", "Speed at equal quality",
              "Quality at equal speed", "What each column is worth: mini-flux-first",
              "Picks without a column: mini-flux-first"]  # fmt: skip
    assert [table.title for table in tables] == titles
    markdown = files["compare.md"].decode()
    for table in tables:
        assert f"## {table.title}\n" in markdown
        for row in table.texts():
            assert all(cell in page.text for cell in row.values())
    for block in markdown.split("## ")[1:]:
        assert len({line.count("|") for line in block.splitlines() if line.startswith("|")}) == 1


def test_csv_and_json_hold_every_member_in_full_precision(
    comparison: Comparison, removals: Removals, files: dict[str, bytes]
) -> None:
    rows = member_rows(comparison)
    assert len(rows) == sum(len(c.points) + len(c.rivals) for c in comparison.contenders)
    cells = list(csv.DictReader(io.StringIO(files["members.csv"].decode())))
    for cell, row in zip(cells, rows, strict=True):
        assert (cell["front"], cell["role"]) == (row["front"], row["role"])
        for name in ("relative_latency", "relative_deviation", "latency_ms", "deviation"):
            assert float(cell[name]) == row[name]
        assert float(cell["deviation_low"]) == row["intervals"]["deviation"][0]  # type: ignore[index]
    whole = comparison_json(comparison, removals)
    assert list(whole) == ["notes", "members", "conditions", "hypervolume", "differences", "equal_quality",
                           "equal_speed", "columns"]  # fmt: skip
    assert list(whole["columns"]) == ["mini-flux-first"]  # type: ignore[call-overload]


def test_every_row_is_of_the_prompts_that_it_names(comparison: Comparison) -> None:
    """Also of a fewer-steps run that has held-out values, but stands with the others at its calibration values."""
    default = comparison.contenders[0].record.candidates[0]
    assert default.held_out is not None
    scales = {"held_out": default.held_out.measurement, "calibration": default.calibration.measurement}
    points = [p for c in comparison.contenders for p in (*c.points, *c.rivals)]
    rows = member_rows(comparison)
    assert {(row["role"], row["source"]) for row in rows} == {("member", "held_out"), ("fewer-steps", "calibration")}
    for row, point in zip(rows, points, strict=True):
        scale = scales[point.source]
        assert scale is not None
        assert (row["source"], row["deviation"]) == (point.source, point.error)
        assert row["relative_deviation"] == pytest.approx(point.error / scale.mean("deviation"))


def test_text_of_the_studies_can_not_become_markup(record: StudyRecord) -> None:
    evil = '"--><script>alert(1)</script></svg><img src=x onerror=alert(1)> $\\frac{$ {{ 7*7 }} |'
    candidates = tuple(dataclasses.replace(c, label=evil) for c in record.candidates)
    bad = dataclasses.replace(record, name=f"study {evil}", candidates=candidates)
    files = comparison_files(compare([record, bad]), {})
    assert "<" not in files["compare.md"].decode().replace("<=", "")
    page = Page(files["compare.html"].decode())
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert "<script>alert(1)</script>" in page.text
    assert "7*7" in page.text


def test_the_same_studies_give_the_same_bytes_in_a_folder_that_is_made(
    comparison: Comparison, removals: Removals, files: dict[str, bytes], tmp_path: Path
) -> None:
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red"}):
        page = write_comparison(comparison, removals, tmp_path / "new" / "folder")
    assert {path.name: path.read_bytes() for path in page.parent.iterdir()} == files
    for name in ("relative.png", "absolute.png"):
        with Image.open(page.parent / name) as image:
            image.load()


def test_families_and_studies_without_a_default_run_are_drawn_too(record: StudyRecord) -> None:
    bare = dataclasses.replace(record, name="bare", candidates=record.candidates[1:])
    too = dataclasses.replace(bare, name="bare too")
    for records, n_shown in (([record], 4), ([record, bare], 1), ([bare, too], 0)):
        figure = draw_comparison(compare(records), absolute=False, narrow=True)
        legend = [text.get_text() for found in figure.legends for text in found.get_texts()]
        shown = {c.name for c in compare(records).contenders} & set(legend)
        assert len(shown) == n_shown
        assert len(draw_comparison(compare(records), absolute=True, narrow=True).legends) == 1


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"needs a browser at {CHROMIUM}")
    with running_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.mark.parametrize(("width", "shown"), [(390, "narrow"), (1280, "wide")])
def test_page_fits_phone_and_desk_and_fetches_nothing(
    browser: Browser, files: dict[str, bytes], tmp_path: Path, width: int, shown: str
) -> None:
    path = tmp_path / "compare.html"
    path.write_bytes(files["compare.html"])
    browser.open(path, width)
    assert browser.value("innerWidth") == width
    assert browser.value("document.documentElement.scrollWidth") <= width
    visible = "[...document.querySelectorAll('[role=img]')].filter(e => e.offsetHeight > 0).map(e => e.className)"
    assert browser.value(visible) == [shown, shown]
    assert browser.named("Log.entryAdded") == []
    fetched = {event["request"]["url"] for event in browser.named("Network.requestWillBeSent")}
    assert fetched == {path.resolve().as_uri()}
