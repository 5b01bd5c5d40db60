"""Cache plans in which every residual branch has refreshes of its own, and what they cost."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan, cell_use, plan_macs
from autotune.spaces.cache_unit import cache_units
from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import BLOCK, STACK, Inventory

Fresh = NDArray[np.bool_]
"""Which unit is refreshed in which call (n_calls, n_units)."""


def refreshes_to_fresh(refreshes: Sequence[Collection[int]], n_calls: int) -> Fresh:
    """The table of refreshed calls by unit; call 0 refreshes all.

    Raises:
        ScheduleError: a call is not in 0 .. n_calls - 1.
    """
    fresh = np.zeros((n_calls, len(refreshes)), bool)
    fresh[0] = True
    for unit, calls in enumerate(refreshes):
        if outside := [call for call in calls if not 0 <= call < n_calls]:
            raise ScheduleError(f"refreshes of unit {unit} must be calls in 0 .. {n_calls - 1}; got {outside}")
        fresh[list(calls), unit] = True
    return fresh


def blockwise_plan(fresh: Fresh, inventory: Inventory) -> CachePlan:
    """The plan that recomputes each unit where it is refreshed, and reuses its last value elsewhere.

    Where the inventory is ungated, a block of which nothing is refreshed reuses what it added last, and the stack
    likewise. That is the same sum of the same values, exactly up to rounding, without a read for every leaf.

    Raises:
        ScheduleError: there is not one column per unit.
    """
    units = cache_units(inventory)
    if fresh.ndim != 2 or fresh.shape[1] != len(units):
        raise ScheduleError(
            f"a block-wise plan needs a table (n_calls, {len(units)}), one column per unit of "
            f"{inventory.denoiser_class}; got shape {fresh.shape}; use one made for this model"
        )
    table = np.full((len(fresh), len(inventory)), CacheAction.RECOMPUTE, np.uint8)
    inside: dict[int, Fresh] = {}
    for i, unit in enumerate(units):
        table[~fresh[:, i, None] & np.isin(np.arange(len(inventory)), unit.sites)] = CacheAction.REUSE
        around = inventory.sites[unit.sites[0]].parent
        while around is not None:
            inside[around] = inside.get(around, np.zeros(len(fresh), bool)) | fresh[:, i]
            around = inventory.sites[around].parent
    if inventory.ungated:
        for site, any_fresh in inside.items():
            if inventory.sites[site].component in (BLOCK, STACK):
                table[~any_fresh, site] = CacheAction.REUSE
    return CachePlan.from_array(table)


def fresh_units(table: NDArray[np.uint8], inventory: Inventory) -> Fresh:
    """Where a plan's table recomputes each unit: the inverse of `blockwise_plan`, also of its canonical form."""
    own = [unit.sites[0] for unit in cache_units(inventory)]
    return np.asarray(np.equal(table[:, own], CacheAction.RECOMPUTE.value))


@dataclass(frozen=True, slots=True)
class RefreshedShare:
    """What a plan computes over what the default run does, in multiply-accumulates.

    `branches` counts leaves alone, the decoder of a policy; `network` all, with what always runs.
    """

    branches: float
    network: float


def refreshed_share(plan: CachePlan, inventory: Inventory) -> RefreshedShare:
    """The exact shares: of branches, sum over units of (MACs x refreshes) over (all MACs x calls).

    Raises:
        ScheduleError: the plan does not fit the inventory, or its sites have no MACs.
    """
    macs = np.array([inventory.sites[leaf].macs for leaf in inventory.leaves], np.int64)
    if not macs.sum() or not inventory.total_macs:
        raise ScheduleError("shares of a plan need an inventory with multiply-accumulates; measure it first")
    runs = cell_use(plan, inventory).runs[:, list(inventory.leaves)]
    return RefreshedShare(
        branches=float((runs @ macs).sum() / (plan.n_calls * macs.sum())),
        network=plan_macs(plan, inventory, plan.n_calls) / (plan.n_calls * inventory.total_macs),
    )
