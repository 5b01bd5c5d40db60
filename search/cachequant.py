"""CacheQuant's planner (Liu et al. 2025, arXiv 2503.01323): planned reuses, corrected.

Its quantization is tried on the front of any family, see `autotune.search.table_members`.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autotune.search.cache_plans import on_sites, spread_budgets
from autotune.search.planned import PlannedSearcher
from autotune.search.searcher import SearchContext
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_point import cache_point
from autotune.spaces.column_fit import FitColumn
from autotune.spaces.edge_costs import EdgeCosts
from autotune.spaces.errors import ScheduleError
from autotune.spaces.schedule import Schedule
from autotune.spaces.segment_costs import CostKey
from autotune.spaces.segmentation import GroupBounds, best_segmentation

N_BUDGETS = 12
"""Numbers of refreshes that are tried."""

HYBRID: Literal["hybrid"] = "hybrid"
"""Plans by edge costs: errors of the hidden state, times what they do to the result."""

Planner = Literal["hybrid"] | CostKey
"""What plans go by: edge costs, or segment costs of a source and norm, of the feature at the cache point."""

PLANNERS: tuple[Planner, ...] = (HYBRID, ("full-precision", "l1"), ("correction-aware", "l2"))
"""The best first, then the paper's, and the one that knows of the correction (`benchmarks/segment_costs.py`).

Plans by fake-quantized costs are mostly the same as without the rounding: 92 of 96, of mini-flux and mini-pixart in 20
steps, 3 to 14 refreshes, four norms."""

EXPONENT = 2.0
"""To which power edge costs of groups are added up. Errors in a group point the same way, those of two groups do not.

The paper adds costs up as they are. On mini-pixart at 20 steps, 7 of them refreshed, that plan by edge costs has a
deviation of 0.31, with squares 0.18, and evenly spread refreshes 0.19; on mini-flux both plans are the same.
"""

_Costs = tuple[str, NDArray[np.float64], int]
"""Name, table and longest group."""


class CacheQuantSearcher(PlannedSearcher):
    """Reuses planned by the Dynamic Programming Schedule for several numbers of refreshes, each plain and corrected.

    The network up to its cache point is reused, or the hidden state after the last block, and then the leaves.
    """

    family = "cachequant"

    def __init__(self, context: SearchContext, seed: int = 0, *, planners: Sequence[Planner] = PLANNERS) -> None:
        """A searcher that plans by each of `planners` in turn, as far as the context knows their costs."""
        super().__init__(context, seed)
        self._planners = tuple(planners)

    def _candidates(self) -> Iterator[tuple[str, Schedule]]:
        for label, plain in self.plans():
            yield label, plain
            with contextlib.suppress(ScheduleError):  # no runs are left
                yield f"{label}, cache corrected", self._context.fit(plain, FitColumn.CACHE_CORRECTION).schedule

    def plans(self) -> Iterator[tuple[str, Schedule]]:
        """Label and schedule of the plans, without corrections."""
        context = self._context
        if context.n_calls < 3:
            return
        inventory, n_calls = context.inventory, context.n_calls
        objects = {"hidden state": inventory.outermost, "leaves": inventory.leaves}
        with contextlib.suppress(ScheduleError):  # a model without a cache point
            objects = {"cache point": cache_point(inventory), **objects}
        costs = self._costs("cache point" in objects)
        if not costs:
            return
        for n_refreshed in spread_budgets(n_calls, max(longest for *_, longest in costs), N_BUDGETS):
            seen = set()
            for planner, table, longest in costs:
                try:
                    starts = planned_refreshes(table, n_refreshed, longest)
                except ScheduleError:  # no plan with so few refreshes
                    continue
                if starts in seen:
                    continue
                seen.add(starts)
                label = f"reuses planned by {planner}, {n_refreshed} of {n_calls} calls refreshed"
                actions = np.full(n_calls, CacheAction.REUSE, int)
                actions[list(starts)] = CacheAction.RECOMPUTE
                for name, sites in objects.items():
                    cache = on_sites(actions, inventory, sites)
                    yield f"{label}, {name}", Schedule(n_steps=context.condition.n_steps, cache=cache)

    def _costs(self, has_point: bool) -> list[_Costs]:
        context, found = self._context, list[_Costs]()
        edges = context.edge_costs() if context.edge_costs is not None and HYBRID in self._planners else None
        knows = context.segment_costs is not None and has_point and self._planners != (HYBRID,)
        segments = None
        if knows and context.segment_costs is not None:
            with contextlib.suppress(ScheduleError):  # a cache point whose feature can't be told from what is fresh
                segments = context.segment_costs()
        for planner in self._planners:
            if isinstance(planner, str):
                found += [] if edges is None else [(f"{HYBRID} cost", reuse_costs(edges) ** EXPONENT, edges.longest)]
            elif segments is not None:
                found.append((" ".join(planner), segments.tables[planner], segments.longest))
        return found


def cachequant_seeds(context: SearchContext) -> Iterator[tuple[str, Schedule]]:
    """Label and schedule of the plans by edge costs, for other searches to begin with."""
    return CacheQuantSearcher(context, planners=(HYBRID,)).plans()


def planned_refreshes(table: NDArray[np.float64], n_refreshed: int, longest: int) -> tuple[int, ...]:
    """The calls to refresh, so that the reuses in between cost least in sum.

    Groups have the paper's bounds, half to twice their mean length N = ceil(n_calls / n_refreshed), if that can be.

    Args:
        table: (n_calls + 1, n_calls + 1), see `reuse_costs` and `SegmentCosts.tables`.
        n_refreshed: how many.
        longest: most calls of a group whose cost is known.

    Raises:
        ScheduleError: there is no plan of finite cost.
    """
    mean = math.ceil((len(table) - 1) / n_refreshed)
    bounds = GroupBounds(n_groups=n_refreshed, shortest=math.ceil(mean / 2), longest=min(2 * mean, longest))
    try:
        return best_segmentation(table, bounds).starts
    except ScheduleError:
        return best_segmentation(table, GroupBounds(n_groups=n_refreshed, longest=longest)).starts


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
