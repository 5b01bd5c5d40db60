"""The front as rows: the objects of `front --format json`, and the same as Markdown and CSV."""

import csv
import io
import statistics
from collections.abc import Collection, Mapping, Sequence
from math import isfinite, nan

from autotune.reports.figure_text import figure_text, interval_of, markdown_cell, number_text, source_text
from autotune.reports.point import Interval, final_measurement
from autotune.spaces.errors import UsageError
from autotune.spaces.evaluation import DEVIATION, SUCCESS, Measurement
from autotune.spaces.front import (
    PICKS,
    baseline_of,
    front_support,
    pick,
    quality_name,
    record_constraints,
    record_objectives,
    refuted_members,
    study_front,
)
from autotune.spaces.held_out import Overfit, Support, overfit
from autotune.spaces.objective import MEGABYTE, OF_CACHE, REWARDS, objective_value
from autotune.spaces.statistics import bootstrap_interval, ratio_interval, share_interval, timing_interval
from autotune.spaces.study_record import Candidate, StudyRecord

Row = dict[str, object]

QUALITY = ("deviation", "psnr", "ssim", "alignment")
OF_EPISODES = ("success", "action-error")
"""What a policy's episodes measure in place of `QUALITY`."""

OF_PRECISION = ("relative_weights", "relative_bit_operations")
"""What a quantization lowers."""

OPTIONAL = (*OF_EPISODES, *REWARDS, "energy_j", *OF_PRECISION, "cached_mb")
"""Figures that only some studies measure; tables have columns for those that are there."""

TITLES = {
    "energy_j": "energy (J)",
    "action-error": "action error",
    "relative_weights": "weights",
    "relative_bit_operations": "bit operations",
    "cached_mb": "cached (MB)",
}

WITH_INTERVAL = ("latency_ms", "speedup", *QUALITY, "overfit")
_USUAL = {"deviation": "deviation", "psnr": "PSNR (dB)", "ssim": "SSIM", "alignment": "alignment"}
MEASURED = (*WITH_INTERVAL, *OF_EPISODES, *REWARDS, "energy_j")
"""What `intervals` are worked out of unless told otherwise."""
COLUMNS = (
    "schedule_hash", "label", "family", "picks", "on_front", "support", "network_calls", "latency_ms", "speedup",
    "relative_macs", "macs", *QUALITY, "peak_memory_bytes", "source", "calibration_deviation", "overfit_metric",
    "calibration_minus_held_out", "overfit",
)  # fmt: skip


def front_rows(record: StudyRecord) -> list[Row]:
    """One row per member of the study's front, in the front's order (by cost).

    Figures are held-out where the member was re-measured, else from calibration; `source` says which. `latency_ms`
    is the median per image, `speedup` the reciprocal of the objective `latency`; `modelled` is there where that is the
    cost model's, the schedule having been timed once. A metric that was not measured, or is not a finite number, is
    None; rewards and `energy_j` have a key only where the study measures them, and so have those of a policy:
    `success`, `calibration_success`, `action-error`, and `episodes`, the number of them; `relative_weights` and
    `relative_bit_operations` are there where a member is quantized, `cached_mb`, the peak of a batch's cached values in
    megabytes, where the study has an objective or a limit of them. `intervals` maps a figure to its 95 % interval
    [low, high], over prompts for quality and over timed runs for speed; a figure with fewer than two values has none.

    `support` is a `Support`. Of `overfit_metric`, the study's quality, `calibration_minus_held_out` and `overfit` are
    the `shift` and `excess` of `Overfit`; None where the member was not re-measured.
    """
    front = study_front(record)
    chosen = pick(front, record) if front else {}
    support = front_support(record)
    return [
        _member_row(
            c, record, [n for n in PICKS if n in chosen and chosen[n].schedule_hash == c.schedule_hash], support
        )
        for c in front
    ]


def refuted_rows(record: StudyRecord) -> list[Row]:
    """Rows as those of `front_rows` for the members of the calibration front that the held-out values take off it."""
    support = front_support(record)
    return [_member_row(c, record, [], support) | {"on_front": False} for c in refuted_members(record)]


