"""CacheQuant's planner (Liu et al. 2025, arXiv 2503.01323): planned reuses, corrected.

Its quantization is tried on the front of any family, see `autotune.search.table_members`.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from autotune.search.cache_plans import on_sites, spread_budgets
from autotune.search.planned import PlannedSearcher
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.column_fit import FitColumn
from autotune.spaces.edge_costs import EdgeCosts
from autotune.spaces.errors import ScheduleError
from autotune.spaces.schedule import Schedule
from autotune.spaces.segmentation import GroupBounds, best_segmentation

N_BUDGETS = 12
"""Numbers of refreshes that are tried."""


class CacheQuantSearcher(PlannedSearcher):
    """Reuses planned by the Dynamic Programming Schedule for several numbers of refreshes, each plain and corrected.

    The hidden state after the last block is reused, and then the leaves.
    """

    family = "cachequant"

    def _candidates(self) -> Iterator[tuple[str, Schedule]]:
        context = self._context
        if context.edge_costs is None or context.n_calls < 3:
            return
        costs = context.edge_costs()
        objects = {"hidden state": context.inventory.outermost, "leaves": context.inventory.leaves}
        for n_refreshed in spread_budgets(costs, N_BUDGETS):
            actions = np.full(costs.n_calls, CacheAction.REUSE, int)
            try:
                actions[list(planned_refreshes(costs, n_refreshed))] = CacheAction.RECOMPUTE
            except ScheduleError:  # no plan with so few refreshes
                continue
            for name, sites in objects.items():
                label = f"reuses planned, {n_refreshed} of {costs.n_calls} calls refreshed, {name}"
                plain = Schedule(n_steps=context.condition.n_steps, cache=on_sites(actions, context.inventory, sites))
                yield label, plain
                try:
                    yield f"{label}, cache corrected", context.fit(plain, FitColumn.CACHE_CORRECTION).schedule
                except ScheduleError:  # no correction helps, or no runs are left
                    continue


EXPONENT = 2.0
"""To which power costs of groups are added up. Errors within a group point the same way, those of two groups do not.

The paper adds them up as they are (1). On mini-pixart at 20 steps, 7 of them refreshed, that plan has a deviation of
0.31, with squares 0.18, and evenly spread refreshes 0.19; on mini-flux both plans are the same.
"""


def planned_refreshes(costs: EdgeCosts, n_refreshed: int, exponent: float = EXPONENT) -> tuple[int, ...]:
    """The calls to refresh, so that the reuses in between cost least in sum, each group's raised to a power.

    Groups have the paper's bounds, half to twice their mean length N = ceil(n_calls / n_refreshed), if that can be.

    Raises:
        ScheduleError: there is no plan of finite cost.
    """
    table = reuse_costs(costs) ** exponent
    mean = math.ceil(costs.n_calls / n_refreshed)
    longest = min(2 * mean, costs.longest)
    bounds = GroupBounds(n_groups=n_refreshed, shortest=math.ceil(mean / 2), longest=longest)
    try:
        return best_segmentation(table, bounds).starts
    except ScheduleError:
        return best_segmentation(table, GroupBounds(n_groups=n_refreshed, longest=costs.longest)).starts


def reuse_costs(costs: EdgeCosts) -> NDArray[np.float64]:
    """What it costs to refresh call s and reuse its value up to call e - 1: (n_calls + 1, n_calls + 1), inf elsewhere.

    Raises:
        ScheduleError: the costs say nothing of plain reuses.
    """
    if CacheAction.REUSE not in costs.kinds:
        raise ScheduleError("planning reuses needs their costs; got those of forecasts only")
    n, kind = costs.n_calls, costs.kinds.index(CacheAction.REUSE)
    table = np.full((n + 1, n + 1), np.inf)
    for start in range(n):
        for gap in range(1, min(costs.longest, n - start) + 1):
            # A reuse does not read the refreshes before, so all distances to them that can be cost the same.
            table[start, start + gap] = costs.table[start, :, :, gap, kind].min()
    return table
