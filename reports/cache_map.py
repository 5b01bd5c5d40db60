"""The cache column of a schedule as a map of network calls x sites."""

import re
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from numpy.typing import NDArray

from autotune.reports import palette
from autotune.reports.cell_path import runs
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan, needed_sites
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule

FORECAST = 2
"""State of a cell whose value is a forecast of any kind."""

IDLE = 3
"""State of a cell whose value is not needed, because the site that it is part of or feeds is reused."""

ONE_BRANCH = 4
"""State of a cell that one guidance branch recomputes and the other does not."""

CELLS = {
    int(CacheAction.RECOMPUTE): ("recompute", "recompute"),
    int(CacheAction.REUSE): ("reuse", "reuse the last value"),
    ONE_BRANCH: ("one-branch", "recompute of one guidance branch"),
    FORECAST: ("forecast", "forecast from the last values"),
    IDLE: ("idle", "not needed"),
}
"""State -> colour of the palette, and meaning."""

IDLE_HATCH = "//////"
"""Drawn over idle cells, so that no reading depends on their hue."""


def cell_states(schedule: Schedule, inventory: Inventory) -> NDArray[np.uint8] | None:
    """Recompute, reuse, `ONE_BRANCH`, `FORECAST` or `IDLE` per network call and site, (n_calls, n_sites).

    Of branches with a plan each, where neither recomputes, the conditional one's. None without a fitting cache column.
    """
    if schedule.cache is None or schedule.cache.n_sites != len(inventory):
        return None
    states = _branch_states(schedule.cache, inventory)
    if schedule.unconditional_cache is not None:
        other = _branch_states(schedule.unconditional_cache, inventory)
        states[(states == CacheAction.RECOMPUTE) != (other == CacheAction.RECOMPUTE)] = ONE_BRANCH
    return states


def _branch_states(plan: CachePlan, inventory: Inventory) -> NDArray[np.uint8]:
    states = np.minimum(plan.table, FORECAST)
    states[(plan.table != CacheAction.RECOMPUTE) & ~needed_sites(plan.table, inventory)] = IDLE
    return states


def short_block(block: str) -> str:
    """A block's name without the words that every block has: `single_transformer_blocks.3` is `single 3`."""
    words = [w for w in re.split(r"[._]", block) if w not in ("transformer", "blocks", "block", "")]
    if words and words[0].isdigit():
        words.insert(0, "block")
    return " ".join(words) or block


def map_inches(n_sites: int, narrow: bool) -> float:
    """Height of the map."""
    return min(max(1.2, n_sites * (0.13 if narrow else 0.155)), 6.5)


def draw_cells(axes: Axes, cells: NDArray[np.uint8], inventory: Inventory, narrow: bool) -> None:
    """The map of `cell_states`; rows are sites in the inventory's order, with a line between blocks."""
    n_calls, n_sites = cells.shape
    for state, (colour, _) in CELLS.items():
        path = runs((cells == state).T)
        if path is not None:
            axes.add_patch(PathPatch(path, snap=False, **cell_style(colour)))
    starts = [i for i in range(n_sites) if i == 0 or inventory.sites[i].block != inventory.sites[i - 1].block]
    paper = palette.light("paper")
    axes.vlines(range(1, n_calls), 0, n_sites, color=paper, lw=0.8 if n_calls <= 30 else 0.3)
    if n_sites <= 80:
        axes.hlines(range(1, n_sites), 0, n_calls, color=paper, lw=0.25)
    axes.hlines(starts[1:], 0, n_calls, color=paper, lw=1.8 if len(starts) <= 30 else 0.8)
    axes.set_xlim(0, n_calls)
    axes.set_ylim(n_sites, 0)
    axes.spines[:].set_visible(False)
    _label_rows(axes, inventory, starts, narrow)


def cell_style(colour: str) -> dict[str, object]:
    """Of a patch for cells, in the map and in its legend."""
    style: dict[str, object] = {"fc": palette.light(colour), "lw": 0}
    return style | {"hatch": IDLE_HATCH, "ec": palette.light("hatch")} if colour == "idle" else style


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
    inches_per_row = map_inches(len(sites), narrow) / len(sites)
    centres, texts, free_from = [], [], -np.inf
    for start, end in zip(starts, ends, strict=True):
        centre = (start + end) / 2
        if (centre - free_from) * inches_per_row >= 0.06:
            centres.append(centre)
            texts.append(naming(sites[start].block))
            free_from = centre + 0.06 / inches_per_row
    axes.set_yticks(centres, texts)
