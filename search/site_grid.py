"""The columns of a cache plan as evolution sees them: blocks in depth order, leaf kinds, who feeds whom."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.cache_action import CacheAction
from autotune.spaces.inventory import Inventory

Columns = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class SiteGrid:
    """Column indices of an inventory, grouped.

    `blocks` are in order of first appearance, which is depth. `ancestry` is 1 where the column's site is an ancestor of
    the row's (its parent, the parent's parent and so on) and 0 elsewhere: float32 (n_sites, n_sites). `reads` are the
    actions that cells may take besides recompute.
    """

    n_calls: int
    n_sites: int
    blocks: tuple[Columns, ...]
    components: tuple[Columns, ...]
    leaves: Columns
    ancestry: NDArray[np.float32]
    reads: tuple[CacheAction, ...]

    @classmethod
    def of(cls, inventory: Inventory, n_calls: int, reads: Sequence[CacheAction] = (CacheAction.REUSE,)) -> "SiteGrid":
        """The grid of an inventory for a run of `n_calls` network calls."""
        ancestry = np.zeros((len(inventory), len(inventory)), np.float32)
        for i, site in enumerate(inventory.sites):
            parent = site.parent
            while parent is not None:
                ancestry[i, parent] = 1.0
                parent = inventory.sites[parent].parent
        return cls(
            n_calls=n_calls,
            n_sites=len(inventory),
            blocks=_grouped([site.block for site in inventory.sites]),
            components=_grouped([site.component for site in inventory.sites]),
            leaves=np.array(inventory.leaves, np.intp),
            ancestry=ancestry,
            reads=tuple(reads),
        )


def _grouped(names: list[str]) -> tuple[Columns, ...]:
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        groups.setdefault(name, []).append(i)
    return tuple(np.array(columns, np.intp) for columns in groups.values())
