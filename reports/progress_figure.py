"""How the front grew: hypervolume over the time of measuring, and which family brought each gain."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from autotune.reports import palette
from autotune.reports.growth import Arrival
from autotune.spaces.front import BASELINE

NOTABLE = 0.002
"""Share of the final hypervolume above which a gain gets a mark."""

MAX_TICKS = 8
"""Of the axis that counts evaluations."""


def draw_progress(history: Sequence[Arrival], narrow: bool) -> Figure:
    """Hypervolume as a staircase over minutes of measuring, evaluations on top; over these alone without times."""
    figure = Figure(figsize=(4.2, 3.5) if narrow else (8.6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set_ylabel("hypervolume")
    axes.grid(visible=True)
    if not history:
        axes.set_xlabel("evaluations")
        return figure
    volumes = [arrival.hypervolume for arrival in history]
    counts = np.arange(1, len(history) + 1)
    timed = history[-1].measured_s > 0
    unit, name = (60.0, "minutes") if history[-1].measured_s > 180 else (1.0, "seconds")
    x = [arrival.measured_s / unit for arrival in history] if timed else counts.tolist()
    axes.set_xlabel(f"{name} of measuring" if timed else "evaluations")
    axes.step(x, volumes, where="post", color=palette.light("accent"), lw=1.6, zorder=3)
    axes.fill_between(x, volumes, step="post", color=palette.light("accent"), alpha=0.1, lw=0)
    axes.set_xlim(0, max(x) * 1.02)
    axes.set_ylim(0, max(*volumes, 0.01) * 1.12)
    if timed:
        _count_evaluations(axes, x, counts.tolist())
    _mark_gains(axes, x, history)
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside lower center", ncols=2 if narrow else 4, handletextpad=0.3)
    return figure


def _count_evaluations(axes: Axes, x: Sequence[float], counts: Sequence[int]) -> None:
    """Evaluations at the top, at round numbers, where there is room."""
    step = next(s * 10**e for e in range(9) for s in (1, 2, 5) if counts[-1] / (s * 10**e) <= MAX_TICKS)
    ticks: list[tuple[float, int]] = []
    for count in counts:
        place = x[count - 1]
        if count % step == 0 and (not ticks or place - ticks[-1][0] > 0.05 * x[-1]):
            ticks.append((place, count))
    top = axes.secondary_xaxis("top")
    top.set_xticks([place for place, _ in ticks], [str(count) for _, count in ticks])
    top.set_xlabel("evaluations", fontsize=8.5)
    top.tick_params(labelsize=8)


def _mark_gains(axes: Axes, x: Sequence[float], history: Sequence[Arrival]) -> None:
    styles = palette.family_styles(arrival.candidate.family for arrival in history)
    least = NOTABLE * history[-1].hypervolume
    for family in sorted(set(styles) - {BASELINE}):
        mine = [
            (place, arrival.hypervolume)
            for place, arrival in zip(x, history, strict=True)
            if arrival.candidate.family == family and arrival.added > least
        ]
        if mine:
            colour, marker = styles[family]
            axes.plot(*zip(*mine, strict=True), marker, ms=5.5, ls="none", zorder=4, color=palette.light(colour),
                      mec=palette.light("paper"), mew=0.6, label=f"gain by {family}")  # fmt: skip
