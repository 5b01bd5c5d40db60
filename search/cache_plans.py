"""Cache schedules planned on a traced run: which calls to refresh, and how to approximate the others."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from autotune.search.planned import PlannedSearcher
from autotune.search.searcher import SearchContext
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.edge_costs import EdgeCosts
from autotune.spaces.inventory import Inventory
from autotune.spaces.refresh_plan import plan_refreshes
from autotune.spaces.schedule import Schedule

FAMILY = "cache-plan"
Actions = NDArray[np.int_]

EXPONENTS = (1.0, 2.0, 4.0, math.inf)

SPARSER, FEWEST = (0.85, 0.7, 0.55), 3
"""Even refreshes that no plan can have: shares of the least number that one has, and how many are left at least."""


def planned_schedules(context: SearchContext, n_budgets: int = 8) -> Iterator[tuple[str, Schedule]]:
    """Label and schedule of plans by the measured costs, in an order in which every beginning samples the budgets.

    For each number of refreshed calls the plans for all exponents, and evenly spread refreshes with a forecast of order
    1, which win where few calls are refreshed; first on what is outermost (the hidden state after the last block), then
    on the leaves, which are slower and follow each call's own gates. Nothing where the context knows no costs.
    """
    if context.edge_costs is None or context.n_calls < 3:
        return
    inventory = context.inventory
    objects = {"hidden state": inventory.outermost, "leaves": inventory.leaves}
    if objects["hidden state"] == objects["leaves"]:
        del objects["leaves"]
    entries = list(planned_actions(context.edge_costs(), n_budgets, EXPONENTS))
    for name, sites in objects.items():
        for label, actions in entries:
            cache = on_sites(actions, inventory, sites)
            yield f"{label}, {name}", Schedule(n_steps=context.condition.n_steps, cache=cache)


def planned_actions(costs: EdgeCosts, n_budgets: int, exponents: Sequence[float]) -> Iterator[tuple[str, Actions]]:
    """Label and action of each call, by budget: the plans of all exponents, then evenly spread refreshes.

    These alone go on to fewer refreshes, where some would lie further apart than costs are known.
    """
    plans = {exponent: plan_refreshes(costs, exponent) for exponent in exponents}
    for n_refreshed in spread_budgets(costs.n_calls, costs.longest, n_budgets):
        seen = set()
        for exponent in exponents:
            plan = plans[exponent].get(n_refreshed)
            if plan is None or (actions := plan.actions).tobytes() in seen:
                continue
            seen.add(actions.tobytes())
            yield f"planned, {n_refreshed} of {costs.n_calls} calls refreshed, exponent {exponent:g}", actions
        yield _even(costs.n_calls, n_refreshed)
    least = math.ceil(costs.n_calls / costs.longest)
    for n_refreshed in dict.fromkeys(round(share * least) for share in SPARSER):
        if FEWEST <= n_refreshed < least:
            yield _even(costs.n_calls, n_refreshed)


def _even(n_calls: int, n_refreshed: int) -> tuple[str, Actions]:
    label = f"{n_refreshed} of {n_calls} calls refreshed, forecasts of order 1"
    return label, even_actions(n_calls, n_refreshed)


def even_actions(n_calls: int, n_refreshed: int) -> Actions:
    """Refreshes spread evenly from the first call on, and forecasts of order 1 between them: (n_calls,)."""
    actions = np.full(n_calls, CacheAction.TAYLOR_1, int)
    actions[np.floor(np.arange(n_refreshed) * n_calls / n_refreshed).astype(int)] = CacheAction.RECOMPUTE
    return actions


def spread_budgets(n_calls: int, longest: int, n: int) -> list[int]:
    """`n` numbers of refreshed calls or fewer between the least possible one and two thirds, halves of gaps in turn."""
    low, high = math.ceil(n_calls / longest), max(2, 2 * n_calls // 3)
    budgets = sorted({round(b) for b in np.geomspace(max(1, low), high, n)})
    order, gaps = [budgets[0], budgets[-1]], [(0, len(budgets) - 1)]
    while gaps:
        first, last = gaps.pop(0)
        if last - first > 1:
            middle = (first + last) // 2
            order.append(budgets[middle])
            gaps += [(first, middle), (middle, last)]
    return list(dict.fromkeys(order))


def on_sites(actions: Actions, inventory: Inventory, sites: Sequence[int]) -> CachePlan:
    """The cache plan in which these sites take these actions, one per call, and all others recompute."""
    table = np.full((len(actions), len(inventory)), CacheAction.RECOMPUTE, np.uint8)
    table[:, list(sites)] = actions[:, None]
    return CachePlan.from_array(table)


class CachePlanSearcher(PlannedSearcher):
    """Goes through the plans: the first front after a handful of traced runs (DPCache, LeMiCa, MeanCache)."""

    family = FAMILY

    def _candidates(self) -> Iterator[tuple[str, Schedule]]:
        return planned_schedules(self._context, n_budgets=20)
