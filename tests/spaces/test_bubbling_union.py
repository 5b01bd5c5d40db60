"""BAC's union of refreshes: what it takes over, in any order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.spaces.bubbling_union import bubbling_union, most_volatile
from autotune.spaces.cache_unit import CacheUnit, cache_units
from autotune.spaces.errors import ScheduleError

from .foreign_inventories import flux_inventory, pixart_inventory

UNITS = cache_units(pixart_inventory(3))


def test_units_are_residual_branches() -> None:
    assert [unit.name for unit in UNITS[:3]] == [f"transformer_blocks.0.{leaf}" for leaf in ("attn1", "attn2", "ff")]
    assert [unit.layer for unit in UNITS] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [unit.feed_forward for unit in UNITS] == [False, False, True] * 3
    inventory = flux_inventory(1, 2)
    flux = cache_units(inventory)
    names = [[inventory.sites[i].name.split(".")[-1] for i in unit.sites] for unit in flux]
    assert names == [["attn"], ["ff"], ["ff_context"], *[["proj_out", "attn", "proj_mlp"]] * 2]
    assert [unit.feed_forward for unit in flux] == [False, True, True, True, True]


def test_a_volatile_unit_is_refreshed_with_each_feed_forward_at_or_below_its_depth() -> None:
    refreshes: list[tuple[int, ...]] = [(0, 10 + i) for i in range(9)]
    expected = list(refreshes)
    expected[3] = (0, 13, 15, 18)
    assert bubbling_union(refreshes, UNITS, [3]) == tuple(expected)
    expected[8] = (0, 18)  # it is the deepest one: nothing but itself
    assert bubbling_union(refreshes, UNITS, [8, 3]) == tuple(expected)
    assert bubbling_union(refreshes, UNITS, []) == tuple(refreshes)


sets = st.lists(st.frozensets(st.integers(0, 11)), min_size=len(UNITS), max_size=len(UNITS))


def one_by_one(refreshes: list[frozenset[int]], order: list[int]) -> list[frozenset[int]]:
    """The union in which a unit sees what those before it have taken over."""
    current = list(refreshes)
    for u in order:
        for v, unit in enumerate(UNITS):
            if unit.feed_forward and unit.layer >= UNITS[u].layer:
                current[u] |= current[v]
    return current


@given(refreshes=sets, order=st.permutations(range(len(UNITS))), n=st.integers(0, len(UNITS)))
def test_the_order_of_the_volatile_units_has_no_effect(
    refreshes: list[frozenset[int]], order: list[int], n: int
) -> None:
    expected = [tuple(sorted(calls)) for calls in one_by_one(refreshes, order[:n])]
    assert list(bubbling_union(refreshes, UNITS, order[:n])) == expected
    assert list(bubbling_union(refreshes, UNITS, order[:n][::-1])) == expected


def test_the_most_volatile_units_come_first_and_may_be_one_none_or_all() -> None:
    volatility = np.array([1.0, 3.0, 2.0, 3.0])
    assert [most_volatile(volatility, n) for n in (0, 1, 3, 9)] == [(), (1,), (1, 3, 2), (1, 3, 2, 0)]
    with pytest.raises(ScheduleError, match="at least 0; got -1"):
        most_volatile(volatility, -1)


def test_one_volatile_unit_is_enough() -> None:
    units = [
        CacheUnit(name="a", sites=(0,), layer=0, feed_forward=False),
        CacheUnit(name="b", sites=(1,), layer=0, feed_forward=True),
    ]
    assert bubbling_union([(0,), (0, 4)], units, most_volatile(np.array([2.0, 1.0]), 1)) == ((0, 4), (0, 4))