def row_of(record: StudyRecord, candidate: Candidate) -> Row:
    """The row of any candidate of a study: that of `front_rows` or `refuted_rows`, or one without marks.

    Raises:
        UsageError: the candidate has failed.
    """
    rows = [*front_rows(record), *refuted_rows(record)]
    found = next((row for row in rows if row["schedule_hash"] == candidate.schedule_hash), None)
    if found is None and final_measurement(candidate) is None:
        raise UsageError(f"only measured schedules can be shown; {candidate.label} has failed: choose another pick")
    return found or candidate_row(candidate, [])


def _member_row(candidate: Candidate, record: StudyRecord, picks: list[str], support: Mapping[int, Support]) -> Row:
    row, found = candidate_row(candidate, picks), _overfit(candidate, record)
    row |= {"on_front": True, "support": str(support[candidate.number])}
    row |= {
        "overfit_metric": None if found is None else found.metric,
        "calibration_minus_held_out": None if found is None else found.shift,
        "overfit": None if found is None else found.excess,
    }
    final = final_measurement(candidate)
    if final is not None and final[1].cache_bytes is not None and _asks_for_cache(record):
        row["cached_mb"] = final[1].cache_bytes / MEGABYTE
    if found is not None and found.interval is not None:
        known = row["intervals"]
        assert isinstance(known, Mapping)
        row["intervals"] = {**known, "overfit": list(found.interval)}
    return row


def _asks_for_cache(record: StudyRecord) -> bool:
    asked = {*record_objectives(record), *(limit.metric for limit in record_constraints(record))}
    return not asked.isdisjoint(OF_CACHE)


def _overfit(candidate: Candidate, record: StudyRecord) -> Overfit | None:
    baseline = baseline_of(record)
    own, default = _both(candidate), None if baseline is None else _both(baseline)
    if own is None or default is None or candidate is baseline:
        return None
    return overfit(quality_name(record), own, default)


def _both(candidate: Candidate) -> tuple[Measurement, Measurement] | None:
    before = candidate.calibration.measurement
    after = None if candidate.held_out is None else candidate.held_out.measurement
    return None if before is None or after is None else (before, after)


def candidate_row(candidate: Candidate, picks: list[str]) -> Row:
    """The row of one complete candidate; see `front_rows`."""
    final = final_measurement(candidate)
    assert final is not None, "only complete candidates have rows"
    source, measurement = final
    calibration = candidate.calibration.measurement
    return {
        "schedule_hash": candidate.schedule_hash,
        "label": candidate.label,
        "family": candidate.family,
        "picks": picks,
        **figures_of(measurement),
        "source": source,
        "calibration_deviation": None if calibration is None else _mean(calibration, DEVIATION),
        **({} if calibration is None or SUCCESS not in calibration.quality else
           {"calibration_success": _mean(calibration, SUCCESS)}),
    }  # fmt: skip


def figures_of(measurement: Measurement) -> Row:
    """The figures of a row of `front_rows`, with their `intervals`."""
    row: Row = {
        "network_calls": measurement.network_calls,
        "latency_ms": statistics.median(measurement.latency_ms),
        "speedup": 1.0 / objective_value("latency", measurement),
        "relative_macs": measurement.relative_macs,
        "macs": measurement.macs,
    }
    row |= {metric: _mean(measurement, metric) for metric in QUALITY}
    others = (*OF_EPISODES, *REWARDS)
    row |= {metric: _mean(measurement, metric) for metric in others if metric in measurement.quality}
    row |= {"episodes": measurement.n_prompts} if SUCCESS in measurement.quality else {}
    if measurement.relative_weights not in (None, 1.0):
        row |= {name: getattr(measurement, name) for name in OF_PRECISION}
    row |= {"energy_j": statistics.median(measurement.energy_j)} if measurement.energy_j else {}
    row |= {"modelled": True} if objective_value("latency", measurement) != measurement.relative_latency else {}
    return row | {
        "peak_memory_bytes": measurement.peak_memory_bytes,
        "intervals": {name: list(interval) for name, interval in intervals(measurement).items()},
    }


