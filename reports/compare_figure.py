"""The fronts of several studies or families in one plot, relative to each one's own default run or absolute."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from autotune.reports import palette
from autotune.reports.comparison import Comparison
from autotune.reports.contender import UNION, Contender
from autotune.reports.point import HELD_OUT, Interval, Point, cost_interval, error_interval, lower_front
from autotune.spaces.error_scale import ERRORS, ErrorScale
from autotune.spaces.front import RIVAL
from autotune.spaces.statistics import mean_ratio_interval, timing_interval

_MARKERS = ("o", "^", "D", "v", "P")
_WIDE_RANGE = 6.0
"""Latencies that are further apart than this are drawn on a logarithmic axis."""

_LONGEST = 42
"""Characters of a name in the legend."""

_TICKS = tuple(m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5))

Place = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    """A contender as it is drawn."""

    contender: Contender
    colour: str
    marker: str
    absolute: bool

    def scale(self, source: str) -> float | None:
        """What errors measured on these prompts are divided by; None where that is not known."""
        return 1.0 if self.absolute else self.contender.default_error(source)

    def place(self, point: Point) -> Place:
        x = median(point.measurement.latency_ms) if self.absolute else point.cost
        return x, point.error / (self.scale(point.source) or 1.0)

    def places(self, points: Sequence[Point]) -> list[Place]:
        return [self.place(p) for p in points if p.error > 0]


def draw_comparison(comparison: Comparison, absolute: bool, narrow: bool) -> Figure:
    """All fronts as staircases through their members, with 95 % intervals; dashed the fewer-steps runs of each study.

    On the relative axes all default runs are at (1, 1); a contender whose default run was not measured is left out.
    """
    shown = [s for s in _series(comparison, absolute) if s.contender.points and s.scale(s.contender.source) is not None]
    figure = Figure(figsize=(4.2, 5.6) if narrow else (8.6, 5.2), layout="constrained")
    axes = figure.add_subplot()
    words = comparison.words
    axes.set_xlabel(f"ms per {words.run}" if absolute else "latency over the default run's")
    axes.set_ylabel(words.scale.metric if absolute else f"{words.errors} over the default run's")
    if not shown:
        axes.text(0.5, 0.5, "No default run was measured.", ha="center", va="center", transform=axes.transAxes)
        return figure
    for series in shown:
        _draw_rivals(axes, series)
        _draw_front(axes, series)
    stars = [(1.0, 1.0, palette.light("ink"))] if not absolute else _default_runs(shown, comparison.by_family)
    for x, y, colour in stars:
        axes.plot(x, y, "*", ms=14, color=colour, mec=palette.light("paper"), mew=0.8, ls="none", zorder=7)
    soft, paper = palette.light("soft"), palette.light("paper")
    if any(series.contender.rivals for series in shown):
        axes.plot([], [], "s", ls=(0, (4, 2)), lw=1.2, ms=4, color=soft, mfc=paper, label="fewer steps, best solver")
    if stars:
        axes.plot([], [], "*", ms=12, color=soft, mec=paper, ls="none", label="default run")
    _set_frame(axes, absolute, words.scale if absolute else ERRORS)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=1 if narrow else 4,
                  handletextpad=0.5, columnspacing=1.4)  # fmt: skip
    return figure


def _series(comparison: Comparison, absolute: bool) -> list[_Series]:
    styles = {UNION: ("front", "None"), RIVAL: ("fewer-steps", "s")}
    others = [c.name for c in comparison.contenders if c.name not in styles]
    for i, name in enumerate(others):  # the sixth colour is the first again, with another marker
        styles[name] = (f"family-{i % 5}", _MARKERS[(i + i // 5) % 5])
    return [
        _Series(contender=c, colour=palette.light(styles[c.name][0]), marker=styles[c.name][1], absolute=absolute)
        for c in comparison.contenders
    ]


def _draw_front(axes: Axes, series: _Series) -> None:
    contender, colour, paper = series.contender, series.colour, palette.light("paper")
    union = contender.name == UNION
    line: dict[str, Any] = {"color": colour, "lw": 4.0 if union else 1.6, "alpha": 0.3 if union else 1.0}
    fill, edge, width = (colour, paper, 0.8) if contender.source == HELD_OUT else (paper, colour, 1.3)
    marks: dict[str, Any] = {"marker": series.marker, "ms": 7.0, "mfc": fill, "mec": edge, "mew": width}
    places = series.places(contender.points)
    axes.plot(*_staircase(series.places(lower_front(contender.points))), **line, zorder=3)
    if not union:
        for point in contender.points:
            _error_bars(axes, series, point)
        axes.plot(*_columns(places), ls="none", zorder=6, **marks)
    name = contender.name
    axes.plot([], [], **line, **marks, label=name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}...")


def _draw_rivals(axes: Axes, series: _Series) -> None:
    rivals = lower_front(series.contender.rivals)
    places = series.places(rivals)
    if places:
        fill = series.colour if rivals[0].source == HELD_OUT else palette.light("paper")
        axes.plot(*_staircase(places), color=series.colour, lw=1.2, ls=(0, (4, 2)), zorder=2, alpha=0.8)
        axes.plot(*_columns(places), "s", ms=4, mfc=fill, mec=series.colour, ls="none", zorder=2.5)


def _default_runs(shown: Sequence[_Series], by_family: bool) -> list[tuple[float, float, str]]:
    """Where the default runs lie on absolute axes; the families of a study share one."""
    found = []
    for series in shown[:1] if by_family else shown:
        default = series.contender.default_at(series.contender.source)
        error = series.contender.default_error(series.contender.source)
        if default is not None and error is not None:
            found.append((median(default.latency_ms), error, series.colour))
    return found


def _error_bars(axes: Axes, series: _Series, point: Point) -> None:
    x, y = series.place(point)
    for interval, across in ((_across(series, point), True), (_up(series, point), False)):
        if interval is not None and y > 0:
            ends = (interval, (y, y)) if across else ((x, x), interval)
            axes.plot(*ends, color=series.colour, lw=1.1, solid_capstyle="butt", zorder=5, alpha=0.7)


def _across(series: _Series, point: Point) -> Interval | None:
    if not series.absolute:
        return cost_interval(point, "latency")
    latency_ms = point.measurement.latency_ms
    return timing_interval(latency_ms) if len(latency_ms) > 1 else None


def _up(series: _Series, point: Point) -> Interval | None:
    """Of the mean error, or of its ratio to the default run's, paired by prompt."""
    default = series.contender.default_at(point.source)
    if series.absolute or default is None or point.measurement.n_prompts < 2:
        return error_interval(point)
    return mean_ratio_interval(point.measurement.errors, default.errors, least=default.least_error)


