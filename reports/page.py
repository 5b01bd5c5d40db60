"""The HTML page: what the template gets, and how its values are written for people."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from autotune.reports import palette
from autotune.reports.figure import Rendered
from autotune.reports.heat_map import solver_text
from autotune.reports.provenance import duration_text, failure_rows, provenance_sections
from autotune.reports.sample_grid import SampleRow, data_uri
from autotune.reports.tables import Row, interval_of, interval_text, number_text, source_text
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.schedule import Schedule
from autotune.spaces.study_record import StudyRecord

PURPOSE = {
    "quality": "lowest deviation at no more than the default run's cost",
    "balanced": "the slower of the knee of the front and the fastest that is no worse than the default run",
    "fast": "the faster of these two",
}
CARD_FIGURES = (
    ("speedup", "speed-up"),
    ("latency_ms", "latency, ms"),
    ("deviation", "deviation"),
    ("psnr", "PSNR, dB"),
    ("ssim", "SSIM"),
    ("alignment", "alignment"),
)
MAX_FAILURES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PickSection:
    """What the page says of one named pick; `reused` is the share of site calls that its cache leaves out."""

    name: str
    row: Row
    schedule: Schedule
    heat_map: Rendered
    reused: float | None


def render_page(
    record: StudyRecord,
    *,
    picks: Sequence[PickSection],
    baseline: Row | None,
    front: Mapping[str, object],
    progress: Rendered,
    samples: Sequence[SampleRow],
) -> str:
    """The page of a study; every text from the record is escaped, the figures stand in it as SVG."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"svg": Markup, "number": number_text, "source": source_text, "interval": _interval}
    failures = failure_rows(record)
    return environment.get_template("report.html").render(
        record=record,
        condition=record.condition,
        light=Markup(palette.css_variables(0)),
        dark=Markup(palette.css_variables(1)),
        duration=duration_text(record.wall_s),
        picks=_cards(picks, record.name),
        baseline=baseline,
        card_figures=CARD_FIGURES,
        front=front,
        progress=progress,
        samples=[{"title": row.title, "uri": None if row.image is None else data_uri(row.image)} for row in samples],
        failures=failures[:MAX_FAILURES],
        more_failures=sum(row.count for row in failures[MAX_FAILURES:]),
        n_failures=sum(row.count for row in failures),
        provenance=provenance_sections(record),
    )


def schedule_text(schedule: Schedule, reused: float | None) -> str:
    """What a schedule does, in one line: solver, cache, guidance, policy."""
    parts = [solver_text(schedule)]
    if schedule.compensation is not None:
        parts.append("compensated")
    if reused is not None:
        parts.append(f"cache leaves out {reused:.0%} of the site calls")
    if schedule.cache_correction is not None:
        parts.append("what it hands out corrected")
    if schedule.guidance is not None:
        dropped = sum(action is not GuidanceAction.BOTH for action in schedule.guidance)
        parts.append(f"one guidance branch in {dropped} of {len(schedule.guidance)} calls")
    if schedule.policy is not None:
        parts.append(f"policy {schedule.policy.text}")
    return "; ".join(parts)


def _cards(picks: Sequence[PickSection], study: str) -> list[dict[str, object]]:
    drawn: dict[object, str] = {}
    cards = []
    for pick in picks:
        above = drawn.setdefault(pick.row["schedule_hash"], pick.name)
        cards.append(_card(pick, study) | {"drawn_above": None if above == pick.name else above})
    return cards


def _card(pick: PickSection, study: str) -> dict[str, object]:
    row = pick.row
    before, after = row["calibration_deviation"], row["deviation"]
    shift = None
    if row["source"] == "held_out" and isinstance(before, float) and isinstance(after, float) and before > 0:
        shift = f"{number_text('deviation', before)}, {after / before - 1:+.0%} on held-out ones"
    file = f"{pick.name}.schedule.json"
    return {
        "name": pick.name,
        "purpose": PURPOSE.get(pick.name, ""),
        "row": row,
        "text": schedule_text(pick.schedule, pick.reused),
        "shift": shift,
        "same": [name for name in _strings(row["picks"]) if name != pick.name],
        "export": f"autotune export {shlex.quote(study)} --pick {pick.name} -o {file}",
        "apply": f'autotune.apply(pipe, "{file}")',
        "heat_map": pick.heat_map,
    }


def _interval(row: Row, name: str) -> str:
    interval = interval_of(row, name)
    return "" if interval is None else interval_text(name, interval)


def _strings(value: object) -> list[str]:
    assert isinstance(value, list)
    return [str(item) for item in value]
