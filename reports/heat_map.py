"""What a schedule does, call by call: a strip of time, solver and guidance above a step x block map of the cache."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray

from autotune.reports import palette
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import needed_sites
from autotune.spaces.guidance_column import GuidanceAction, GuidanceRow, n_differences
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule

FORECAST = 2
"""State of a cell whose value is a forecast of any kind."""

IDLE = 3
"""State of a cell whose value is not needed, because the site that it is part of or feeds is reused."""

_CELLS = {int(CacheAction.RECOMPUTE): "recompute", int(CacheAction.REUSE): "reuse", FORECAST: "forecast", IDLE: "idle"}
_MEANING = {"recompute": "recompute", "reuse": "reuse", "forecast": "forecast", "idle": "not needed"}
_GUIDANCE = {
    "guidance-both": "both branches",
    "guidance-stored": "conditional branch, stored difference",
    "guidance-forecast": "conditional branch, forecast difference",
    "guidance-one": "conditional branch only",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StripRow:
    """One row of the strip: per call a text (may be empty) and a colour of the palette."""

    name: str
    texts: tuple[str, ...]
    colours: tuple[str, ...]


def cell_states(schedule: Schedule, inventory: Inventory) -> NDArray[np.uint8] | None:
    """Recompute, reuse, `FORECAST` or `IDLE` per network call and site, (n_calls, n_sites).

    None without a fitting cache column.
    """
    if schedule.cache is None or schedule.cache.n_sites != len(inventory):
        return None
    table = schedule.cache.table
    states = np.minimum(table, FORECAST)
    states[(table != CacheAction.RECOMPUTE) & ~needed_sites(table, inventory)] = IDLE
    return states


def strip_rows(schedule: Schedule) -> tuple[StripRow, ...]:
    """Rows for the columns that the schedule has: time, solver, compensation, guidance."""
    rows = []
    if schedule.time is not None:
        rows.append(_plain("timestep", [f"{t:.0f}" for t in schedule.time]))
    if schedule.solver is not None:
        rows.append(_plain("order", [f"{s.order}{'c' if s.corrector else ''}" for s in schedule.solver]))
    if schedule.compensation is not None:
        rows.append(_plain("rho", [f"{rho:.2f}" for rho in schedule.compensation]))
    if schedule.guidance is not None:
        colours = tuple(map(_guidance_colour, schedule.guidance))
        rows.append(StripRow(name="guidance", texts=("",) * len(colours), colours=colours))
    return tuple(rows)


def _guidance_colour(row: GuidanceRow) -> str:
    if row is GuidanceAction.BOTH:
        return "guidance-both"
    return ("guidance-one", "guidance-stored", "guidance-forecast", "guidance-forecast")[n_differences(row)]


def _plain(name: str, texts: Sequence[str]) -> StripRow:
    return StripRow(name=name, texts=tuple(texts), colours=("panel",) * len(texts))


def solver_text(schedule: Schedule) -> str:
    """The solver column in words: `data view, lambda domain, orders 1-3, with corrector`."""
    if schedule.solver is None:
        return "the pipeline's own sampler"
    text = " and ".join(sorted({step.form for step in schedule.solver}))
    orders = sorted({s.order for s in schedule.solver})
    text += f", order {orders[0]}" if len(orders) == 1 else f", orders {orders[0]} to {orders[-1]}"
    return text + (", with corrector" if any(s.corrector for s in schedule.solver) else "")


def short_block(block: str) -> str:
    """A block's name without the words that every block has: `single_transformer_blocks.3` is `single 3`."""
    words = [w for w in re.split(r"[._]", block) if w not in ("transformer", "blocks", "block", "")]
    if words and words[0].isdigit():
        words.insert(0, "block")
    return " ".join(words) or block


