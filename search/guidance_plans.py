"""Schedules that leave the unconditional branch out in some calls, alone and together with planned refreshes."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from autotune.search.cache_plans import Actions, on_sites, planned_actions
from autotune.search.searcher import SearchContext
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.guidance_column import GuidanceAction, GuidanceRow, fitted_guidance
from autotune.spaces.schedule import Schedule

QUADRATIC = GuidanceAction.QUADRATIC

N_FIRST = 2
"""Computed calls at the beginning that run both branches: a linear forecast has its values from then on."""


def guided_plans(context: SearchContext, n_budgets: int = 8) -> Iterator[tuple[str, Schedule]]:
    """Label and schedule of columns that run both branches in every second to fourth call, and of such on plans.

    On a plan it is every second of the refreshed calls, and calls that read what is stored estimate the difference too:
    stored halves of different calls have the difference of the calls, not of the branches. Estimates are parabolas, on
    plans also lines, and, where differences were recorded, weights that are fitted to them. Nothing where guidance has
    no second branch to leave out.
    """
    if not context.guided:
        return
    n_steps, everywhere = context.condition.n_steps, tuple(range(context.n_calls))
    columns = {every: guidance_column(everywhere, context.n_calls, every, QUADRATIC) for every in (2, 3, 4)}
    for every, column in columns.items():
        yield f"both branches in every {every}", Schedule(n_steps=n_steps, guidance=column)
    if context.edge_costs is None or context.n_calls < 3:
        return
    gram = guidance_gram(context)
    if gram is not None:
        for every, column in columns.items():
            fitted = fitted_guidance(column, gram)
            yield f"both branches in every {every}, fitted", Schedule(n_steps=n_steps, guidance=fitted)
    for label, actions in planned_actions(context.edge_costs(), n_budgets, (2.0,)):
        cache = on_sites(actions, context.inventory, context.inventory.outermost)
        refreshed = refreshed_calls(actions)
        estimates: dict[str, tuple[GuidanceRow, ...]] = {
            estimate: guidance_column(refreshed, context.n_calls, 2, estimate)
            for estimate in (GuidanceAction.LINEAR, QUADRATIC)
        }
        if gram is not None:
            estimates["fitted"] = fitted_guidance(estimates[QUADRATIC], gram)
        for estimate, rows in estimates.items():
            name = f"{label}, both branches in every 2 of them, {estimate}"
            yield name, Schedule(n_steps=n_steps, cache=cache, guidance=rows)


def guidance_gram(context: SearchContext) -> NDArray[np.float64] | None:
    """What `fitted_guidance` reads; None where it is not recorded."""
    if not context.guided or context.edge_costs is None or context.n_calls < 3:
        return None
    return context.edge_costs().guidance_gram


def guidance_column(
    refreshed: Sequence[int], n_calls: int, every: int, estimate: GuidanceAction
) -> tuple[GuidanceAction, ...]:
    """Both branches in the first two and then in each `every`-th of the refreshed calls, an estimate in all others."""
    both = {call for i, call in enumerate(refreshed) if i % every == 0 or i < N_FIRST}
    return tuple(GuidanceAction.BOTH if call in both else estimate for call in range(n_calls))


def refreshed_calls(actions: Actions) -> tuple[int, ...]:
    """The calls of a plan that compute."""
    return tuple(np.flatnonzero(actions == CacheAction.RECOMPUTE).tolist())
