"""Which site hangs on which, in the arrays that cache plans are worked out with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Columns = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """The sites with the same number of ancestors, as columns of a cache plan.

    `parents` has an entry per site, none where the sites have no parents. `inside` says which sites are part of their
    parent; the others feed it.
    """

    sites: Columns
    parents: Columns
    inside: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class SiteTree:
    """The sites of an inventory, level by level from the roots on.

    `own_macs` are each site's multiply-accumulates less those of the sites inside it: int64 (n_sites,).
    """

    levels: tuple[Level, ...]
    own_macs: NDArray[np.int64]

    @classmethod
    def of(cls, parents: Sequence[int | None], inside: Sequence[bool], macs: Sequence[int]) -> Self:
        """The tree of sites that have these parents; all arguments have one entry per site."""
        depths, own = [], np.array(macs, np.int64)
        for i, parent in enumerate(parents):
            beside = i  # what feeds a site lies beside it
            while not inside[beside] and (fed := parents[beside]) is not None:
                beside = fed
            if (around := parents[beside]) is not None:
                own[around] -= macs[i]
            depth = 0
            while parent is not None:
                depth, parent = depth + 1, parents[parent]
            depths.append(depth)
        levels = []
        for depth in range(max(depths, default=-1) + 1):
            sites = [i for i, d in enumerate(depths) if d == depth]
            above = [parent for i in sites if (parent := parents[i]) is not None]
            levels.append(Level(np.array(sites), np.array(above, np.intp), np.array([inside[i] for i in sites])))
        return cls(tuple(levels), own)
