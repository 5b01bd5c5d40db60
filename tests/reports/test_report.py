import base64
import csv
import dataclasses
import hashlib
import html.parser
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import pytest
from PIL import Image

from autotune.reports.report import report_files, write_report
from autotune.spaces.evaluation import Evaluation, EvaluationState, Failure, FailureKind, Measurement
from autotune.spaces.front import calibration_front, pick, study_front
from autotune.spaces.study_record import Candidate, StudyRecord, StudyState

LoadArtifact = Callable[[str], bytes | None]

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Tags, attributes, ids and visible text of a page; checks that every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(files: dict[str, bytes]) -> Page:
    return Page(files["report.html"].decode())


def test_all_files_are_written_and_the_page_is_returned(
    record: StudyRecord, load_artifact: LoadArtifact, files: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "report"
    assert write_report(record, load_artifact, folder) == folder / "report.html"
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == files
    assert set(files) == {
        "report.html", "report.md", "front.png", "samples.png", "progress.png", "table.md", "table.csv",
        "schedule-quality.png", "schedule-balanced.png", "schedule-fast.png",
    }  # fmt: skip


def test_pngs_are_whole_images(files: dict[str, bytes]) -> None:
    for name in (name for name in files if name.endswith(".png")):
        with Image.open(io.BytesIO(files[name])) as image:
            image.load()
            assert image.width > 500, name
            assert "Software" not in image.info


def test_every_front_member_is_in_the_page_and_in_both_tables(
    record: StudyRecord, files: dict[str, bytes], page: Page
) -> None:
    rows = list(csv.DictReader(io.StringIO(files["table.csv"].decode())))
    front = study_front(record)
    assert {r["schedule_hash"] for r in rows if r["on_front"] == "True"} == {c.schedule_hash for c in front}
    # Those that have left it are in the tables too, and marked.
    assert {r["schedule_hash"] for r in rows} == {c.schedule_hash for c in calibration_front(record)}
    for candidate in front:
        assert candidate.schedule_hash[:12] in page.text
        assert candidate.schedule_hash[:12] in files["table.md"].decode()


def test_page_is_self_contained(files: dict[str, bytes], page: Page) -> None:
    text = files["report.html"].decode()
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        if attributes.get("src") is not None:
            assert str(attributes["src"]).startswith("data:image/png;base64,")
        if attributes.get("href") is not None:
            assert str(attributes["href"]).startswith("#")
    assert set(re.findall(r"https?://[^\s\"'<>]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert "@import" not in text
    assert {target[:1] for target in re.findall(r"url\(([^)]*)\)", text)} <= {"#"}


def test_the_pages_own_script_is_the_only_one_that_may_run(files: dict[str, bytes], page: Page) -> None:
    text = files["report.html"].decode()
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r"http-equiv=\"Content-Security-Policy\" content=\"([^\"]*)\"", text)
    assert policy.endswith(f"script-src 'sha256-{digest}'")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_sections_come_in_the_order_of_a_reader_with_five_minutes(page: Page) -> None:
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == ["use", "front", "samples", "schedules", "families", "progress", "failures", "provenance"]
    line = page.text.index("autotune export mini-flux-first --pick balanced")
    assert page.text.index("What to use") < line < page.text.index("best quality at up to one and a half")


def test_ids_are_unique_and_every_reference_has_its_target(files: dict[str, bytes], page: Page) -> None:
    ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    text = files["report.html"].decode()
    wanted = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    assert wanted <= set(ids)


def test_images_and_figures_have_descriptions(page: Page) -> None:
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("aria-label") for _, attributes in page.tags if attributes.get("role") == "img")


def test_page_says_what_to_use_and_how(record: StudyRecord, page: Page) -> None:
    for name in ("quality", "balanced", "fast"):
        assert f"autotune export mini-flux-first --pick {name} -o {name}.schedule.json" in page.text
    assert 'autotune.apply(pipe, "balanced.schedule.json")' in page.text
    for candidate in pick(study_front(record), record).values():
        measurement = None if candidate.held_out is None else candidate.held_out.measurement
        assert measurement is not None
        assert f"{1 / measurement.relative_latency:.2f}x" in page.text
        assert f"{measurement.mean('psnr'):.2f}" in page.text


def test_rival_default_run_failures_and_provenance_are_told(page: Page) -> None:
    assert "Family cache-masks does not pay here" in page.text
    assert "CUDA out of memory: 1.2 GiB asked for, 0.3 GiB free" in page.text
    assert "8 evaluations failed." in page.text
    assert "FlowMatchEulerDiscreteScheduler" in page.text


def hostile(record: StudyRecord) -> StudyRecord:
    """The study with text that tries to break out of the page wherever the record has text."""
    evil = '"--><script>alert(1)</script></svg><img src=x onerror=alert(1)> $\\frac{$ {{ 7*7 }}'
    candidates = tuple(
        dataclasses.replace(c, family=c.family if c.family in ("baseline", "fewer-steps") else f"f{evil}", label=evil)
        for c in record.candidates
    )
    return dataclasses.replace(
        record,
        name=f"study {evil}",
        candidates=candidates,
        settings={**record.settings, evil: evil},
        condition=dataclasses.replace(record.condition, model=evil),
    )


def test_text_of_the_record_can_not_become_markup(record: StudyRecord, load_artifact: LoadArtifact) -> None:
    text = report_files(hostile(record), load_artifact)["report.html"].decode()
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert all(str(attributes["src"]).startswith("data:") for tag, attributes in page.tags if tag == "img")
    assert "<script>alert(1)</script>" in page.text
    assert "7*7" in page.text
    assert f"autotune export {shlex.quote(hostile(record).name)} --pick fast" in page.text


def failed(candidate: Candidate) -> Candidate:
    outcome = Failure(kind=FailureKind.NAN, reason="the latents hold NaN")
    evaluation = dataclasses.replace(candidate.calibration, state=EvaluationState.FAILED, outcome=outcome)
    return dataclasses.replace(candidate, calibration=evaluation, held_out=None)


def odd_studies(record: StudyRecord) -> dict[str, StudyRecord]:
    first, *rest = record.candidates
    return {
        "no candidate": dataclasses.replace(record, candidates=(), images={}, state=StudyState.RUNNING),
        "all failed": dataclasses.replace(record, candidates=tuple(failed(c) for c in record.candidates), images={}),
        "only the default run": dataclasses.replace(record, candidates=(first,)),
        "no default run, no images": dataclasses.replace(record, candidates=tuple(rest), images={}),
        "one candidate": dataclasses.replace(record, candidates=(rest[0],), state=StudyState.INTERRUPTED),
        "nothing feasible": dataclasses.replace(record, settings={"constraints": ["deviation<=1e-9"]}),
        "macs": dataclasses.replace(record, settings={"objectives": ["macs", "deviation"]}),
        "three objectives": dataclasses.replace(record, settings={"objectives": "latency,deviation,memory"}),
    }


@pytest.mark.parametrize(
    "name",
    ["no candidate", "all failed", "only the default run", "no default run, no images", "one candidate",
     "nothing feasible", "macs", "three objectives"],
)  # fmt: skip
def test_odd_studies_render(record: StudyRecord, load_artifact: LoadArtifact, name: str) -> None:
    study = odd_studies(record)[name]
    files = report_files(study, load_artifact)
    page = Page(files["report.html"].decode())
    front = study_front(study)
    assert all(c.schedule_hash[:12] in page.text for c in front)
    assert ("There is no schedule to recommend" in page.text) == (not front)
    assert ("still running" in page.text) == (study.state is StudyState.RUNNING)
    for png in (name for name in files if name.endswith(".png")):
        with Image.open(io.BytesIO(files[png])) as image:
            image.load()


def test_what_a_study_asks_for_besides_is_in_all_its_tables(record: StudyRecord, load_artifact: LoadArtifact) -> None:
    """A reward, and the memory of cached values."""

    def with_more(evaluation: Evaluation) -> Evaluation:
        measurement = evaluation.outcome
        if not isinstance(measurement, Measurement):
            return evaluation
        quality = {**measurement.quality, "clip-score": (0.3125,) * measurement.n_prompts}
        more = dataclasses.replace(measurement, quality=quality, cache_bytes=7_250_000, modelled_latency=0.5)
        return dataclasses.replace(evaluation, outcome=more)

    candidates = tuple(
        dataclasses.replace(c, calibration=with_more(c.calibration), held_out=c.held_out and with_more(c.held_out))
        for c in record.candidates
    )
    settings = {**record.settings, "objectives": ["latency", "deviation", "cache-memory"]}
    files = report_files(dataclasses.replace(record, candidates=candidates, settings=settings), load_artifact)
    page = Page(files["report.html"].decode()).text
    for text in (page, files["table.md"].decode(), files["table.csv"].decode()):
        assert "clip-score" in text
        assert "0.312" in text
        assert "7.25" in text


def test_single_prompts_and_timings_have_no_intervals_but_a_report(
    deviation_only: StudyRecord, load_artifact: LoadArtifact
) -> None:
    def single(candidate: Candidate) -> Candidate:
        old = candidate.calibration.measurement
        if old is None:
            return candidate
        outcome = dataclasses.replace(
            old, quality={"deviation": old.quality["deviation"][:1]}, latency_ms=old.latency_ms[:1],
            baseline_latency_ms=old.baseline_latency_ms[:1],
        )  # fmt: skip
        evaluation = dataclasses.replace(candidate.calibration, outcome=outcome)
        return dataclasses.replace(candidate, calibration=evaluation, held_out=None)

    study = dataclasses.replace(deviation_only, candidates=tuple(single(c) for c in deviation_only.candidates))
    files = report_files(study, load_artifact)
    rows = list(csv.DictReader(io.StringIO(files["table.csv"].decode())))
    assert rows
    assert {row["deviation_low"] for row in rows} == {""}
    Page(files["report.html"].decode())


def test_missing_and_broken_images_are_called_not_available(record: StudyRecord, load_artifact: LoadArtifact) -> None:
    kept = iter((load_artifact("sheet-0"), b"broken"))
    text = Page(report_files(record, lambda name: next(kept, None))["report.html"].decode()).text
    missing = len({c.number for c in pick(study_front(record), record).values()})
    assert text.count("not available") == 8 * missing


def test_same_record_gives_the_same_bytes_whatever_matplotlib_is_set_to(
    record: StudyRecord, load_artifact: LoadArtifact, files: dict[str, bytes]
) -> None:
    turned = dataclasses.replace(
        record,
        settings=dict(reversed(list(record.settings.items()))),
        provenance=dict(reversed(list(record.provenance.items()))),
        images=dict(reversed(list(record.images.items()))),
    )
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.hashsalt": "other", "savefig.dpi": 30}):
        assert report_files(turned, load_artifact) == files
        assert mpl.rcParams["font.size"] == 20


def test_reports_load_neither_torch_nor_the_drawing_state_of_pyplot() -> None:
    code = (
        "import sys, autotune.reports.report;"
        "sys.exit(sum(name in sys.modules for name in ('torch', 'diffusers', 'matplotlib.pyplot', 'sqlalchemy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
