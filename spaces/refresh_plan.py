"""Which network calls to refresh, and how to approximate the others: the cheapest path through the edges."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.cache_action import CacheAction
from autotune.spaces.edge_costs import EdgeCosts
from autotune.spaces.errors import ScheduleError

Array = NDArray[np.float64]
Indices = NDArray[np.int_]


@dataclass(frozen=True, slots=True)
class RefreshPlan:
    """Calls that recompute, the first of them 0; after each one, how the calls up to the next are approximated.

    `kinds` and `costs` have one entry per refreshed call, for the edge that starts there. Where two refreshes follow
    each other the kind says nothing.
    """

    n_calls: int
    refreshed: tuple[int, ...]
    kinds: tuple[CacheAction, ...]
    costs: tuple[float, ...]

    @property
    def actions(self) -> NDArray[np.int_]:
        """The `CacheAction` of each call, int (n_calls,): a column of a cache plan."""
        ends = (*self.refreshed[1:], self.n_calls)
        lengths = [end - start for start, end in zip(self.refreshed, ends, strict=True)]
        actions = np.repeat(np.array(self.kinds, int), lengths)
        actions[list(self.refreshed)] = CacheAction.RECOMPUTE
        return actions

    def cost(self, gamma: float) -> float:
        """The sum of the edges' costs to the power `gamma`; with infinity, the greatest cost."""
        return max(self.costs) if gamma == math.inf else math.fsum(cost**gamma for cost in self.costs)


def plan_refreshes(edges: EdgeCosts, gamma: float, forced: Sequence[int] = ()) -> dict[int, RefreshPlan]:
    """For each number of refreshes, the plan with the least sum of costs to the power `gamma`.

    The peak-suppressed shortest path of MeanCache (Gao et al. 2026, arXiv 2601.19961), exact also where costs depend on
    the refreshes before: a state is the last three refreshes, where DPCache (Cui et al. 2026, arXiv 2602.22654) keeps
    one predecessor per call. A greater gamma shuns single dear edges. With infinity, plans are compared by their
    greatest cost, then by the second greatest, and so on (LeMiCa, Gao et al. 2025, arXiv 2511.00090).

    Of equal plans the one whose last refresh is earliest is taken, then the one with the shortest last distance between
    refreshes, then the last but one, and so on; of equal kinds, the one that stands first in `edges`.

    Args:
        edges: costs of the edges.
        gamma: exponent, at least 1, or infinity.
        forced: calls that must be refreshed; call 0 always is.

    Returns:
        The plans by their number of refreshes, from few to many; numbers without a plan of finite cost are left out.

    Raises:
        ScheduleError: an argument breaks a rule, or no plan has a finite cost.
    """
    if not gamma >= 1.0:
        raise ScheduleError(f"the exponent of edge costs must be at least 1; got {gamma}")
    if outside := [call for call in forced if not 0 <= call < edges.n_calls]:
        raise ScheduleError(f"forced refreshes must lie in 0 .. {edges.n_calls - 1}; got {outside}")
    costs, last_costs = _usable(edges, forced)
    if gamma == math.inf:
        paths = _paths(costs, last_costs, _sorted_columns, -np.inf)
    else:
        paths = _paths(costs**gamma, last_costs**gamma, _sum_column, 0.0)
    plans = {len(path): _plan(edges, path) for path in paths}
    if not plans:
        raise ScheduleError(
            f"a plan must have a finite cost; got none for {edges.n_calls} calls, refreshes at most {edges.longest} "
            f"apart, and {sorted({0, *forced})} refreshed; make more edges finite"
        )
    return plans


def _usable(edges: EdgeCosts, forced: Sequence[int]) -> tuple[Array, Array]:
    """Costs of the best kind, inf where an edge may not be: (j, d1, gap, d2), and (j, d1, d2) of edges to the end."""
    n, longest = edges.n_calls, edges.longest
    costs = edges.table.min(axis=4).swapaxes(2, 3).copy()
    costs[:, :, 0] = np.inf
    for j in range(n):
        nearest = min([n, *(call for call in forced if call > j)])
        costs[j, :, nearest - j + 1 :] = np.inf
    last = np.full((n, longest + 1, longest + 1), np.inf)
    for gap in range(1, min(n, longest) + 1):
        last[n - gap] = costs[n - gap, :, gap]
    return costs, last


