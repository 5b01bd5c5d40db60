"""BAC's plans: in the paper's order, with the union's refreshes, and none where nothing was recorded."""

from dataclasses import replace

import numpy as np
import pytest

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.bac import BacSearcher, bac_schedules
from autotune.search.searcher import SearchContext
from autotune.spaces.adaptive_caching import adaptive_refreshes
from autotune.spaces.blockwise_plan import fresh_units, refreshed_share
from autotune.spaces.bubbling_union import most_volatile
from autotune.spaces.cache_unit import cache_units

from .conftest import CALIBRATION


def test_the_first_plan_is_the_papers_and_holds_what_planner_and_union_say(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    tables = evaluator.branch_tables(CALIBRATION, 1)
    label, schedule = next(bac_schedules(context, tables))
    assert schedule.cache is not None
    share = refreshed_share(schedule.cache, context.inventory).branches
    assert label == f"BAC, 2 of 20 calls refreshed, union of 5, anchored cosine, {share:.1%} of the branches' MACs"
    fresh = fresh_units(schedule.cache.table, context.inventory)
    volatile = most_volatile(tables.volatility, 5)
    units = cache_units(context.inventory)
    own = [set(adaptive_refreshes(table, 2)) for table in tables.mean["cosine"]]
    assert len({frozenset(calls) for calls in own}) > 1
    for u, unit in enumerate(units):
        below = [own[v] for v, other in enumerate(units) if other.feed_forward and other.layer >= unit.layer]
        expected = own[u].union(*below) if u in volatile else own[u]
        assert set(np.flatnonzero(fresh[:, u]).tolist()) == expected


def test_counts_are_shares_of_the_calls(evaluator: TabulatedEvaluator) -> None:
    long = TabulatedEvaluator(replace(evaluator.condition, n_steps=100))
    context = SearchContext(condition=long.condition, inventory=long.inventory, own_timesteps=long.own_timesteps)
    plans = list(bac_schedules(context, long.branch_tables(CALIBRATION, 1)))
    labels = [label for label, _ in plans]
    assert [int(label.split()[1]) for label in labels[:7]] == [10, 7, 20, 5, 14, 3, 30]
    assert len(set(labels)) == len(labels) == 9 * 3 * 6
    unions = [int(label.split("union of ")[1].split(",")[0]) for label in labels[::9]]
    assert unions == [5, 3, 0] * 6
    for label, schedule in plans:  # without the union, every unit has just as many
        if "union of 0" in label:
            assert schedule.cache is not None
            fresh = fresh_units(schedule.cache.table, context.inventory)
            assert (fresh.sum(axis=0) == int(label.split()[1])).all()


def test_the_last_call_can_be_forced(context: SearchContext, evaluator: TabulatedEvaluator) -> None:
    for _, schedule in bac_schedules(context, evaluator.branch_tables(CALIBRATION, 1), force_last=True):
        assert schedule.cache is not None
        assert fresh_units(schedule.cache.table, context.inventory)[[0, -1]].all()


@pytest.mark.parametrize("steps", [1, 2])
def test_without_tables_or_with_two_calls_there_are_no_plans(context: SearchContext, steps: int) -> None:
    assert BacSearcher(replace(context, branch_tables=None)).ask(3) == []
    assert BacSearcher(replace(context, condition=replace(context.condition, n_steps=steps))).ask(3) == []
