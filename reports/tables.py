"""The front as rows: the objects of `front --format json`, and the same as Markdown and CSV."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from math import isfinite, nan

from autotune.reports.point import HELD_OUT, Interval, final_measurement
from autotune.spaces.evaluation import Measurement
from autotune.spaces.front import PICKS, pick, study_front
from autotune.spaces.statistics import bootstrap_interval, ratio_interval
from autotune.spaces.study_record import Candidate, StudyRecord

Row = dict[str, object]

QUALITY = ("deviation", "psnr", "ssim", "alignment")
WITH_INTERVAL = ("latency_ms", "speedup", *QUALITY)
COLUMNS = (
    "schedule_hash", "label", "family", "picks", "network_calls", "latency_ms", "speedup", "relative_macs", "macs",
    *QUALITY, "peak_memory_bytes", "source", "calibration_deviation",
)  # fmt: skip


def front_rows(record: StudyRecord) -> list[Row]:
    """One row per member of the study's front, in the front's order (by cost).

    Figures are held-out where the member was re-measured, else from calibration; `source` says which. `latency_ms`
    is the median per image, `speedup` the baseline's median latency over it. A metric that was not measured, or is not
    a finite number, is None. `intervals` maps a figure to its 95 % bootstrap interval [low, high], over prompts for
    quality and over timed runs for speed; a figure with fewer than two values has none.
    """
    front = study_front(record)
    chosen = pick(front, record) if front else {}
    return [candidate_row(c, [name for name in PICKS if name in chosen and _same(chosen[name], c)]) for c in front]


def _same(a: Candidate, b: Candidate) -> bool:
    return a.schedule_hash == b.schedule_hash


def candidate_row(candidate: Candidate, picks: list[str]) -> Row:
    """The row of one complete candidate; see `front_rows`."""
    final = final_measurement(candidate)
    assert final is not None, "only complete candidates have rows"
    source, measurement = final
    calibration = candidate.calibration.measurement
    row: Row = {
        "schedule_hash": candidate.schedule_hash,
        "label": candidate.label,
        "family": candidate.family,
        "picks": picks,
        "network_calls": measurement.network_calls,
        "latency_ms": statistics.median(measurement.latency_ms),
        "speedup": 1.0 / measurement.relative_latency,
        "relative_macs": measurement.relative_macs,
        "macs": measurement.macs,
    }
    row |= {metric: _mean(measurement, metric) for metric in QUALITY}
    row |= {
        "peak_memory_bytes": measurement.peak_memory_bytes,
        "intervals": {name: list(interval) for name, interval in intervals(measurement).items()},
        "source": source,
        "calibration_deviation": None if calibration is None else _mean(calibration, "deviation"),
    }
    return row


def intervals(measurement: Measurement) -> dict[str, Interval]:
    """95 % bootstrap intervals of a measurement's figures, by the names of the table's columns."""
    found: dict[str, Interval] = {}
    if len(measurement.latency_ms) > 1:
        found["latency_ms"] = bootstrap_interval(measurement.latency_ms, statistic="median")
        if len(measurement.baseline_latency_ms) > 1:
            found["speedup"] = ratio_interval(measurement.baseline_latency_ms, measurement.latency_ms)
    for metric in QUALITY:
        values = measurement.quality.get(metric, ())
        if len(values) > 1 and all(map(isfinite, values)):
            found[metric] = bootstrap_interval(values)
    return found


def _mean(measurement: Measurement, metric: str) -> float | None:
    mean = measurement.mean(metric) if measurement.quality.get(metric) else nan
    return mean if isfinite(mean) else None


def to_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """The rows as CSV with a header; floats in full precision, picks joined by `;`, an unmeasured cell is empty.

    Each figure of `WITH_INTERVAL` is followed at the end by its `_low` and `_high` columns.
    """
    names = [*COLUMNS, *(f"{name}_{end}" for name in WITH_INTERVAL for end in ("low", "high"))]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells: Row = {name: row[name] for name in COLUMNS}
        cells["picks"] = ";".join(_names(row["picks"]))
        for name in WITH_INTERVAL:
            cells[f"{name}_low"], cells[f"{name}_high"] = interval_of(row, name) or (None, None)
        writer.writerow(cells)
    return buffer.getvalue()


def to_markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """The rows as a Markdown table for people: rounded figures, 95 % intervals in brackets."""
    header = ("pick", "schedule", "family", "calls", "speed-up", "latency (ms)", "deviation", "PSNR (dB)", "SSIM",
              "alignment", "MACs", "measured on", "hash")  # fmt: skip
    lines = [
        "| " + " | ".join(header) + " |",
        "|" + "|".join(" --- " if name in ("pick", "schedule", "family") else " ---: " for name in header) + "|",
    ]
    for row in rows:
        cells = (
            ", ".join(_names(row["picks"])), str(row["label"]), str(row["family"]), str(row["network_calls"]),
            figure_text(row, "speedup"), figure_text(row, "latency_ms"), figure_text(row, "deviation"),
            figure_text(row, "psnr"), figure_text(row, "ssim"), figure_text(row, "alignment"),
            number_text("relative_macs", row["relative_macs"]), source_text(row), str(row["schedule_hash"])[:12],
        )  # fmt: skip
        lines.append("| " + " | ".join(markdown_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def figure_text(row: Mapping[str, object], name: str) -> str:
    """A figure of a row as people read it, with its interval if it has one: `2.41x [2.35, 2.49]`."""
    interval = interval_of(row, name)
    text = number_text(name, row[name])
    return text if interval is None else f"{text} {interval_text(name, interval)}"


def interval_text(name: str, interval: Interval) -> str:
    """An interval as people read it, without units: `[2.35, 2.49]`."""
    low, high = (number_text(name, end).removesuffix("x") for end in interval)
    return f"[{low}, {high}]"


def number_text(name: str, value: object) -> str:
    """One figure, rounded for people; `-` where nothing was measured."""
    if not isinstance(value, int | float):
        return "-"
    decimals = {"psnr": ".2f", "ssim": ".4f", "alignment": ".3f", "relative_macs": ".3f"}
    if name == "speedup":
        return f"{value:.2f}x"
    if name in decimals:
        return format(value, decimals[name])
    return format(value, "#.3g").removesuffix(".") if 0 < abs(value) < 1000 else f"{value:.0f}"


def source_text(row: Mapping[str, object]) -> str:
    """Where a row's figures come from, for people."""
    return "held-out" if row["source"] == HELD_OUT else "calibration"


def interval_of(row: Mapping[str, object], name: str) -> Interval | None:
    """The interval of one figure of a row, or None."""
    found = row["intervals"]
    assert isinstance(found, Mapping)
    interval = found.get(name)
    return None if interval is None else (float(interval[0]), float(interval[1]))


def _names(picks: object) -> list[str]:
    assert isinstance(picks, list)
    return [str(name) for name in picks]


def markdown_cell(text: str) -> str:
    """The text of one cell of a Markdown table, on one line and without markup of its own."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())
