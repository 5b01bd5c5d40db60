"""Cache plans of the two branches of classifier-free guidance, where each has one of its own."""

from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan, CellUse, canonical_plan, cell_use, kept_of_unconditional
from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import Inventory


def check_branch_plans(cache: CachePlan | None, unconditional: CachePlan | None) -> None:
    """Raise a ScheduleError if the plan of the unconditional branch does not go with that of the conditional one."""
    if unconditional is None:
        return
    if cache is None:
        raise ScheduleError(
            "unconditional_cache needs the column cache, which is then the conditional branch's; give both, or cache "
            "alone for both branches"
        )
    if (unconditional.n_calls, unconditional.n_sites) != (cache.n_calls, cache.n_sites):
        raise ScheduleError(
            f"unconditional_cache must have the rows and sites of cache, {cache.n_calls} x {cache.n_sites}; got "
            f"{unconditional.n_calls} x {unconditional.n_sites}"
        )


def branch_uses(
    cache: CachePlan, unconditional: CachePlan | None, dropped: NDArray[np.bool_], inventory: Inventory
) -> tuple[CellUse, CellUse]:
    """What each cell does of the conditional branch, and of the other one, which calls that drop it leave as it is.

    Args:
        cache: the plan of both branches, or of the conditional one.
        unconditional: that of the other branch, if it has its own.
        dropped: whether the guidance column leaves the unconditional branch out: bool (n_calls,).
        inventory: the sites of the plans' columns.

    Raises:
        ScheduleError: a plan does not fit the inventory.
    """
    use = cell_use(cache, inventory)
    if unconditional is None:
        return use, replace(use, kept=kept_of_unconditional(use, dropped))
    alone = of_calls(unconditional, ~dropped)
    if alone is None:
        nothing = np.zeros(unconditional.table.shape, bool)
        return use, CellUse(nothing, nothing, nothing, nothing, nothing.astype(int), nothing.astype(int))
    other = cell_use(alone, inventory)
    last = np.maximum(np.cumsum(~dropped) - 1, 0)  # the branch's own call, up to each call
    spread = {field.name: getattr(other, field.name)[last] for field in fields(other)}
    for name, values in spread.items():
        started = ~dropped if name != "kept" else np.cumsum(~dropped) > 0
        values[~started] = 0
    return use, CellUse(**spread)


def of_calls(plan: CachePlan, calls: NDArray[np.bool_]) -> CachePlan | None:
    """The rows of some calls, bool (n_calls,); None if there are none."""
    return CachePlan.from_array(plan.table[calls]) if calls.any() else None


def canonical_branch_plans(
    cache: CachePlan, unconditional: CachePlan | None, dropped: NDArray[np.bool_], inventory: Inventory
) -> tuple[CachePlan | None, CachePlan | None]:
    """Both plans without dead genes; no second one where the first is for both branches, none where nothing is reused.

    The first call that runs both branches computes all: before it, the unconditional one has no values. What its plan
    says of a call that drops it means nothing, and is what the other plan says. See `branch_uses` for the arguments.

    Raises:
        ScheduleError: the plans do not fit the inventory.
    """
    if unconditional is None:
        return canonical_plan(fresh_with_both(cache, dropped), inventory), None
    first = canonical_plan(cache, inventory)
    alone = of_calls(unconditional, ~dropped)
    second = None if alone is None else canonical_plan(alone, inventory)
    nothing = np.full_like(cache.table, CacheAction.RECOMPUTE)
    table = nothing.copy() if first is None else first.table.copy()
    table[~dropped] = CacheAction.RECOMPUTE if second is None else second.table
    plan = CachePlan.from_array(table)
    if plan == (first or CachePlan.from_array(nothing)):
        return first, None
    return first or CachePlan.from_array(nothing), plan


def fresh_with_both(plan: CachePlan, dropped: NDArray[np.bool_]) -> CachePlan:
    """A plan of both branches that computes all in the first call that runs both."""
    table = plan.table.copy()
    table[np.argmin(dropped)] = CacheAction.RECOMPUTE  # the first of them, or where all are, call 0
    return CachePlan.from_array(table)
