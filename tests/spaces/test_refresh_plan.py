"""Refresh plans against all sets of refreshes and all kinds."""

import math
import time
from collections.abc import Sequence
from itertools import combinations, pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from autotune.spaces.cache_action import CacheAction
from autotune.spaces.edge_costs import EdgeCosts
from autotune.spaces.errors import ScheduleError
from autotune.spaces.refresh_plan import plan_refreshes
from autotune.spaces.segmentation import GroupBounds, best_segmentation

Array = NDArray[np.float64]

REUSE, TAYLOR, NEWTON = CacheAction.REUSE, CacheAction.TAYLOR_1, CacheAction.NEWTON_2
GAMMAS = [1.0, 2.0, 4.0, math.inf]


def edge_rows(edges: EdgeCosts, refreshed: tuple[int, ...]) -> list[Array]:
    """For each edge of a plan the costs of all kinds; straight from the definition of `EdgeCosts`."""
    rows = []
    for i, call in enumerate(refreshed):
        end = refreshed[i + 1] if i + 1 < len(refreshed) else edges.n_calls
        before = refreshed[i - 1] if i >= 1 else call
        before_that = refreshed[i - 2] if i >= 2 else before
        rows.append(edges.table[call, call - before, before - before_that, end - call])
    return rows


def value_of(costs: Sequence[float], gamma: float) -> Any:
    return sorted(costs, reverse=True) if gamma == math.inf else sum(cost**gamma for cost in costs)


def refresh_sets(edges: EdgeCosts, size: int, forced: Sequence[int] = ()) -> list[tuple[int, ...]]:
    """All that keep the rules, in the order in which equal ones are preferred."""
    found = [(0, *later) for later in combinations(range(1, edges.n_calls), size - 1)]
    return sorted(
        (
            calls
            for calls in found
            if set(forced) <= set(calls)
            and max(end - start for start, end in pairwise((*calls, edges.n_calls))) <= edges.longest
        ),
        key=lambda calls: (calls[-1], [end - start for start, end in pairwise(calls)][::-1]),
    )


def check(edges: EdgeCosts, gamma: float, forced: Sequence[int]) -> None:
    best: dict[int, tuple[Any, tuple[int, ...]]] = {}
    for size in range(1, edges.n_calls + 1):
        for calls in refresh_sets(edges, size, forced):
            value = value_of([float(row.min()) for row in edge_rows(edges, calls)], gamma)
            if np.max(value) < np.inf and (size not in best or value < best[size][0]):
                best[size] = value, calls
    if not best:
        with pytest.raises(ScheduleError, match="finite cost"):
            plan_refreshes(edges, gamma, forced)
        return
    plans = plan_refreshes(edges, gamma, forced)
    assert list(plans) == list(best)
    for size, (value, calls) in best.items():
        plan = plans[size]
        assert plan.refreshed == calls
        assert value_of(plan.costs, gamma) == value
        assert plan.cost(gamma) == (value[0] if gamma == math.inf else value)
        assert plan.kinds == tuple(edges.kinds[int(row.argmin())] for row in edge_rows(edges, calls))


@st.composite
def problems(draw: st.DrawFn) -> tuple[EdgeCosts, list[int]]:
    n, longest, n_kinds = draw(st.integers(1, 9)), draw(st.integers(1, 4)), draw(st.integers(1, 2))
    few = st.integers(0, 3).map(float)  # sums are exact and often equal
    elements = draw(st.sampled_from([few, st.one_of(few, few, few, st.just(np.inf)), st.integers(0, 60).map(float)]))
    shape = (n, longest + 1, longest + 1, longest + 1, n_kinds)
    table = draw(arrays(np.float64, shape, elements=elements, fill=st.nothing()))
    return EdgeCosts((REUSE, NEWTON)[:n_kinds], table), draw(st.lists(st.integers(0, n - 1), max_size=2))


@given(problems(), st.sampled_from(GAMMAS))
def test_no_other_plan_is_better(problem: tuple[EdgeCosts, list[int]], gamma: float) -> None:
    check(problem[0], gamma, problem[1])


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("highest", [2, 5, 50])
def test_no_other_plan_of_nine_calls_is_better(gamma: float, highest: int) -> None:
    rng = np.random.default_rng(highest)
    for _ in range(10):
        check(EdgeCosts((REUSE, TAYLOR), rng.integers(0, highest, (9, 6, 6, 6, 2)).astype(float)), gamma, [])


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_kind_of_each_edge_is_chosen_among_all_combinations(gamma: float) -> None:
    kinds = (REUSE, TAYLOR, NEWTON)
    rng = np.random.default_rng(3)
    edges = EdgeCosts(kinds, rng.integers(0, 1000, (6, 6, 6, 6, 3)).astype(float))
    for size, plan in plan_refreshes(edges, gamma).items():
        values = {
            (calls, chosen): value_of([row[k] for row, k in zip(edge_rows(edges, calls), chosen, strict=True)], gamma)
            for calls in refresh_sets(edges, size)
            for chosen in product(range(3), repeat=size)
        }
        calls, chosen = min(values, key=lambda choice: values[choice])
        assert (plan.refreshed, plan.kinds) == (calls, tuple(kinds[k] for k in chosen))


