"""The columns of a cache plan as evolution sees them: blocks in depth order, leaf kinds, who feeds whom."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.inventory import Inventory

Columns = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class SiteGrid:
    """Column indices of an inventory, grouped.

    `blocks` are in order of first appearance, which is depth. `ancestors` of a site are its parent, the parent's parent
    and so on; `descendants` the sites that it is an ancestor of.
    """

    n_calls: int
    n_sites: int
    blocks: tuple[Columns, ...]
    components: tuple[Columns, ...]
    ancestors: tuple[Columns, ...]
    descendants: tuple[Columns, ...]

    @classmethod
    def of(cls, inventory: Inventory, n_calls: int) -> "SiteGrid":
        """The grid of an inventory for a run of `n_calls` network calls."""
        up: list[list[int]] = []
        for site in inventory.sites:
            chain: list[int] = []
            parent = site.parent
            while parent is not None:
                chain.append(parent)
                parent = inventory.sites[parent].parent
            up.append(chain)
        down = [[i for i, chain in enumerate(up) if site in chain] for site in range(len(inventory))]
        return cls(
            n_calls=n_calls,
            n_sites=len(inventory),
            blocks=_grouped([site.block for site in inventory.sites]),
            components=_grouped([site.component for site in inventory.sites]),
            ancestors=tuple(np.array(chain, np.intp) for chain in up),
            descendants=tuple(np.array(sites, np.intp) for sites in down),
        )


def _grouped(names: list[str]) -> tuple[Columns, ...]:
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        groups.setdefault(name, []).append(i)
    return tuple(np.array(columns, np.intp) for columns in groups.values())
