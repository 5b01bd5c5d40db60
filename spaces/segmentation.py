"""Ordered segmentation: the best way to cut 0 .. n - 1 into groups of consecutive items, by dynamic programming."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autotune.spaces.errors import ScheduleError

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Groups of consecutive items: `starts` increase from 0, and each group ends where the next one starts."""

    starts: tuple[int, ...]
    total: float
    """Sum of the groups' costs, or of their scores."""


@dataclass(frozen=True, slots=True)
class GroupBounds:
    """What the groups of n items must obey.

    A group has `shortest` to `longest` items (n if None); there are `n_groups` (any number if None); every item of
    `forced` starts a group, as item 0 does anyway.
    """

    n_groups: int | None = None
    shortest: int = 1
    longest: int | None = None
    forced: Sequence[int] = ()


def best_segmentation(costs: ArrayLike, bounds: GroupBounds | None = None, *, maximize: bool = False) -> Segmentation:
    """The segmentation of n items with the least sum of costs, or the greatest of scores.

    With M_0(0) = 0, the least cost of the first e items in k groups is M_k(e) = min over s of M_{k-1}(s) + C[s, e]
    (Dynamic Programming Schedule of CacheQuant, Liu et al. 2025, arXiv 2503.01323; the Adaptive Caching Scheduler of
    BAC, Ji et al. 2026, arXiv 2506.13456, maximises). With a free number of groups, k too is minimised over.

    Of equal totals the one with the fewest groups is taken, then the one whose last start is the lowest, then the one
    before, and so on. Totals count as equal only if their float64 sums, added up from the first group on, are.

    Args:
        costs: (n + 1, n + 1); entry [s, e] belongs to the group s .. e - 1, and is inf where there is no such group
            (-inf with `maximize`). It may be negative. Entries with e <= s are not read.
        bounds: rules for the groups; none if None.
        maximize: `costs` are scores.

    Raises:
        ScheduleError: an argument breaks a rule, a cost is NaN or infinitely good, or nothing obeys all rules, where
            the message says which one can't be kept.
    """
    table = np.array(costs, np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or len(table) < 2:
        raise ScheduleError(
            f"costs of groups must be a square table with n + 1 rows for n items, n >= 1; got shape {table.shape}"
        )
    n, sign = len(table) - 1, -1.0 if maximize else 1.0
    counts, shortest, longest, forced = _feasible(n, bounds or GroupBounds())
    table *= sign
    start, end = np.ogrid[: n + 1, : n + 1]
    table[(end - start < shortest) | (end - start > longest)] = np.inf
    for item in forced:
        table[:item, item + 1 :] = np.inf
    if np.any(np.isnan(table)) or np.any(np.isneginf(table)):
        raise ScheduleError(
            f"costs of groups must not be NaN or infinitely good; use {sign * np.inf} for a group that does not exist"
        )
    starts = _cheapest(table, counts)
    return Segmentation(starts=starts, total=math.fsum(sign * table[s, e] for s, e in pairwise([*starts, n])))


def _cheapest(table: Array, counts: range) -> tuple[int, ...]:
    n = len(table) - 1
    value = np.full(n + 1, np.inf)
    value[0] = 0.0
    choices, best, n_best = [], np.inf, 0
    for k in range(1, counts.stop):
        totals = value[:, None] + table
        choices.append(totals.argmin(axis=0))
        value = totals.min(axis=0)
        if k in counts and value[n] < best:
            best, n_best = value[n], k
    if not n_best:
        raise ScheduleError(
            f"a segmentation of {n} items must have a finite cost; got none in {_words(counts)} groups that obey the "
            "bounds; make more groups finite, or loosen the bounds"
        )
    starts = [n]
    for choice in reversed(choices[:n_best]):
        starts.append(int(choice[starts[-1]]))
    return tuple(starts[:0:-1])


def _feasible(n: int, bounds: GroupBounds) -> tuple[range, int, int, list[int]]:
    """Possible numbers of groups, the bounds on their lengths and the forced starts but 0."""
    shortest, longest = bounds.shortest, n if bounds.longest is None else bounds.longest
    if not 1 <= shortest <= longest:
        raise ScheduleError(f"lengths of groups must obey 1 <= shortest <= longest; got {shortest} and {longest}")
    if outside := [item for item in bounds.forced if not 0 <= item < n]:
        raise ScheduleError(f"forced starts must lie in 0 .. {n - 1}; got {outside}")
    forced = sorted({0, *bounds.forced})
    fewest = most = 0
    for start, end in pairwise([*forced, n]):
        low, high = -(-(end - start) // longest), (end - start) // shortest
        if low > high:
            raise ScheduleError(
                f"groups of {shortest} to {longest} items must fill each span between forced starts; the span from "
                f"{start} to {end} can't be filled; move the start, or loosen the bounds on the length"
            )
        fewest, most = fewest + low, most + high
    counts = range(fewest, most + 1)
    if bounds.n_groups is not None:
        if bounds.n_groups not in counts:
            raise ScheduleError(
                f"{n} items in groups of {shortest} to {longest} with starts {forced} forced make {_words(counts)} "
                f"groups; got n_groups = {bounds.n_groups}; change it, or the bounds on the length"
            )
        counts = range(bounds.n_groups, bounds.n_groups + 1)
    return counts, shortest, longest, forced[1:]


def _words(counts: range) -> str:
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
