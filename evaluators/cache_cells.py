"""What the gates of a cache do in each row, from cache plans."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.branch_plans import branch_uses
from autotune.spaces.cache_plan import CachePlan, CellUse
from autotune.spaces.inventory import Inventory


class Cell(IntEnum):
    """What a gate does in one row."""

    PASS = 0
    """Compute; nothing is stored."""
    SHAPE = 1
    """Compute and note the shape of the result, which a later `DEAD` cell needs."""
    WRITE = 2
    READ = 3
    """Hand out the stored value, or a forecast from the last ones."""
    TAKE = 4
    """Read, and free the memory of what is not read again."""
    DEAD = 5
    """Nobody reads the result: hand out a tensor of its shape but without channels."""


Table = tuple[NDArray[np.uint8], NDArray[np.int_]]
"""`Cell` of every row and site, and how many values to keep after it, of the conditional and the other half.

uint8 (n_calls, n_sites) and int (n_calls, n_sites, 2).
"""


def cell_tables(
    plan: CachePlan, unconditional: CachePlan | None, dropped: NDArray[np.bool_], inventory: Inventory, separate: bool
) -> tuple[Table, ...]:
    """One table; or two where the branches are calls of their own, of which each is a whole batch to its values.

    Without an `unconditional` plan, `plan` is that of both branches. With one, they must be `separate`.
    """
    uses = branch_uses(plan, unconditional, dropped, inventory)
    if not separate:
        return (_table(uses[0], np.stack([use.kept for use in uses], axis=-1), dropped),)
    return tuple(_table(use, np.stack([use.kept, use.kept], axis=-1), np.zeros_like(dropped)) for use in uses)


def _table(use: CellUse, kept: NDArray[np.int_], dropped: NDArray[np.bool_]) -> Table:
    dead = use.called & ~use.runs & ~use.reads
    before = np.concatenate([np.zeros_like(kept[:1]), kept[:-1]])
    written = np.where(dropped[:, None], kept[..., 0], kept.max(axis=-1)) > 0
    fresh = np.where(written, Cell.WRITE, np.where(dead.any(axis=0), Cell.SHAPE, Cell.PASS))
    stored = np.where((kept < before).any(axis=-1), Cell.TAKE, Cell.READ)
    # A cell that is not called is only reached if the module around it had to recompute after all: it computes too.
    cells = np.where(use.reads, stored, np.where(dead, Cell.DEAD, fresh))
    return cells.astype(np.uint8), kept
