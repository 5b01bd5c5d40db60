"""CacheQuant's schedules: the cheapest groups by the measured costs, plain and corrected."""

from itertools import combinations

import numpy as np
import pytest

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.cachequant import EXPONENT, CacheQuantSearcher, planned_refreshes, reuse_costs
from autotune.search.searcher import SearchContext
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.edge_costs import EdgeCosts
from autotune.spaces.errors import ScheduleError

from .conftest import CALIBRATION


def costs_of(features: list[float], longest: int) -> EdgeCosts:
    n = len(features)
    table = np.full((n, longest + 1, longest + 1, longest + 1, 2), np.inf)
    for start in range(n):
        for gap in range(1, min(longest, n - start) + 1):
            error = np.abs(np.array(features[start : start + gap]) - features[start]).sum()
            table[start, 0 if start == 0 else 1, :, gap] = [0.0, error]
    return EdgeCosts((CacheAction.TAYLOR_1, CacheAction.REUSE), table)


@pytest.mark.parametrize(("n_refreshed", "starts"), [(4, (0, 4, 6, 9)), (3, (0, 4, 9))])
def test_the_schedules_of_the_notes(n_refreshed: int, starts: tuple[int, ...]) -> None:
    costs = costs_of([0, 1, 2, 3, 10, 11, 12, 13, 14, 30, 31, 32], longest=8)
    assert planned_refreshes(reuse_costs(costs), n_refreshed, costs.longest) == starts


def test_by_squares_the_worst_groups_are_made_shorter() -> None:
    costs = costs_of([0, 1, 2, 3, 10, 11, 12, 13, 14, 30, 31, 32], longest=8)
    table = reuse_costs(costs)

    def groups(starts: tuple[int, ...]) -> list[float]:
        return [table[s, e] for s, e in zip(starts, (*starts[1:], 12), strict=True)]

    # Groups of 2 to 6 calls, as the paper bounds them for a mean of 3.
    plans = [
        (0, *rest)
        for rest in combinations(range(1, 12), 3)
        if all(2 <= e - s <= 6 for s, e in zip((0, *rest), (*rest, 12), strict=True))
    ]
    least = min(sum(cost**2 for cost in groups(plan)) for plan in plans)
    found = planned_refreshes(table**EXPONENT, 4, costs.longest)
    assert sum(cost**2 for cost in groups(found)) == least
    assert max(groups(found)) <= max(groups(planned_refreshes(table, 4, costs.longest)))


def test_bounds_that_cannot_be_kept_give_way_to_the_longest_edge() -> None:
    costs = costs_of([0, 1, 2, 3, 10, 11, 12], longest=3)
    total = reuse_costs(costs)
    best = min(
        sum(total[s, e] for s, e in zip((0, *rest), (*rest, 7), strict=True)) for rest in combinations(range(1, 7), 3)
    )
    found = planned_refreshes(total, 4, costs.longest)
    assert sum(total[s, e] for s, e in zip(found, (*found[1:], 7), strict=True)) == best
    with pytest.raises(ScheduleError):
        planned_refreshes(total, 2, costs.longest)


def test_each_plan_is_proposed_plain_and_corrected(context: SearchContext, evaluator: TabulatedEvaluator) -> None:
    searcher = CacheQuantSearcher(context)
    proposals = searcher.ask(8)
    assert len(proposals) == 8
    reuses = CacheAction.RECOMPUTE, CacheAction.REUSE
    for plain, corrected in zip(proposals[::2], proposals[1::2], strict=True):
        assert plain.schedule == corrected.schedule.without_tables
        assert corrected.schedule.cache_correction
        assert corrected.label == f"{plain.label}, cache corrected"
        assert plain.schedule.cache is not None
        assert set(np.unique(plain.schedule.cache.table)) == set(reuses)
        better, worse = (evaluator.score(p.schedule, CALIBRATION) for p in (corrected, plain))
        assert better.mean("deviation") < worse.mean("deviation")  # type: ignore[union-attr]


def test_costs_of_forecasts_alone_plan_no_reuses() -> None:
    with pytest.raises(ScheduleError, match="got those of forecasts only"):
        reuse_costs(EdgeCosts((CacheAction.TAYLOR_1,), np.zeros((4, 3, 3, 3, 1))))
