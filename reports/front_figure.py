"""The front plot: every candidate, the front with its intervals, the fewer-steps curve, the default run, the picks.

It shows the error on a logarithmic scale, or a quality on a linear one, whose better values lie below too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from autotune.reports import palette
from autotune.reports.point import HELD_OUT, Point, cost_interval, error_interval, lower_front, quality_interval
from autotune.reports.wording import wording
from autotune.spaces.error_scale import DEVIATIONS, ErrorScale, scale_of
from autotune.spaces.front import BASELINE, RIVAL
from autotune.spaces.objective import OBJECTIVES
from autotune.spaces.study_record import Candidate

_SPEEDUPS = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0)
_RASTER_ABOVE = 3000
"""More dominated points than this are drawn as pixels inside the SVG, to keep the page small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPlot:
    """What the front plot shows; `front` holds hashes, `picks` maps a pick's name to its candidate.

    With a `quality`, points have its values (`autotune.reports.point.by_quality`) in place of errors.
    """

    points: tuple[Point, ...]
    front: frozenset[str]
    picks: Mapping[str, Candidate]
    cost: str
    quality: str | None = None

    @property
    def shown(self) -> tuple[Point, ...]:
        """The points that the axis has a place for: a logarithmic one has none for an error of 0."""
        return tuple(p for p in self.points if self.quality is not None or p.error > 0)

    @property
    def members(self) -> tuple[Point, ...]:
        """The front's points by increasing cost."""
        return tuple(sorted((p for p in self.points if p.candidate.schedule_hash in self.front), key=lambda p: p.cost))

    @property
    def shown_members(self) -> tuple[Point, ...]:
        """The members that the axis has a place for."""
        return tuple(p for p in self.members if self.quality is not None or p.error > 0)

    @property
    def fewer_steps(self) -> tuple[Point, ...]:
        """The best fewer-steps runs by increasing cost: the strongest cheap rival."""
        return lower_front([p for p in self.points if p.family == RIVAL])

    @property
    def marked(self) -> tuple[Point, ...]:
        """The points that tell about themselves on the page: the default run, the front, the fewer-steps curve."""
        chosen = [*([self.baseline] if self.baseline else []), *self.members, *self.fewer_steps]
        return tuple({p.candidate.schedule_hash: p for p in chosen if p.error > 0}.values())

    @property
    def scale(self) -> ErrorScale:
        """What the error axis shows."""
        return scale_of(self.points[0].measurement) if self.points else DEVIATIONS

    @property
    def baseline(self) -> Point | None:
        """The pipeline's default run, if it was measured."""
        return next((p for p in self.points if p.family == BASELINE), None)


def draw_front(plot: FrontPlot, narrow: bool) -> Figure:
    """The front plot; an empty study gives empty axes that say so."""
    figure = Figure(figsize=(4.2, 5.4) if narrow else (8.6, 5.2), layout="constrained")
    axes = figure.add_subplot()
    name = "MACs" if plot.cost == "macs" else "latency"
    axes.set_xlabel(f"{name} relative to the default run" + ("" if narrow else "  (faster to the left)"))
    what, axis = plot.scale.metric, wording(plot.scale).axis
    if plot.quality is not None:
        what = axis = plot.quality
    axes.set_ylabel(what if narrow else f"{axis}  (better below)")
    shown = plot.shown
    if not shown:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "No candidate was measured.", ha="center", va="center", transform=axes.transAxes)
        return figure
    _set_frame(axes, plot, shown, narrow)
    styles = palette.family_styles(p.family for p in shown)
    _draw_dominated(axes, plot, shown, styles)
    _draw_fewer_steps(axes, plot.fewer_steps)
    _draw_members(axes, plot, styles)
    baseline = plot.baseline
    if baseline is not None and baseline in shown:
        axes.plot(baseline.cost, baseline.error, "*", ms=15, color=palette.light("ink"), mec=palette.light("paper"),
                  mew=0.8, ls="none", zorder=7, label="default run")  # fmt: skip
    _annotate_picks(axes, plot)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2 if narrow else 4,
                  handletextpad=0.5, columnspacing=1.4)  # fmt: skip
    return figure


def outside_frame(plot: FrontPlot) -> int:
    """How many candidates are so slow or so far off that the plot leaves them out."""
    shown = plot.shown
    if not shown:
        return len(plot.points)
    right, top = _limits(plot, shown)
    return len(plot.points) - sum(p.cost <= right and p.error <= top for p in shown)


def _limits(plot: FrontPlot, shown: Sequence[Point]) -> tuple[float, float]:
    important = [*plot.members, *plot.fewer_steps, *([plot.baseline] if plot.baseline else [])] or list(shown)
    right = max(1.08, 1.1 * max(p.cost for p in important))
    top = max(p.error for p in important)
    if plot.quality is not None:
        best = min(p.error for p in important)
        return right, top + 0.5 * ((top - best) or abs(top) or 1.0)
    return right, 4.0 * top


def _set_frame(axes: Axes, plot: FrontPlot, shown: Sequence[Point], narrow: bool) -> None:
    right, top = _limits(plot, shown)
    axes.set_xlim(0.0, right)
    if plot.quality is None:
        _set_error_axis(axes, plot.scale, [p.error for p in shown], top)
    else:
        lowest = min(p.error for p in shown)
        axes.set_ylim(lowest - 0.15 * (top - lowest), top)
        sign = -1.0 if OBJECTIVES[plot.quality].higher_is_better else 1.0
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{sign * value + 0.0:.4g}"))
    axes.grid(visible=True)
    if plot.cost == "latency":
        top_axis = axes.secondary_xaxis("top")
        faster: list[float] = []
        for s in _SPEEDUPS:
            gap = (0.09 if narrow else 0.045) * right
            if 1.0 / s <= right and all(1.0 / other - 1.0 / s >= gap for other in faster) and 1.0 / s >= gap:
                faster.append(s)
        top_axis.set_xticks([1.0 / s for s in faster], [f"{s:g}x" for s in faster])
        top_axis.set_xlabel("speed-up", fontsize=8.5)
        top_axis.tick_params(labelsize=8)