def _staircase(places: Sequence[Place]) -> tuple[list[float], list[float]]:
    """The line below which no shown point lies: level to the next point, then down to it."""
    x, y = [places[0][0]], [places[0][1]]
    for cost, error in places[1:]:
        x += [cost, cost]
        y += [y[-1], error]
    return x, y


def _columns(places: Sequence[Place]) -> tuple[list[float], list[float]]:
    return [x for x, _ in places], [y for _, y in places]


def _set_frame(axes: Axes, absolute: bool, scale: ErrorScale) -> None:
    """Logarithmic errors with plain numbers, or successes; latency from 0 on, unless it spans too much for that."""
    low, high = axes.dataLim.intervalx
    axes.set_yscale("log")
    if absolute and high > _WIDE_RANGE * low:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.25, high * 1.25)
        _plain_ticks(axes, ERRORS, across=True)
    else:
        axes.set_xlim(0.0, max(high * 1.06, 0.0 if absolute else 1.06))
    bottom, top = axes.dataLim.intervaly
    axes.set_ylim(bottom / 1.3, top * 1.3)
    _plain_ticks(axes, scale, across=False)
    axes.grid(visible=True)


def _plain_ticks(axes: Axes, scale: ErrorScale, *, across: bool) -> None:
    axis = axes.xaxis if across else axes.yaxis
    low, high = axes.get_xlim() if across else axes.get_ylim()
    ticks = [t for t in _TICKS if low <= t <= high and (high / low < 200 or np.isclose(np.log10(t) % 1.0, 0.0))]
    axis.set_major_locator(FixedLocator([t for t in ticks if t <= scale.largest]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: scale.tick(value)))