def intervals(measurement: Measurement, names: Collection[str] = MEASURED) -> dict[str, Interval]:
    """95 % intervals, bootstrap or Wilson's, of some of a measurement's figures, by the names of the columns."""
    found: dict[str, Interval] = {}
    if len(measurement.latency_ms) > 1 and not {"latency_ms", "speedup"}.isdisjoint(names):
        found["latency_ms"] = timing_interval(measurement.latency_ms)
        if len(measurement.baseline_latency_ms) > 1:
            low, high = ratio_interval(measurement.latency_ms, measurement.baseline_latency_ms)
            found["speedup"] = 1.0 / high, 1.0 / low
    if len(measurement.energy_j) > 1 and min(measurement.energy_j) > 0.0 and "energy_j" in names:
        found["energy_j"] = timing_interval(measurement.energy_j)
    for metric in (name for name in (*QUALITY, *OF_EPISODES, *REWARDS) if name in names):
        values = measurement.quality.get(metric, ())
        if len(values) > 1 and all(map(isfinite, values)):
            found[metric] = share_interval(values) if metric == SUCCESS else bootstrap_interval(values)
    return found


def _mean(measurement: Measurement, metric: str) -> float | None:
    mean = measurement.mean(metric) if measurement.quality.get(metric) else nan
    return mean if isfinite(mean) else None


def to_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """The rows as CSV with a header; floats in full precision, picks joined by `;`, an unmeasured cell is empty.

    Each figure of `WITH_INTERVAL`, and of what only some studies measure, is followed at the end by its `_low` and
    `_high` columns.
    """
    extra = optional_columns(rows)
    figures = (*WITH_INTERVAL, *extra)
    plain = [*COLUMNS, *extra, *(name for name in ("calibration_success", "episodes") if _is_there(name, rows))]
    names = [*plain, *(f"{name}_{end}" for name in figures for end in ("low", "high"))]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells: Row = {name: row.get(name) for name in plain}
        cells["picks"] = ";".join(_names(row["picks"]))
        for name in figures:
            cells[f"{name}_low"], cells[f"{name}_high"] = interval_of(row, name) or (None, None)
        writer.writerow(cells)
    return buffer.getvalue()


def optional_columns(rows: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    """The figures of `OPTIONAL` that some row has."""
    return tuple(name for name in OPTIONAL if _is_there(name, rows))


def _is_there(name: str, rows: Sequence[Mapping[str, object]]) -> bool:
    return any(name in row for row in rows)


def quality_columns(rows: Sequence[Mapping[str, object]], columns: Mapping[str, str] = _USUAL) -> dict[str, str]:
    """Columns of a table for people, with their headings: these, of episodes without `QUALITY`, and `OPTIONAL` ones."""
    hidden = QUALITY if _is_there(SUCCESS, rows) else ()
    shown = {name: heading for name, heading in columns.items() if name not in hidden}
    return shown | {name: TITLES.get(name, name) for name in optional_columns(rows)}


def to_markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """The rows as a Markdown table for people: rounded figures, 95 % intervals in brackets."""
    figures = {"speedup": "speed-up", "latency_ms": "latency (ms)", **quality_columns(rows), "overfit": "over-fit"}
    header = (
        "pick", "schedule", "family", "calls", *figures.values(), "relative MACs", "measured on", "held up", "hash",
    )  # fmt: skip
    lines = [
        "| " + " | ".join(header) + " |",
        "|" + "|".join(" --- " if name in ("pick", "schedule", "family") else " ---: " for name in header) + "|",
    ]
    for row in rows:
        cells = (
            ", ".join(_names(row["picks"])), str(row["label"]), str(row["family"]), str(row["network_calls"]),
            *(figure_text(row, name) for name in figures), number_text("relative_macs", row["relative_macs"]),
            source_text(row), str(row.get("support", "-")), str(row["schedule_hash"])[:12],
        )  # fmt: skip
        lines.append("| " + " | ".join(markdown_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _names(picks: object) -> list[str]:
    assert isinstance(picks, list)
    return [str(name) for name in picks]
