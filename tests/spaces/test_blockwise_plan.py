"""Block-wise cache plans: what they compute, and its exact share."""

from dataclasses import replace

import numpy as np
import pytest

from autotune.spaces.blockwise_plan import blockwise_plan, fresh_units, refreshed_share, refreshes_to_fresh
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import canonical_plan, cell_use, plan_macs
from autotune.spaces.cache_unit import cache_units
from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import BLOCK, STACK, Inventory, inventory_from_json

from .foreign_inventories import flux_inventory, pixart_inventory

N_CALLS = 12


def weighed(inventory: Inventory) -> Inventory:
    """Leaves of 1, 2, 3, ... multiply-accumulates, blocks of their sum and 5 more, and 100 around the stack."""
    macs = {leaf: 1 + i for i, leaf in enumerate(inventory.leaves)}
    for i, site in reversed(list(enumerate(inventory.sites))):
        if site.component == BLOCK:
            macs[i] = 5 + sum(macs[j] for j in inventory.leaves if inventory.sites[j].block == site.block)
    macs[1] = macs[0] = sum(macs[i] for i, site in enumerate(inventory.sites) if site.component == BLOCK)
    sites = tuple(replace(site, macs=macs[i]) for i, site in enumerate(inventory.sites))
    return replace(inventory, sites=sites, total_macs=macs[0] + 100)


def random_fresh(inventory: Inventory, seed: int) -> np.ndarray:
    fresh = np.random.default_rng(seed).random((N_CALLS, len(cache_units(inventory)))) < 0.3
    fresh[0], fresh[[3, 4, 8]] = True, False
    return fresh


@pytest.mark.parametrize("ungated", [False, True])
@pytest.mark.parametrize("inventory", [pixart_inventory(3), flux_inventory(2, 3)], ids=["pixart", "flux"])
def test_shares_are_those_of_the_refreshes(inventory: Inventory, ungated: bool) -> None:
    inventory = replace(weighed(inventory), ungated=ungated)
    units, fresh = cache_units(inventory), random_fresh(inventory, 1)
    plan = blockwise_plan(fresh, inventory)
    macs = np.array([sum(inventory.sites[i].macs for i in unit.sites) for unit in units])
    share = refreshed_share(plan, inventory)
    assert share.branches == pytest.approx((fresh.sum(axis=0) @ macs) / (N_CALLS * macs.sum()), rel=1e-12)
    assert share.network == plan_macs(plan, inventory, N_CALLS) / (N_CALLS * inventory.total_macs)
    canonical = canonical_plan(plan, inventory)
    assert canonical is not None
    for table in (plan.table, canonical.table):
        np.testing.assert_array_equal(fresh_units(table, inventory), fresh)


def test_a_gated_network_reads_leaves_alone() -> None:
    inventory = pixart_inventory(3)
    plan = blockwise_plan(random_fresh(inventory, 2), inventory)
    outer = [i for i in range(len(inventory)) if i not in inventory.leaves]
    assert not plan.table[:, outer].any()


def test_an_ungated_network_reads_the_stack_where_nothing_is_refreshed_and_its_value_is_the_newest() -> None:
    inventory = replace(pixart_inventory(3), ungated=True)
    fresh = random_fresh(inventory, 3)
    use = cell_use(blockwise_plan(fresh, inventory), inventory)
    stack = [site.component for site in inventory.sites].index(STACK)
    np.testing.assert_array_equal(use.reads[:, stack], ~fresh.any(axis=1))
    np.testing.assert_array_equal(use.runs[:, stack], fresh.any(axis=1))
    assert use.kept[[2, 3, 7], stack].tolist() == [1, 1, 1]
    for i, site in enumerate(inventory.sites):
        if site.component == BLOCK:
            of_block = [
                u for u, unit in enumerate(cache_units(inventory)) if inventory.sites[unit.sites[0]].parent == i
            ]
            np.testing.assert_array_equal(use.runs[:, i], fresh[:, of_block].any(axis=1))
            np.testing.assert_array_equal(use.reads[:, i], fresh.any(axis=1) & ~fresh[:, of_block].any(axis=1))


def test_refreshes_become_a_table_and_call_0_is_always_among_them() -> None:
    fresh = refreshes_to_fresh([(0, 2), (), (3,)], 4)
    assert fresh.astype(int).tolist() == [[1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1]]
    with pytest.raises(ScheduleError, match=r"unit 1 must be calls in 0 .. 3; got \[4, -1\]"):
        refreshes_to_fresh([(0,), (4, -1)], 4)


def test_a_feeder_is_refreshed_with_the_leaf_that_it_feeds() -> None:
    inventory = flux_inventory(1, 1)
    fresh = np.zeros((4, 4), bool)
    fresh[[0, 2], 3] = fresh[0] = True
    plan = blockwise_plan(fresh, inventory)
    single = [i for i, site in enumerate(inventory.sites) if site.component.startswith("single_")]
    assert (plan.table[:, single] == CacheAction.RECOMPUTE).all(axis=1).tolist() == [True, False, True, False]


def test_wrong_tables_and_unmeasured_inventories_are_refused() -> None:
    inventory = pixart_inventory(2)
    with pytest.raises(ScheduleError, match=r"\(n_calls, 6\), one column per unit of PixArt.*got shape \(4, 5\)"):
        blockwise_plan(np.ones((4, 5), bool), inventory)
    with pytest.raises(ScheduleError, match="measure it first"):
        refreshed_share(blockwise_plan(np.ones((4, 6), bool), inventory), inventory)


def test_whether_a_network_is_ungated_is_kept_and_its_hash_is_that_of_the_structure() -> None:
    inventory = replace(pixart_inventory(1), ungated=True)
    assert inventory_from_json(inventory.to_json()) == inventory
    assert "ungated" not in pixart_inventory(1).to_json()
    assert inventory.hash == pixart_inventory(1).hash
