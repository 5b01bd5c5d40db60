"""A cache plan made coarser, for tools that decide for many sites at once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan, canonical_plan, plan_macs
from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import Inventory, Relation


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PlanProjection:
    """What is left of a plan if all sites of a group must do the same: compute, or reuse the last value."""

    computed: NDArray[np.bool_]
    """Per network call and group, (n_calls, n_groups)."""
    changed: float
    """Share of the plan's cells (leaves only) that do something else afterwards, dead ones left out."""
    forecasts: float
    """Share of the plan's cells that forecast, themselves or a site around them; all are among the changed ones."""
    skipped: float
    """Share of the plan's cells that are not called, since a site around them is read: now they are reused instead."""
    relative_macs: tuple[float, float]
    """Multiply-accumulates over those of an uncached run, before and after; NaN if the inventory has none."""


def _canonical(plan: CachePlan, inventory: Inventory) -> CachePlan:
    if any(site.component == "stage" for site in inventory.sites):
        raise ScheduleError(
            f"only plans of blocks can be made coarser; a {inventory.denoiser_class} has stages, which hold others: "
            "export as autotune or diffusers"
        )
    canonical = canonical_plan(plan, inventory)
    if canonical is None:
        raise ScheduleError("the plan caches nothing: there is nothing to export; choose another schedule")
    return canonical


def _leaf_plan(canonical: CachePlan, inventory: Inventory) -> tuple[CachePlan, Inventory]:
    """The plan over the leaves alone, and their inventory: a leaf that is not called is a reuse."""
    leaves = list(inventory.leaves)
    sites = []
    for site in (inventory.sites[i] for i in leaves):
        feeds = site.relation is Relation.FEEDS
        parent = leaves.index(site.parent) if feeds and site.parent is not None else None
        sites.append(replace(site, parent=parent, relation=site.relation if feeds else None))
    return CachePlan.from_array(canonical.table[:, leaves]), replace(inventory, sites=tuple(sites))


def project_plan(plan: CachePlan, inventory: Inventory, groups: Sequence[str]) -> PlanProjection:
    """The plan in which a group computes in the calls in which at least half of its sites do.

    Args:
        plan: what is made coarser.
        inventory: its sites.
        groups: per leaf the group that it belongs to; groups are numbered as they first occur.

    Raises:
        ScheduleError: the plan caches nothing, before or after; it has stages; or it does not fit the inventory.
    """
    canonical = _canonical(plan, inventory)
    around = _read_around(canonical, inventory)
    plan, inventory = _leaf_plan(canonical, inventory)
    before = canonical_plan(plan, inventory) or plan
    names = list(dict.fromkeys(groups))
    members = np.equal(np.array(groups)[:, None], np.array(names))
    fresh = before.table == CacheAction.RECOMPUTE
    computed = 2 * (fresh @ members.astype(int)) >= members.sum(axis=0)
    after = canonical_plan(CachePlan.from_array(~computed @ members.T), inventory)
    if after is None:
        raise ScheduleError(
            "less than half of the plan is cached in every call, so that nothing is left if whole groups of modules "
            "must do the same: export as autotune or diffusers, or choose a faster schedule"
        )
    full = inventory.total_macs * plan.n_calls
    macs = [plan_macs(p, inventory, plan.n_calls) / full if full else float("nan") for p in (before, after)]
    return PlanProjection(
        computed=computed,
        changed=float(((before.table != after.table) | (around > CacheAction.REUSE)).mean()),
        forecasts=float((np.maximum(before.table, around) > CacheAction.REUSE).mean()),
        skipped=float((around != CacheAction.RECOMPUTE).mean()),
        relative_macs=(macs[0], macs[1]),
    )


def _read_around(canonical: CachePlan, inventory: Inventory) -> NDArray[np.uint8]:
    """Per call and leaf the action of the outermost site around it that is read, recompute if none is."""
    read = np.zeros((canonical.n_calls, len(inventory.leaves)), np.uint8)
    for column, leaf in enumerate(inventory.leaves):
        site = inventory.sites[leaf]
        while site.parent is not None:
            inside, parent = site.relation is Relation.INSIDE, site.parent
            site = inventory.sites[parent]
            if inside:
                outer = canonical.table[:, parent]
                read[:, column] = np.where(outer != CacheAction.RECOMPUTE, outer, read[:, column])
    return read