# A path's value is a column of numbers, compared from the first to the last: its sum, or its costs from the greatest
# to the least. Either way the better of two prefixes that end in the same state stays the better when both go on in the
# same way, which is all that dynamic programming needs. For sorted costs of equally long paths: the better one has
# fewer copies of the greatest cost of which they have unequally many, and more copies for both leave that as it is.
Columns = Callable[[Array, Array], Iterator[Array]]


def _sum_column(value: Array, cost: Array) -> Iterator[Array]:
    """The value (1, ...) of paths that go on with an edge of this cost (...)."""
    yield value[0] + cost


def _sorted_columns(value: Array, cost: Array) -> Iterator[Array]:
    """The values (p, ...), sorted from the greatest on, of paths that go on with an edge of this cost (...)."""
    above = np.full(value.shape[1:], np.inf)
    for below in value:
        yield np.maximum(below, np.minimum(above, cost))
        above = below
    yield np.minimum(above, cost)


def _paths(costs: Array, last_costs: Array, columns: Columns, no_edges: float) -> Iterator[tuple[int, ...]]:
    """The refreshed calls of the best path of each length for which there is one, from short to long."""
    n, width = len(costs), costs.shape[1]
    value = np.full((1, n, width, width), np.inf)  # of the best path to a state (j, d1, d2)
    value[0, 0, 0, 0] = no_edges
    choices: list[Indices] = []
    for _ in range(n):
        states = value.reshape(len(value), -1)
        best = int(_least(columns(states, last_costs.reshape(-1))))
        if max(states[0, best], last_costs.flat[best]) < np.inf:
            yield _backwards(choices, np.unravel_index(best, last_costs.shape))
        chosen = _least(columns(value[:, :, :, None, :], costs))
        at = chosen[None, ..., None]
        parts = np.take_along_axis(value[:, :, :, None, :], at, -1)[..., 0]
        longer = np.stack(list(columns(parts, np.take_along_axis(costs, at[0], -1)[..., 0])))
        value = np.full((len(longer), n, width, width), np.inf)
        choice = np.zeros((n, width, width), int)
        for gap in range(1, min(n, width)):
            value[:, gap:, gap] = longer[:, : n - gap, :, gap]
            choice[gap:, gap] = chosen[: n - gap, :, gap]
        choices.append(choice)


def _least(columns: Iterator[Array]) -> Indices:
    """Where, along the last axis, the least value is; the first of equal ones."""
    column = next(columns)
    least = column.min(axis=-1, keepdims=True)
    alive, hopeless = column == least, np.isposinf(least[..., 0])
    for column in columns:
        if np.all(hopeless | (alive.sum(axis=-1) == 1)):
            break
        column = np.where(alive, column, np.inf)
        alive &= column == column.min(axis=-1, keepdims=True)
    return np.asarray(alive.argmax(axis=-1))


def _backwards(choices: Sequence[Indices], state: tuple[np.intp, ...]) -> tuple[int, ...]:
    j, d1, d2 = (int(part) for part in state)
    refreshed = [j]
    for choice in reversed(choices):
        j, d1, d2 = j - d1, d2, int(choice[j, d1, d2])
        refreshed.append(j)
    return tuple(reversed(refreshed))


def _plan(edges: EdgeCosts, refreshed: tuple[int, ...]) -> RefreshPlan:
    distances = [0, 0, *(later - earlier for earlier, later in pairwise((*refreshed, edges.n_calls)))]
    kinds, costs = [], []
    for i, call in enumerate(refreshed):
        by_kind = edges.table[call, distances[i + 1], distances[i], distances[i + 2]]
        kinds.append(edges.kinds[int(by_kind.argmin())])
        costs.append(float(by_kind.min()))
    return RefreshPlan(n_calls=edges.n_calls, refreshed=refreshed, kinds=tuple(kinds), costs=tuple(costs))