def _set_error_axis(axes: Axes, scale: ErrorScale, errors: Sequence[float], top: float) -> None:
    axes.set_yscale("log")
    axes.set_ylim(min(errors) / 1.9, min(top, max(errors) * 1.35))
    low, high = axes.get_ylim()
    ticks = [m * 10.0**e for e in range(-9, 4) for m in (1, 2, 5)]
    if high / low > 100:
        ticks = [10.0**e for e in range(-9, 4)]
    axes.yaxis.set_major_locator(FixedLocator([t for t in ticks if low <= t <= min(high, scale.largest)]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: scale.tick(value)))


def _draw_dominated(axes: Axes, plot: FrontPlot, shown: Sequence[Point], styles: Mapping[str, tuple[str, str]]) -> None:
    for family in sorted({p.family for p in shown} - {BASELINE}):
        rest = [p for p in shown if p.family == family and p.candidate.schedule_hash not in plot.front]
        if not rest:
            continue
        axes.plot([p.cost for p in rest], [p.error for p in rest], styles[family][1], ms=4.2, ls="none",
                  color=palette.light("dominated"), mew=0, zorder=2, alpha=0.85, rasterized=len(rest) > _RASTER_ABOVE,
                  label=f"{family}, dominated")  # fmt: skip


def _draw_fewer_steps(axes: Axes, curve: Sequence[Point]) -> None:
    if not curve:
        return
    colour = palette.light("fewer-steps")
    axes.plot(*_staircase(curve), color=colour, lw=1.6, ls=(0, (5, 2)), zorder=3)
    _marks(axes, curve, "s", 5.0, RIVAL)
    axes.plot([], [], "s", ls=(0, (5, 2)), lw=1.6, ms=5, color=colour, label="fewer steps, best solver")


def _draw_members(axes: Axes, plot: FrontPlot, styles: Mapping[str, tuple[str, str]]) -> None:
    members = plot.shown_members
    if not members:
        return
    axes.plot(*_staircase(lower_front(members)), color=palette.light("front"), lw=1.8, zorder=3.5, label="front")
    for point in members:
        _error_bars(axes, point, plot, palette.light(styles[point.family][0]))
    for family in sorted({p.family for p in members} - {BASELINE}):
        mine = [p for p in members if p.family == family]
        colour, marker = styles[family]
        _marks(axes, mine, marker, 8.0, colour)
        axes.plot([], [], marker, ms=8, ls="none", color=palette.light(colour), mec=palette.light("paper"),
                  label=f"{family}, on the front")  # fmt: skip


def _marks(axes: Axes, points: Sequence[Point], marker: str, size: float, colour: str) -> None:
    """Filled marks for held-out figures, open ones for those of the calibration prompts only."""
    ink, paper = palette.light(colour), palette.light("paper")
    for verified in (False, True):
        mine = [p for p in points if (p.source == HELD_OUT) == verified]
        fill, edge = (ink, paper) if verified else (paper, ink)
        axes.plot([p.cost for p in mine], [p.error for p in mine], marker, ms=size, ls="none", zorder=6,
                  mfc=fill, mec=edge, mew=0.8 if verified else 1.3)  # fmt: skip


def _staircase(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    """The line below which no shown point lies: horizontal to the next point, then down to it."""
    x, y = [points[0].cost], [points[0].error]
    for point in points[1:]:
        x += [point.cost, point.cost]
        y += [y[-1], point.error]
    return x, y


def _error_bars(axes: Axes, point: Point, plot: FrontPlot, colour: str) -> None:
    upright = error_interval(point) if plot.quality is None else quality_interval(point, plot.quality)
    for interval, across in ((cost_interval(point, plot.cost), True), (upright, False)):
        if interval is None:
            continue
        x = interval if across else (point.cost, point.cost)
        y = (point.error, point.error) if across else interval
        axes.plot(x, y, color=colour, lw=0.9, solid_capstyle="butt", zorder=5, alpha=0.7)


def _annotate_picks(axes: Axes, plot: FrontPlot) -> None:
    """Labels below and left of the picks, where by definition of a front nothing lies."""
    names: dict[str, list[str]] = {}
    for name, candidate in plot.picks.items():
        names.setdefault(candidate.schedule_hash, []).append(name)
    members = [p for p in plot.shown_members if p.candidate.schedule_hash in names]
    left, right = axes.get_xlim()
    before = -1.0
    for point in members:
        across = (point.cost - left) / (right - left)
        up = float(axes.transAxes.inverted().transform(axes.transData.transform((point.cost, point.error)))[1])
        close = across - before < 0.2
        before = across
        place, side = (-14.0, -44.0 if close and up > 0.2 else -24.0), "right"
        if across < 0.22:
            place, side = (-6.0, place[1]), "center"
        elif close and up <= 0.2 and across < 0.75:  # the one before has taken the room
            place, side = (10.0, -22.0), "left"
        axes.annotate(
            " = ".join(names[point.candidate.schedule_hash]), (point.cost, point.error), xytext=place,
            textcoords="offset points", ha=side, va="center", fontsize=9.5, fontweight="bold", zorder=8,
            arrowprops={"arrowstyle": "-", "color": palette.light("soft"), "lw": 0.9, "shrinkB": 5, "shrinkA": 1},
            bbox={"boxstyle": "round,pad=0.15", "fc": palette.light("paper"), "ec": "none", "alpha": 0.85},
        )  # fmt: skip
