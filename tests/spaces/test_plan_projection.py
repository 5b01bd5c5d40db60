"""Plans made coarser for tools that decide for many sites at once."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import Inventory, Relation, Site
from autotune.spaces.plan_projection import project_plan

from .foreign_inventories import flux_inventory, of_leaves, pixart_inventory


def reused(*rows: str) -> NDArray[np.bool_]:
    """A table of reuses, one text per call, `r` for reuse."""
    return np.array([[letter == "r" for letter in row] for row in rows])


def test_a_group_computes_where_at_least_half_of_its_sites_do() -> None:
    inventory = pixart_inventory(4)
    components = [inventory.sites[i].component for i in inventory.leaves]
    table = np.zeros((3, 12), bool)
    table[1, [0, 3, 1, 4, 7, 2]] = True  # attn1 of two blocks, attn2 of three, ff of one
    table[2] = True
    steps = project_plan(of_leaves(table, inventory), inventory, ["step"] * 12)
    assert steps.computed.ravel().tolist() == [True, True, False]
    assert steps.changed == 6 / 36
    per_component = project_plan(of_leaves(table, inventory), inventory, components)
    assert per_component.computed.tolist() == [[True] * 3, [True, False, True], [False] * 3]
    assert per_component.changed == (2 + 1 + 1) / 36
    assert all(math.isnan(share) for share in per_component.relative_macs)


def test_a_plan_of_whole_steps_changes_in_no_cell() -> None:
    """Also in FLUX, where what feeds a reused module is a dead cell."""
    inventory = flux_inventory(1, 2)
    table = np.repeat([[False], [True], [False], [True]], 9, axis=1)
    for groups in (["step"] * 9, [inventory.sites[i].component for i in inventory.leaves]):
        projection = project_plan(of_leaves(table, inventory), inventory, groups)
        assert projection.changed == projection.forecasts == 0.0
        assert np.array_equal(projection.computed.all(axis=1), [True, False, True, False])


def test_multiply_accumulates_before_and_after() -> None:
    sites = tuple(Site(name=name, block="b", component=name, macs=macs) for name, macs in (("a", 70), ("b", 20)))
    inventory = Inventory(denoiser_class="D", sites=sites, total_macs=100)
    projection = project_plan(CachePlan.from_array(reused("..", "r.", ".r", "rr")), inventory, ["step"] * 2)
    assert projection.computed.ravel().tolist() == [True, True, True, False]
    assert projection.relative_macs == (0.55, 0.775)


def test_forecasts_are_changes() -> None:
    table = np.zeros((4, 6), np.uint8)
    table[2:] = CacheAction.TAYLOR_1
    projection = project_plan(of_leaves(table, pixart_inventory(2)), pixart_inventory(2), ["step"] * 6)
    assert projection.computed.ravel().tolist() == [True, True, False, False]
    assert projection.changed == projection.forecasts == 0.5


def test_what_cannot_be_made_coarser() -> None:
    inventory = pixart_inventory(2)
    for table, said in (
        (reused("......", "......"), "caches nothing"),
        (reused("......", "r....."), "nothing is left"),
    ):
        with pytest.raises(ScheduleError, match=said):
            project_plan(of_leaves(table, inventory), inventory, ["step"] * 6)
    stage = Site(name="s", block="s", component="stage", macs=0)
    inside = Site(name="s.a", block="s", component="attn1", macs=0, parent=0, relation=Relation.INSIDE)
    nested = Inventory(denoiser_class="UNet2DConditionModel", sites=(stage, inside))
    with pytest.raises(ScheduleError, match=r"UNet2DConditionModel has stages"):
        project_plan(CachePlan.from_array(reused("..", "rr")), nested, ["step"] * 2)


@pytest.mark.parametrize("site", ["final", "stack"])
def test_a_stack_that_is_cached_as_a_whole_is_all_of_its_leaves(site: str) -> None:
    inventory = pixart_inventory(2)
    table = np.zeros((4, len(inventory)))
    table[[1, 3], [s.name for s in inventory.sites].index(site)] = CacheAction.REUSE
    projection = project_plan(CachePlan.from_array(table), inventory, ["step"] * 6)
    assert projection.computed.ravel().tolist() == [True, False, True, False]
    assert projection.changed == 0.0
