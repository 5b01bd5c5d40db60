"""What the points of the front plot tell about themselves on the page."""

from collections.abc import Mapping
from dataclasses import dataclass

from autotune.reports.figure_text import figure_text, source_text
from autotune.reports.front_figure import FrontPlot
from autotune.reports.pick_section import export_line
from autotune.reports.tables import Row, candidate_row
from autotune.reports.wording import wording
from autotune.spaces.front import BASELINE


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontDot:
    """One point: a title, the picks that it is, lines of figures, and the line that exports it ("": none does)."""

    title: str
    picks: tuple[str, ...]
    lines: tuple[str, ...]
    export: str


def front_dots(plot: FrontPlot, rows: Mapping[str, Row], study: str, storage: str | None) -> tuple[FrontDot, ...]:
    """One per `FrontPlot.marked`; `rows` are those of the front by schedule hash."""
    words = wording(plot.scale)
    dots = []
    for point in plot.marked:
        candidate = point.candidate
        row = rows.get(candidate.schedule_hash) or candidate_row(candidate, [])
        names = row["picks"]
        assert isinstance(names, list)
        default = candidate.family == BASELINE
        dots.append(
            FrontDot(
                title=candidate.label,
                picks=tuple(map(str, names)),
                lines=(
                    f"{figure_text(row, 'latency_ms')} ms per {words.run}, speed-up {figure_text(row, 'speedup')}",
                    f"{words.metric} {figure_text(row, words.metric)}",
                    f"{candidate.family}, {row['network_calls']} calls, {source_text(row)} {words.units}"
                    f"{_support(row)}",
                ),
                export="" if default else export_line(study, str([*names, candidate.schedule_hash[:12]][0]), storage),
            )
        )
    return tuple(dots)


def _support(row: Row) -> str:
    """What the held-out values say of a front's member, where its row tells."""
    return f", {row['support']}" if "support" in row else ""
