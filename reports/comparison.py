"""Fronts beside each other in figures: hypervolume, speed at equal quality, quality at equal speed.

Only measured members count: nothing is read off between two of them.
"""

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autotune.reports.contender import UNION, Contender, family_contenders, point_resamples, study_contenders
from autotune.reports.point import HELD_OUT, Point, volume
from autotune.reports.tables import Row, intervals
from autotune.reports.text_table import TextTable
from autotune.spaces.hypervolume_interval import difference_interval
from autotune.spaces.statistics import percentile_interval
from autotune.spaces.study_record import StudyRecord

PSNR_LEVELS = (25.0, 30.0, 35.0, 40.0)
DEVIATION_LEVELS = (0.2, 0.1, 0.05, 0.02)
SPEEDUP_LEVELS = (1.25, 1.5, 2.0, 3.0, 4.0, 6.0)
MS_LEVELS = tuple(m * 10.0**e for e in range(-1, 6) for m in (1.0, 2.0, 5.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Contenders, and whether they are the families of one study."""

    contenders: tuple[Contender, ...]
    by_family: bool

    @property
    def title(self) -> str:
        """What is compared, in a few words."""
        names = [contender.record.name for contender in self.contenders]
        return f"families of {names[0]}" if self.by_family else ", ".join(names)


def compare(records: Sequence[StudyRecord]) -> Comparison:
    """Compare the fronts of studies; of one alone, its families with each other and with all together.

    Raises:
        UsageError: a study is given twice, or has no front.
    """
    if len(records) == 1:
        return Comparison(contenders=family_contenders(records[0]), by_family=True)
    return Comparison(contenders=study_contenders(records), by_family=False)


def hypervolume_table(comparison: Comparison) -> TextTable:
    """Each front's hypervolume with its interval, beside that of the same study's fewer-steps runs."""
    rows: list[Row] = []
    for contender in comparison.contenders:
        resamples = contender.resamples
        row: Row = {
            "name": contender.name,
            "model": contender.record.condition.model,
            "members": len(contender.points),
            "front": contender.n_front,
            "source": _source_text(contender),
            "prompts": contender.n_prompts,
            "hypervolume": contender.hypervolume,
        }
        found: dict[str, object] = {}
        if contender.n_prompts > 1:
            found["hypervolume"] = list(percentile_interval(resamples))
        if contender.rivals:
            sides = (contender.against, contender.rivals)
            ours, theirs = (volume([(p.cost, p.deviation) for p in points]) for points in sides)
            row |= {"fewer_steps": theirs, "gain": ours - theirs}
            if contender.rivals[0].measurement.n_prompts > 1:
                first, second = map(point_resamples, sides)
                found |= {"fewer_steps": list(percentile_interval(second))}
                found |= {"gain": list(difference_interval(first, second))}
        row |= {"fewer_steps_members": len(contender.rivals), "fewer_steps_source": contender.rival_source}
        rows.append(row | {"intervals": found})
    columns = {"name": "front", "model": "model", "members": "members", "source": "measured on", "prompts": "prompts",
               "hypervolume": "hypervolume", "fewer_steps": "fewer steps", "gain": "gain over them"}  # fmt: skip
    if comparison.by_family:
        columns = {key: title for key, title in columns.items() if key not in ("model", "fewer_steps", "gain")}
    note = (
        "Fraction of the box from the default run's latency and deviation 1 down to no latency and deviation 0.001, "
        "deviation on a logarithmic scale. Brackets: 95 % over prompts; latencies are taken as measured."
    )
    return TextTable(name="hypervolume", title="Hypervolume", columns=columns, rows=rows, notes=(note,))


def difference_table(comparison: Comparison) -> TextTable:
    """The difference in hypervolume of every two fronts that were measured on the same prompts, paired by prompt."""
    rows: list[Row] = []
    for first, second in itertools.combinations(comparison.contenders, 2):
        if first.prompts_key is None or first.prompts_key != second.prompts_key:
            continue
        row: Row = {
            "first": first.name,
            "second": second.name,
            "difference": first.hypervolume - second.hypervolume,
        }
        paired = first.points and second.points and first.n_prompts == second.n_prompts > 1
        found = {"difference": list(difference_interval(first.resamples, second.resamples))} if paired else {}
        rows.append(row | {"intervals": found})
    columns = {"first": "front", "second": "less that of", "difference": "hypervolume"}
    note = "Same condition, prompts and seeds. The interval is of the difference itself, prompt by prompt."
    return TextTable(name="differences", title="Differences in hypervolume", columns=columns, rows=rows, notes=(note,))


def equal_quality_table(comparison: Comparison, *, absolute: bool) -> TextTable:
    """The fastest member of each front that reaches a level of quality, and the fastest fewer-steps run that does."""
    levels: list[tuple[str, Callable[[Point], bool]]] = []
    everywhere = all(p.measurement.quality.get("psnr") for c in comparison.contenders for p in (*c.points, *c.rivals))
    if everywhere:
        levels += [(f"PSNR >= {level:g} dB", _reaches("psnr", level)) for level in PSNR_LEVELS]
    levels += [(f"deviation <= {level:g}", _keeps(level)) for level in DEVIATION_LEVELS]
    rows = []
    for text, reaches in levels:
        found = [
            _row(text, contender, _fastest(contender.points, reaches), _fastest(contender.rivals, reaches))
            for contender in _single(comparison)
        ]
        if any(row["label"] is not None or row["rival_label"] is not None for row in found):
            rows += found
    note = "The fastest measured member that reaches the level, and the same of the study's fewer-steps runs."
    return _table(
        comparison,
        "equal_quality",
        "Speed at equal quality",
        rows,
        (note,),
        absolute=absolute,
        led_by="latency_ms" if absolute else "speedup",
    )


def equal_speed_table(comparison: Comparison, *, absolute: bool) -> TextTable:
    """The best member of each front that is as fast as a level asks, and the best fewer-steps run that is."""
    if absolute:
        ms = [_latency_ms(p) for c in comparison.contenders for p in c.points]
        wanted = [level for level in MS_LEVELS if ms and min(ms) <= level <= 2.0 * max(ms)]
        levels = [(f"<= {level:g} ms", lambda p, level=level: _latency_ms(p) <= level) for level in reversed(wanted)]
    else:
        levels = [(f">= {level:g}x", lambda p, level=level: p.cost <= 1.0 / level) for level in SPEEDUP_LEVELS]
    rows = []
    for text, reaches in levels:
        found = [
            _row(text, contender, _best(contender.points, reaches), _best(contender.rivals, reaches))
            for contender in _single(comparison)
        ]
        if any(row["label"] is not None or row["rival_label"] is not None for row in found):
            rows += found
    note = "The measured member of lowest deviation among those as fast, and the same of the fewer-steps runs."
    return _table(
        comparison, "equal_speed", "Quality at equal speed", rows, (note,), absolute=absolute, led_by="deviation"
    )


def _table(
    comparison: Comparison,
    name: str,
    title: str,
    rows: list[Row],
    notes: tuple[str, ...],
    *,
    absolute: bool,
    led_by: str,
) -> TextTable:
    speed = {"latency_ms": "ms/image"} if absolute else {"speedup": "speed-up"}
    quality = {"deviation": "deviation", "psnr": "PSNR"}
    first, then = (speed, quality) if led_by in speed else (quality, speed)
    rivals = {} if comparison.by_family else {f"rival_{key}": f"fewer steps: {text}" for key, text in first.items()}
    columns = {"level": "level", "name": "front", **first, **rivals, **then, "label": "what"}
    if all(row["psnr"] is None for row in rows):
        columns = {key: text for key, text in columns.items() if not key.endswith("psnr")}
    bare = [key for key in columns if key not in (led_by, f"rival_{led_by}")]
    return TextTable(name=name, title=title, columns=columns, rows=rows, notes=notes, bare=bare, grouped="level")


def _single(comparison: Comparison) -> tuple[Contender, ...]:
    """The contenders less the union of the others, which has nothing of its own."""
    return tuple(c for c in comparison.contenders if not (comparison.by_family and c.name == UNION))


def _row(level: str, contender: Contender, member: Point | None, rival: Point | None) -> Row:
    row: Row = {"level": level, "name": contender.name, **_figures(member)}
    row |= {f"rival_{key}": value for key, value in _figures(rival).items()} | {"rival_source": contender.rival_source}
    return row | {"intervals": _intervals(member, "") | _intervals(rival, "rival_")}


def _intervals(point: Point | None, prefix: str) -> dict[str, object]:
    if point is None:
        return {}
    ends = intervals(point.measurement, ("latency_ms", "speedup", "deviation", "psnr"))
    return {prefix + name: list(interval) for name, interval in ends.items()}


def _figures(point: Point | None) -> Row:
    if point is None:
        return dict.fromkeys(("label", "schedule_hash", "speedup", "latency_ms", "deviation", "psnr"))
    return {
        "label": point.candidate.label,
        "schedule_hash": point.candidate.schedule_hash,
        "speedup": 1.0 / point.cost,
        "latency_ms": _latency_ms(point),
        "deviation": point.deviation,
        "psnr": point.measurement.mean("psnr") if point.measurement.quality.get("psnr") else None,
    }


def _fastest(points: Sequence[Point], reaches: Callable[[Point], bool]) -> Point | None:
    return min((p for p in points if reaches(p)), key=lambda p: (p.cost, p.deviation), default=None)


def _best(points: Sequence[Point], reaches: Callable[[Point], bool]) -> Point | None:
    return min((p for p in points if reaches(p)), key=lambda p: (p.deviation, p.cost), default=None)


def _reaches(metric: str, level: float) -> Callable[[Point], bool]:
    return lambda point: point.measurement.mean(metric) >= level


def _keeps(level: float) -> Callable[[Point], bool]:
    return lambda point: point.deviation <= level


def _latency_ms(point: Point) -> float:
    return statistics.median(point.measurement.latency_ms)


def _source_text(contender: Contender) -> str:
    return "held-out" if contender.source == HELD_OUT else "calibration"