@given(
    st.integers(0, 6).flatmap(lambda n: st.tuples(*[st.lists(st.integers(0, 4), min_size=n, max_size=n)] * 2)),
    st.lists(st.integers(0, 4), max_size=4),
)
def test_sorted_costs_keep_their_order_when_both_go_on_alike(
    prefixes: tuple[list[int], list[int]], more: list[int]
) -> None:
    first, second = prefixes
    better = value_of(first, math.inf) < value_of(second, math.inf)
    assert better == (value_of([*first, *more], math.inf) < value_of([*second, *more], math.inf))


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_costs_that_forget_the_past_make_a_segmentation(gamma: float) -> None:
    n, longest = 12, 5
    rng = np.random.default_rng(1)
    by_gap = rng.random((n, longest + 1))
    table = np.broadcast_to(by_gap[:, None, None, :, None], (n, longest + 1, longest + 1, longest + 1, 1))
    costs = np.full((n + 1, n + 1), np.inf)
    for start in range(n):
        reach = min(longest, n - start)
        costs[start, start + 1 : start + reach + 1] = by_gap[start, 1 : reach + 1] ** gamma
    plans = plan_refreshes(EdgeCosts((REUSE,), table), gamma, forced=[7])
    assert list(plans) == list(range(3, n + 1))  # 0, one up to 5, and 7 at least
    for size, plan in plans.items():
        best = best_segmentation(costs, GroupBounds(n_groups=size, longest=longest, forced=[7]))
        assert plan.refreshed == best.starts
        assert plan.cost(gamma) == pytest.approx(best.total, rel=1e-12)


def test_infinity_shuns_the_peak_that_a_sum_accepts() -> None:
    """With two refreshes of four calls: 0 and 1 cost 1 + 4, 0 and 2 cost 3 + 3, 0 and 3 cost 4 + 1."""
    table = np.full((4, 5, 5, 5, 1), np.inf)
    table[0, 0, 0, 1:4, 0] = [1, 3, 4]
    table[1, 1, 0, 3], table[2, 2, 0, 2], table[3, 3, 0, 1] = 4, 3, 1
    edges = EdgeCosts((TAYLOR,), table)
    assert plan_refreshes(edges, 1.0)[2].refreshed == (0, 1)
    assert plan_refreshes(edges, 2.0)[2].refreshed == (0, 1)  # 17 against 18
    assert plan_refreshes(edges, 4.0)[2].refreshed == (0, 2)  # 162 against 257
    plan = plan_refreshes(edges, math.inf)[2]
    assert (plan.refreshed, plan.costs, plan.cost(math.inf)) == ((0, 2), (3.0, 3.0), 3.0)
    assert plan.actions.tolist() == [CacheAction.RECOMPUTE, TAYLOR, CacheAction.RECOMPUTE, TAYLOR]


def test_a_refresh_costs_more_now_if_it_saves_more_later() -> None:
    """The cheapest way to the refresh in call 3 is over 1, but the forecast from 3 on needs the value of call 2."""
    table = np.full((6, 4, 4, 4, 1), np.inf)
    table[0, 0, 0, 1:3, 0] = [0, 1]
    table[1, 1, 0, 2], table[2, 2, 0, 1] = 0, 0
    table[3, 2, 1, 3], table[3, 1, 2, 3] = 9, 1
    plan = plan_refreshes(EdgeCosts((NEWTON,), table), 1.0)[3]
    assert (plan.refreshed, plan.costs) == ((0, 2, 3), (1.0, 0.0, 1.0))
    assert plan.actions.tolist() == [0, NEWTON, 0, 0, NEWTON, NEWTON]


@pytest.mark.parametrize(
    ("kinds", "shape", "words"),
    [
        ((), (4, 3, 3, 3, 0), "one or more"),
        ((CacheAction.RECOMPUTE,), (4, 3, 3, 3, 1), "actions that read"),
        ((REUSE, REUSE), (4, 3, 3, 3, 2), "different"),
        ((REUSE,), (4, 3, 3, 3, 2), "shape"),
        ((REUSE,), (4, 3, 3, 4, 1), "shape"),
        ((REUSE,), (4, 1, 1, 1, 1), "longest >= 1"),
        ((REUSE,), (0, 3, 3, 3, 1), "n_calls"),
    ],
)
def test_edges_of_another_shape_are_refused(kinds: tuple[CacheAction, ...], shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        EdgeCosts(kinds, np.zeros(shape))


@pytest.mark.parametrize("cost", [-1.0, math.nan])
def test_impossible_costs_are_refused(cost: float) -> None:
    table = np.zeros((4, 3, 3, 3, 1))
    table[1, 1, 0, 2] = cost
    with pytest.raises(ScheduleError, match=f"not NaN; got {cost}"):
        EdgeCosts((REUSE,), table)


@pytest.mark.parametrize(
    ("gamma", "forced", "words"),
    [(0.5, (), "at least 1; got 0.5"), (math.nan, (), "at least 1"), (1.0, (4,), r"0 .. 3; got \[4\]")],
)
def test_impossible_questions_are_refused(gamma: float, forced: tuple[int, ...], words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        plan_refreshes(EdgeCosts((REUSE,), np.zeros((4, 3, 3, 3, 1))), gamma, forced)


@pytest.mark.parametrize(("gamma", "limit"), [(2.0, 1.0), (math.inf, 2.0)])
def test_all_budgets_of_fifty_calls_are_planned_at_once(gamma: float, limit: float) -> None:
    table = np.random.default_rng(0).random((50, 11, 11, 11, 4))
    start = time.process_time()
    plans = plan_refreshes(EdgeCosts((REUSE, TAYLOR, CacheAction.HERMITE_2, NEWTON), table), gamma)
    assert time.process_time() - start < limit  # 0.06 s and 0.5 s on a 2.5 GHz core
    assert list(plans) == list(range(5, 51))
