"""BAC's Bubbling Union Algorithm (Ji et al. 2026, arXiv 2506.13456): refreshes that keep errors from surging.

A feed-forward branch that is refreshed while its input is stale turns the upstream error into one of its own, about in
proportion. So the most volatile branches are refreshed whenever a feed-forward branch at or below their depth is.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.cache_unit import CacheUnit
from autotune.spaces.errors import ScheduleError


def most_volatile(volatility: NDArray[np.float64], n: int) -> tuple[int, ...]:
    """The `n` units of all with the greatest volatility, greatest first; of equal ones the first. All, if n is more."""
    if n < 0:
        raise ScheduleError(f"the number of volatile units must be at least 0; got {n}")
    return tuple(np.argsort(-volatility, kind="stable")[:n].tolist())


def bubbling_union(
    refreshes: Sequence[Collection[int]], units: Sequence[CacheUnit], volatile: Collection[int]
) -> tuple[tuple[int, ...], ...]:
    """Refreshed calls of each unit, ascending, after those of the volatile units were extended.

    A volatile unit is also refreshed with every feed-forward unit of the same or a deeper layer. The order of the
    volatile units does not matter: what one of them takes over from another, it takes from the same units anyway.

    Args:
        refreshes: calls by unit.
        units: the units, in execution order.
        volatile: indices of the units to extend; none leaves all as they are.
    """
    extended = [set(calls) for calls in refreshes]
    for u in volatile:
        for v, unit in enumerate(units):
            if unit.feed_forward and unit.layer >= units[u].layer:
                extended[u].update(refreshes[v])
    return tuple(tuple(sorted(calls)) for calls in extended)
