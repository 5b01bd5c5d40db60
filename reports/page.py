"""The HTML page: what the template gets, and how its values are written for people."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from autotune.reports import palette
from autotune.reports.figure import Rendered
from autotune.reports.figure_text import interval_of, interval_text, number_text, source_text
from autotune.reports.pick_section import PickSection
from autotune.reports.provenance import duration_text, failure_rows, provenance_sections
from autotune.reports.sample_grid import Sample, SampleGrid, data_uri, rank_text, sample_text
from autotune.reports.tables import TITLES, Row
from autotune.reports.templates import template_environment
from autotune.reports.wording import Wording
from autotune.spaces.error_scale import ErrorScale
from autotune.spaces.study_record import StudyRecord

CARD_FIGURES = (
    ("speedup", "speed-up"),
    ("latency_ms", "latency, ms"),
    ("success", "success"),
    ("episodes", "of episodes"),
    ("action-error", "action error"),
    ("deviation", "deviation"),
    ("psnr", "PSNR, dB"),
    ("ssim", "SSIM"),
    ("alignment", "alignment"),
)
MAX_FAILURES = 20

_SCRIPT = Path(__file__).with_name("report.js")


def render_page(
    record: StudyRecord,
    *,
    words: Wording,
    picks: Sequence[PickSection],
    advice: str,
    baseline: Row | None,
    front: Mapping[str, object],
    optional: Sequence[str],
    progress: Rendered,
    samples: SampleGrid,
) -> str:
    """The page of a study; every text from the record is escaped, the figures stand in it as SVG.

    `optional` are the figures of `OPTIONAL` that the front has. The page's own script is the only one that its content
    security policy lets run.
    """
    known = {name for name, _ in CARD_FIGURES}
    others = {name: TITLES.get(name, name) for name in optional if name not in known}
    environment = template_environment()
    environment.filters |= {"number": number_text, "source": source_text, "interval": _interval}
    failures = failure_rows(record)
    script = _SCRIPT.read_text(encoding="utf-8")
    return environment.get_template("report.html").render(
        record=record,
        words=words,
        condition=record.condition,
        light=Markup(palette.css_variables(0)),
        dark=Markup(palette.css_variables(1)),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        duration=duration_text(record.wall_s),
        picks=picks,
        advice=advice,
        baseline=baseline,
        card_figures=(*CARD_FIGURES, *others.items()),
        columns={**words.others, **others},
        front=front,
        progress=progress,
        samples=_samples(samples, words.scale),
        failures=failures[:MAX_FAILURES],
        more_failures=sum(row.count for row in failures[MAX_FAILURES:]),
        n_failures=sum(row.count for row in failures),
        provenance=provenance_sections(record),
    )


def _samples(grid: SampleGrid, scale: ErrorScale) -> dict[str, object]:
    """The grid as the template wants it."""
    return {
        "n_prompts": grid.n_prompts,
        "hidden": grid.n_prompts > len(grid.rows),
        "rows": [
            {
                "prompt": row.prompt,
                "rank": None if row.rank is None else rank_text(row.rank, grid.n_prompts),
                "samples": [_sample(title, s, scale) for title, s in zip(grid.titles, row.samples, strict=True)],
            }
            for row in grid.rows
        ],
    }


def _sample(title: str, sample: Sample, scale: ErrorScale) -> dict[str, object]:
    uri = None if sample.image is None else data_uri(sample.image)
    return {"title": title, "uri": uri, "error": sample_text(sample, scale) or "-"}


def _interval(row: Row, name: str) -> str:
    interval = interval_of(row, name)
    return "" if interval is None else interval_text(name, interval)
