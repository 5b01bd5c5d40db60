"""Lists of whole steps, and SmoothCache's lists per component."""

import json

import numpy as np
import pytest

from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.smoothcache_json import parse_smoothcache
from autotune.spaces.step_list import parse_step_list

from .foreign_inventories import flux_inventory, of_leaves, pixart_inventory


def schedule_of(computed: np.ndarray, inventory: Inventory) -> Schedule:
    plan = of_leaves(~np.asarray(computed, bool), inventory)
    return canonical_schedule(Schedule(n_steps=plan.n_calls, cache=plan), inventory)


def test_a_mask_and_its_computed_steps_are_the_same_schedule() -> None:
    inventory = flux_inventory(2, 3)
    mask = [1, 1, 0, 0, 1, 0]
    stack = [site.component for site in inventory.sites].index("stack")
    table = np.zeros((6, len(inventory)), bool)
    table[:, stack] = np.equal(mask, 0)
    expected = canonical_schedule(Schedule(n_steps=6, cache=CachePlan.from_array(table)), inventory)
    assert expected.cache is not None
    assert [not row[stack] for row in expected.cache.table] == [bool(m) for m in mask]
    assert parse_step_list(json.dumps(mask), inventory).schedule == expected
    assert parse_step_list(json.dumps(mask), inventory, n_steps=6).schedule == expected
    assert parse_step_list("[0, 1, 4]", inventory, n_steps=6).schedule == expected


@pytest.mark.parametrize(
    ("text", "n_steps", "said"),
    [
        ("[0, 0, 1]", None, "give their number"),
        ("[0, 0, 1]", 3, "must increase"),
        ("[0, 4, 9]", 9, "below the number of steps, 9"),
        ("[2, 4]", 9, "count steps from 0"),
        ("[1, 2, 0]", None, "got 2 at position 1"),
        ("[1, 0, 1]", 4, "got 3 for 4 steps"),
        ("[true, false]", None, "whole numbers; got True at position 0"),
        ("[1.0]", None, "whole numbers"),
        ("[]", None, "must be a JSON list"),
        ('{"mask": [1]}', None, "must be a JSON list"),
        ("1, 0", None, "not valid JSON"),
    ],
)
def test_a_list_that_is_none(text: str, n_steps: int | None, said: str) -> None:
    with pytest.raises(ScheduleError, match=said):
        parse_step_list(text, pixart_inventory(2), n_steps=n_steps)


def test_smoothcache_lists_hold_for_all_blocks_and_what_is_not_named_computes() -> None:
    inventory = pixart_inventory(3)
    read = parse_smoothcache('{"attn1": [1, 0, 1, 0], "ff": [1, 1, 0, 0]}', inventory).schedule
    per_block = np.array([[1, 1, 1], [0, 1, 1], [1, 1, 0], [0, 1, 0]])  # attn1, attn2, ff
    assert read == schedule_of(np.tile(per_block, 3), inventory)
    assert read.cache is not None
    assert np.array_equal(read.cache.table[:, list(inventory.leaves)[:3]] == 0, per_block == 1), "1 is compute"


def test_smoothcache_lists_for_flux_are_named_by_our_components() -> None:
    inventory = flux_inventory(1, 2)
    cache = parse_smoothcache('{"single_proj_out": [1, 0]}', inventory).schedule.cache
    assert cache is not None
    reused = {inventory.sites[i].component for i in np.flatnonzero(cache.table[1])}
    assert reused == {"single_proj_out", "single_attn", "single_proj_mlp"}, "what feeds a reused module is not read"
    assert not cache.table[0].any()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"attn3": [1, 0]}', "attn3 is not a known key; known: attn1, attn2, ff"),
        ('{"attn1": [0, 1]}', "attn1 must begin with 1.*swap"),
        ('{"attn1": [1, 2]}', "got 2 at position 1"),
        ('{"attn1": [1, true]}', "got True at position 1"),
        ('{"attn1": []}', "attn1 must begin with 1"),
        ('{"attn1": 1}', "attn1 must be a list"),
        ('{"attn1": [1, 0], "ff": [1, 0, 1]}', "ff has 3 of 2"),
        ("{}", "must name a component; known: attn1, attn2, ff"),
        ("[1, 0]", "must be an object"),
    ],
)
def test_smoothcache_files_that_are_none(text: str, said: str) -> None:
    with pytest.raises(ScheduleError, match=said):
        parse_smoothcache(text, pixart_inventory(2))
