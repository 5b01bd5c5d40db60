"""Figures of a row as people read them."""

from collections.abc import Mapping

from autotune.reports.point import HELD_OUT, Interval
from autotune.spaces.error_scale import percent
from autotune.spaces.evaluation import SUCCESS


def figure_text(row: Mapping[str, object], name: str) -> str:
    """A figure of a row as people read it, with its interval if it has one: `2.41x [2.35, 2.49]`."""
    interval = interval_of(row, name)
    text = number_text(name, row.get(name))
    return text if interval is None else f"{text} {interval_text(name, interval)}"


def interval_text(name: str, interval: Interval) -> str:
    """An interval as people read it, without units: `[2.35, 2.49]`."""
    low, high = (number_text(name, end).removesuffix("x").removesuffix(" %") for end in interval)
    return f"[{low}, {high}]"


def number_text(name: str, value: object) -> str:
    """One figure, rounded for people; `-` where nothing was measured."""
    if not isinstance(value, int | float):
        return "-"
    decimals = {"psnr": ".2f", "ssim": ".4f", "alignment": ".3f", "relative_macs": ".3f"}
    if name == "speedup":
        return f"{value:.2f}x"
    if name == "overfit":
        return f"{100 * value:+.1f} %"
    if name == SUCCESS:
        return percent(value)
    if name in decimals:
        return format(value, decimals[name])
    return format(value, "#.3g").removesuffix(".") if 0 < abs(value) < 1000 else f"{value:.0f}"


def source_text(row: Mapping[str, object]) -> str:
    """Where a row's figures come from, for people."""
    if row["source"] == HELD_OUT:
        return "held-out"
    return "calibration, speed-up modelled" if row.get("modelled") else "calibration"


def interval_of(row: Mapping[str, object], name: str) -> Interval | None:
    """The interval of one figure of a row, or None."""
    interval = _intervals_of(row["intervals"]).get(name)
    return None if interval is None else (float(interval[0]), float(interval[1]))


def _intervals_of(value: object) -> Mapping[str, Interval]:
    assert isinstance(value, Mapping)
    return value


def markdown_cell(text: str) -> str:
    """The text of one cell of a Markdown table, on one line and without markup of its own."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())