def draw_heat_map(schedule: Schedule, inventory: Inventory, n_calls: int, narrow: bool) -> Figure:
    """The strip, and below it the cache map if the schedule has one; rows are sites in the inventory's order."""
    strip, cells = strip_rows(schedule), cell_states(schedule, inventory)
    columns = n_calls if cells is None else len(cells)
    strip_inches = 0.25 * max(1, len(strip))
    handles = _legend(schedule, cells)
    legend_columns = 2 if narrow else 3
    legend_inches = 0.24 * -(-len(handles) // legend_columns)
    map_inches = 0.0 if cells is None else _map_inches(len(inventory), narrow)
    figure = Figure(
        figsize=(4.2 if narrow else 8.6, strip_inches + map_inches + 0.6 + legend_inches), layout="constrained"
    )
    figure.get_layout_engine().set(hspace=0.02, h_pad=0.03)  # type: ignore[union-attr,call-arg]
    if cells is None:
        top = bottom = figure.add_subplot()
    else:
        top, bottom = figure.subplots(2, 1, height_ratios=[strip_inches, map_inches])
        _draw_cells(bottom, cells, inventory, narrow)
        bottom.set_xlim(0, columns)
    _draw_strip(top, strip, columns, narrow)
    every = max(1, -(-columns // (12 if narrow else 26)))
    ticks = range(0, columns, every)
    bottom.set_xticks([i + 0.5 for i in ticks], [str(i + 1) for i in ticks])
    bottom.set_xlabel("network call")
    if top is not bottom:
        top.set_xticks([])
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns, handlelength=1.1,
                      handleheight=1.1, columnspacing=1.3)  # fmt: skip
    return figure


def _map_inches(n_sites: int, narrow: bool) -> float:
    return min(max(1.2, n_sites * (0.13 if narrow else 0.155)), 6.5)


def _draw_cells(axes: Axes, cells: NDArray[np.uint8], inventory: Inventory, narrow: bool) -> None:
    n_calls, n_sites = cells.shape
    for state, colour in _CELLS.items():
        path = _runs((cells == state).T)
        if path is not None:
            axes.add_patch(PathPatch(path, fc=palette.light(colour), lw=0, snap=False))
    starts = [i for i in range(n_sites) if i == 0 or inventory.sites[i].block != inventory.sites[i - 1].block]
    paper = palette.light("paper")
    axes.vlines(range(1, n_calls), 0, n_sites, color=paper, lw=0.8 if n_calls <= 30 else 0.3)
    if n_sites <= 80:
        axes.hlines(range(1, n_sites), 0, n_calls, color=paper, lw=0.25)
    axes.hlines(starts[1:], 0, n_calls, color=paper, lw=1.8 if len(starts) <= 30 else 0.8)
    axes.set_ylim(n_sites, 0)
    axes.spines[:].set_visible(False)
    _label_rows(axes, inventory, starts, narrow)


def _label_rows(axes: Axes, inventory: Inventory, starts: Sequence[int], narrow: bool) -> None:
    sites = inventory.sites
    naming: Callable[[str], str] = short_block
    blocks = dict.fromkeys(site.block for site in sites)
    if len({short_block(block) for block in blocks}) < len(blocks):
        naming = str
    axes.tick_params(axis="y", length=0, labelsize=7)
    if len(sites) <= 44 and not narrow:
        labels = [
            f"{naming(site.block)}  {site.component}" if i in set(starts) else site.component
            for i, site in enumerate(sites)
        ]
        axes.set_yticks([i + 0.5 for i in range(len(sites))], labels)
        return
    ends = [*starts[1:], len(sites)]
    inches_per_row = _map_inches(len(sites), narrow) / len(sites)
    centres, texts, free_from = [], [], -np.inf
    for start, end in zip(starts, ends, strict=True):
        centre = (start + end) / 2
        if (centre - free_from) * inches_per_row >= 0.06:
            centres.append(centre)
            texts.append(naming(sites[start].block))
            free_from = centre + 0.06 / inches_per_row
    axes.set_yticks(centres, texts)


def _runs(mask: NDArray[np.bool_]) -> Path | None:
    """One path with a rectangle per horizontal run of True cells of a (rows, columns) mask; None if there is none."""
    vertices: list[tuple[float, float]] = []
    for row, line in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], line.astype(np.int8), [0]))))
        for left, right in edges.reshape(-1, 2).tolist():
            vertices += [(left, row), (right, row), (right, row + 1), (left, row + 1), (left, row)]
    if not vertices:
        return None
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * (len(vertices) // 5)
    return Path(vertices, codes)


def _draw_strip(axes: Axes, strip: Sequence[StripRow], columns: int, narrow: bool) -> None:
    axes.set_xlim(0, columns)
    axes.set_ylim(max(1, len(strip)), 0)
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="both", length=0)
    axes.set_yticks([i + 0.5 for i in range(len(strip))], [row.name for row in strip], fontsize=8)
    if not strip:
        axes.text(columns / 2, 0.5, "the pipeline's own times, solver and guidance", ha="center", va="center",
                  color=palette.light("soft"), fontsize=8)  # fmt: skip
    for i, row in enumerate(strip):
        for colour in sorted(set(row.colours)):
            path = _runs(np.array([[c == colour for c in row.colours]]))
            if path is not None:
                path = Path(path.vertices + np.array([0.0, i]), path.codes)
                axes.add_patch(PathPatch(path, fc=palette.light(colour), lw=0))
        longest = max((len(text) for text in row.texts), default=0)
        room = max(1, int((48 if narrow else 108) / (longest + 0.8)))  # texts of this length that fit side by side
        every = -(-len(row.texts) // room)
        for j in range(0, len(row.texts), every):
            # A text that runs into the next cells starts in its own.
            x, side = (j + 0.5, "center") if every == 1 else (j + 0.15, "left")
            axes.text(x, i + 0.5, row.texts[j], ha=side, va="center", fontsize=7)
    axes.vlines(range(1, columns), 0, max(1, len(strip)), color=palette.light("paper"), lw=0.8 if strip else 0)
    axes.hlines(range(1, len(strip)), 0, columns, color=palette.light("paper"), lw=1.8)


def _legend(schedule: Schedule, cells: NDArray[np.uint8] | None) -> list[Patch]:
    entries = []
    if cells is not None:
        entries += [(colour, _MEANING[colour]) for state, colour in _CELLS.items() if (cells == state).any()]
    if schedule.guidance is not None:
        used = set(map(_guidance_colour, schedule.guidance))
        entries += [(colour, meaning) for colour, meaning in _GUIDANCE.items() if colour in used]
    return [Patch(fc=palette.light(colour), label=label) for colour, label in entries]
