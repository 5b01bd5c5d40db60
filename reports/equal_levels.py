"""Speed at equal quality, and quality at equal speed: whom each front offers at a level, beside its fewer-steps runs.

Only measured members count: nothing is read off between two of them.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autotune.reports.comparison import Comparison
from autotune.reports.contender import UNION, Contender
from autotune.reports.point import Point
from autotune.reports.tables import Row, intervals
from autotune.reports.text_table import TextTable
from autotune.spaces.error_scale import DEVIATIONS, FAILURES, ErrorScale
from autotune.spaces.evaluation import SUCCESS

PSNR_LEVELS = (25.0, 30.0, 35.0, 40.0)
DEVIATION_LEVELS = (0.2, 0.1, 0.05, 0.02)
LOST_POINTS = (2, 10)
"""Of success, in percent, less than the default run's."""

SPEEDUP_LEVELS = (1.25, 1.5, 2.0, 3.0, 4.0, 6.0)
MS_LEVELS = tuple(m * 10.0**e for e in range(5, -2, -1) for m in (5.0, 2.0, 1.0))

AS_DEFAULT = "as the default run"
"""The level of quality that each study's own default run has, on the same prompts."""

Reaches = Callable[[Contender, Point], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A level in words, and who reaches it; asked only of contenders with errors of the `scale`, if there is one."""

    text: str
    reaches: Reaches
    scale: ErrorScale | None = None

    def is_asked_of(self, contender: Contender) -> bool:
        """Whether the level means anything for a contender."""
        return self.scale in (None, contender.scale)


def equal_quality_table(comparison: Comparison, *, absolute: bool) -> TextTable:
    """The fastest member of each front that reaches a level of quality, and the fastest fewer-steps run that does."""
    of_images = [c for c in comparison.contenders if c.scale == DEVIATIONS]
    levels = [Level(text=AS_DEFAULT, reaches=_is_as_default)]
    levels += [Level(text=_lost_text(n), reaches=_loses(n / 100), scale=FAILURES) for n in LOST_POINTS]
    if all(p.measurement.quality.get("psnr") for c in of_images for p in (*c.points, *c.rivals)):
        levels += [
            Level(text=f"PSNR >= {level:g} dB", reaches=_has_psnr(level), scale=DEVIATIONS) for level in PSNR_LEVELS
        ]
    levels += [
        Level(text=f"deviation <= {level:g}", reaches=_deviates_by(level), scale=DEVIATIONS)
        for level in DEVIATION_LEVELS
    ]
    rows = _rows(comparison, levels, lambda p: (p.cost, p.error))
    note = "The fastest measured member that reaches the level, and the same of the study's fewer-steps runs."
    led_by = "latency_ms" if absolute else "speedup"
    columns = _columns(comparison, rows, absolute=absolute, speed_first=True)
    return TextTable(
        name="equal_quality", title="Speed at equal quality", columns=columns, rows=rows, notes=(note,),
        bare=columns.keys() - {led_by, f"rival_{led_by}"}, grouped="level",
    )  # fmt: skip


def equal_speed_table(comparison: Comparison, *, absolute: bool) -> TextTable:
    """The best member of each front that is as fast as a level asks, and the best fewer-steps run that is."""
    if absolute:
        ms = [_latency_ms(p) for c in comparison.contenders for p in c.points]
        wanted = [level for level in MS_LEVELS if ms and min(ms) <= level <= 2.0 * max(ms)]
        levels = [Level(text=f"<= {level:g} ms", reaches=_takes_ms(level)) for level in wanted]
    else:
        levels = [Level(text=f">= {level:g}x", reaches=_is_faster(level)) for level in SPEEDUP_LEVELS]
    rows = _rows(comparison, levels, lambda p: (p.error, p.cost))
    best = comparison.words.best
    note = f"The measured member of {best} among those as fast, and the same of the fewer-steps runs."
    columns = _columns(comparison, rows, absolute=absolute, speed_first=False)
    return TextTable(
        name="equal_speed", title="Quality at equal speed", columns=columns, rows=rows, notes=(note,),
        bare=columns.keys() - {f"{rival}{name}" for rival in ("", "rival_") for name in _metrics(comparison)},
        grouped="level",
    )  # fmt: skip


def _columns(comparison: Comparison, rows: Sequence[Row], *, absolute: bool, speed_first: bool) -> dict[str, str]:
    speed = {"latency_ms": f"ms/{comparison.words.run}"} if absolute else {"speedup": "speed-up"}
    quality = {**{name: name for name in _metrics(comparison)}, "psnr": "PSNR"}
    first, then = (speed, quality) if speed_first else (quality, speed)
    rivals = {} if comparison.by_family else {f"rival_{key}": f"fewer steps: {text}" for key, text in first.items()}
    columns = {"level": "level", "name": "front", **first, **rivals, **then, "label": "what"}
    unmeasured = all(row["psnr"] is None for row in rows)
    return {key: text for key, text in columns.items() if not (unmeasured and key.endswith("psnr"))}


def _rows(comparison: Comparison, levels: Sequence[Level], rank: Callable[[Point], tuple[float, float]]) -> list[Row]:
    """A row per level and contender, of its first member that reaches it; levels that nobody reaches are left out.

    The union of a study's families has nothing of its own, and is left out too.
    """
    contenders = [c for c in comparison.contenders if not (comparison.by_family and c.name == UNION)]
    rows: list[Row] = []
    for level in levels:
        found = []
        for contender in filter(level.is_asked_of, contenders):
            member, rival = (
                min((p for p in points if level.reaches(contender, p)), key=rank, default=None)
                for points in (contender.points, contender.rivals)
            )
            found.append(_row(level.text, contender, member, rival, _metrics(comparison)))
        if any(row["label"] is not None or row["rival_label"] is not None for row in found):
            rows += found
    return rows


def _metrics(comparison: Comparison) -> tuple[str, ...]:
    """What people read of the contenders' errors: deviation, success, or both."""
    scales = {contender.scale for contender in comparison.contenders}
    return tuple(scale.metric for scale in (DEVIATIONS, FAILURES) if scale in scales)


def _row(level: str, contender: Contender, member: Point | None, rival: Point | None, metrics: Sequence[str]) -> Row:
    row: Row = {"level": level, "name": contender.name, **_figures(member, metrics)}
    row |= {f"rival_{key}": value for key, value in _figures(rival, metrics).items()}
    found = _intervals(member, "") | _intervals(rival, "rival_")
    return row | {"rival_source": contender.rival_source, "intervals": found}


def _figures(point: Point | None, metrics: Sequence[str]) -> Row:
    if point is None:
        return dict.fromkeys(("label", "schedule_hash", "speedup", "latency_ms", *metrics, "psnr"))
    means = {name: point.measurement.mean(name) if point.measurement.quality.get(name) else None
             for name in (*metrics, "psnr")}  # fmt: skip
    return {
        "label": point.candidate.label,
        "schedule_hash": point.candidate.schedule_hash,
        "speedup": 1.0 / point.cost,
        "latency_ms": _latency_ms(point),
        **means,
    }


def _intervals(point: Point | None, prefix: str) -> dict[str, object]:
    if point is None:
        return {}
    ends = intervals(point.measurement, ("latency_ms", "speedup", "deviation", "success", "psnr"))
    return {prefix + name: list(interval) for name, interval in ends.items()}


def _is_as_default(contender: Contender, point: Point) -> bool:
    default = contender.default_error(point.source)
    return default is not None and point.error <= default


def _lost_text(points: int) -> str:
    return f"{points} points of success less"


def _loses(share: float) -> Reaches:
    def reaches(contender: Contender, point: Point) -> bool:
        default = contender.default_at(point.source)
        least = math.inf if default is None else default.mean(SUCCESS) - share
        return point.measurement.mean(SUCCESS) >= least - 1e-9

    return reaches


def _has_psnr(level: float) -> Reaches:
    return lambda contender, point: point.measurement.mean("psnr") >= level


def _deviates_by(level: float) -> Reaches:
    return lambda contender, point: point.error <= level


def _takes_ms(level: float) -> Reaches:
    return lambda contender, point: _latency_ms(point) <= level


def _is_faster(level: float) -> Reaches:
    return lambda contender, point: point.cost <= 1.0 / level


def _latency_ms(point: Point) -> float:
    return statistics.median(point.measurement.latency_ms)
