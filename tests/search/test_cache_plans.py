"""Plans by budget: how many calls they refresh, and where no plan goes."""

import numpy as np
import pytest

from autotune.search.cache_plans import planned_actions
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.edge_costs import EdgeCosts


def refreshes(n_calls: int, longest: int) -> list[np.ndarray[tuple[int], np.dtype[np.intp]]]:
    """The refreshed calls of each entry, in order."""
    width = longest + 1
    table = np.random.default_rng(0).random((n_calls, width, width, width, 2))
    costs = EdgeCosts((CacheAction.REUSE, CacheAction.TAYLOR_1), table)
    entries = list(planned_actions(costs, 4, (1.0, 2.0)))
    found = [np.flatnonzero(actions == CacheAction.RECOMPUTE) for _, actions in entries]
    assert all(
        f" {len(calls)} of {n_calls} calls" in f" {label}" for (label, _), calls in zip(entries, found, strict=True)
    )
    return found


def test_even_refreshes_go_on_below_the_fewest_of_a_plan() -> None:
    found = refreshes(24, 4)
    assert [len(calls) for calls in found[-3:]] == [5, 4, 3]
    for calls in found[-3:]:
        gaps = np.diff([*calls, 24])
        assert calls[0] == 0
        assert gaps.max() - gaps.min() <= 1
        assert gaps.min() >= 4
    assert min(len(calls) for calls in found[:-3]) == 6


@pytest.mark.parametrize(("n_calls", "longest"), [(20, 8), (10, 5)])
def test_no_budget_has_fewer_than_three_refreshes_but_that_of_a_plan(n_calls: int, longest: int) -> None:
    least = -(-n_calls // longest)
    assert min(len(calls) for calls in refreshes(n_calls, longest)) == least
