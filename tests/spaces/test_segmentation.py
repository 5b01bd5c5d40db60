"""Segmentations against all of them, and against the schedules that the notes on CacheQuant and BAC give."""

from itertools import combinations, pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError
from autotune.spaces.segmentation import GroupBounds, best_segmentation

Array = NDArray[np.float64]


def segmentations(n: int, bounds: GroupBounds) -> list[tuple[int, ...]]:
    """All starts that obey the bounds, in the order in which equal ones are preferred."""
    longest = n if bounds.longest is None else bounds.longest
    found = []
    for k in range(1, n + 1):
        if bounds.n_groups in (None, k):
            for middle in combinations(range(1, n), k - 1):
                lengths = [end - start for start, end in pairwise((0, *middle, n))]
                if set(bounds.forced) <= {0, *middle} and all(bounds.shortest <= m <= longest for m in lengths):
                    found.append((0, *middle))
    return sorted(found, key=lambda starts: (len(starts), starts[::-1]))


def total_of(costs: Array, starts: tuple[int, ...]) -> float:
    return float(sum(costs[start, end] for start, end in pairwise((*starts, len(costs) - 1))))


def check(costs: Array, bounds: GroupBounds, maximize: bool) -> None:
    found = segmentations(len(costs) - 1, bounds)
    sign = -1.0 if maximize else 1.0
    totals = [sign * total_of(costs, starts) for starts in found]
    if not totals or min(totals) == np.inf:
        with pytest.raises(ScheduleError):
            best_segmentation(costs, bounds, maximize=maximize)
        return
    best = best_segmentation(costs, bounds, maximize=maximize)
    assert best.starts == found[int(np.argmin(totals))]
    assert best.total == sign * min(totals)


def test_every_small_problem_has_the_first_of_its_best_segmentations() -> None:
    for values in product([0.0, 1.0, 3.0], repeat=6):
        costs = np.full((4, 4), np.nan)
        costs[np.triu_indices(4, 1)] = values
        for n_groups in (None, 1, 2, 3):
            check(costs, GroupBounds(n_groups), maximize=False)
            check(costs, GroupBounds(n_groups), maximize=True)


@st.composite
def all_bounds(draw: st.DrawFn, n: int) -> GroupBounds:
    shortest = draw(st.integers(1, 3))
    return GroupBounds(
        n_groups=draw(st.none() | st.integers(1, n)),
        shortest=shortest,
        longest=draw(st.none() | st.integers(shortest, shortest + 4)),
        forced=draw(st.lists(st.integers(0, n - 1), max_size=2)),
    )


@given(st.data(), st.integers(1, 10), st.booleans())
def test_no_other_segmentation_within_the_bounds_is_better(data: st.DataObject, n: int, maximize: bool) -> None:
    missing = -np.inf if maximize else np.inf
    whole = st.integers(-9, 9).map(float)  # sums are exact, so that ties are ties
    costs = data.draw(arrays(np.float64, (n + 1, n + 1), elements=st.one_of(whole, whole, whole, st.just(missing))))
    check(costs, data.draw(all_bounds(n)), maximize)


@pytest.mark.parametrize("n_groups", range(1, 11))
def test_random_costs_of_ten_items(n_groups: int) -> None:
    rng = np.random.default_rng(n_groups)
    for _ in range(20):
        costs = rng.random((11, 11))
        best = best_segmentation(costs, GroupBounds(n_groups))
        totals = {starts: total_of(costs, starts) for starts in segmentations(10, GroupBounds(n_groups))}
        assert best.starts == min(totals, key=lambda starts: totals[starts])


@pytest.mark.parametrize(
    ("n_groups", "shortest", "longest", "starts", "total"),
    [(4, 2, 6, (0, 4, 6, 9), 13), (3, 2, 8, (0, 4, 9), 19), (3, 1, 12, (0, 4, 9), 19)],
)
def test_schedules_of_cachequant(
    n_groups: int, shortest: int, longest: int, starts: tuple[int, ...], total: float
) -> None:
    features = np.array([0, 1, 2, 3, 10, 11, 12, 13, 14, 30, 31, 32.0])
    costs = np.array(
        [[np.abs(features[start:end] - features[start]).sum() for end in range(13)] for start in range(12)]
    )
    best = best_segmentation(
        np.vstack([costs, np.zeros(13)]), GroupBounds(n_groups=n_groups, shortest=shortest, longest=longest)
    )
    assert (best.starts, best.total) == (starts, total)


FIRST_ANGLES = [0, 0.1, 0.2, 0.9, 1.0, 1.1, 2.0, 2.05]
SECOND_ANGLES = [0, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.3, 2.31, 2.32]


@pytest.mark.parametrize(
    ("angles", "starts", "score"),
    [
        (FIRST_ANGLES, (0, 3), 4.812225),
        (FIRST_ANGLES, (0, 3, 6), 4.948892),
        (FIRST_ANGLES, (0, 1, 3, 6), 3.968825),
        (SECOND_ANGLES, (0, 5), 5.788403),
        (SECOND_ANGLES, (0, 3, 7), 6.182704),
    ],
)
def test_schedules_of_bac(angles: list[float], starts: tuple[int, ...], score: float) -> None:
    n = len(angles)
    scores = np.zeros((n + 1, n + 1))
    for start in range(n):
        scores[start, start + 1 :] = np.append(0.0, np.cumsum(np.cos(np.subtract(angles[start + 1 :], angles[start]))))
    best = best_segmentation(scores, GroupBounds(n_groups=len(starts)), maximize=True)
    assert best.starts == starts
    assert best.total == pytest.approx(score, abs=5e-7)


@pytest.mark.parametrize(
    ("costs", "bounds", "words"),
    [
        (np.zeros((3, 4)), GroupBounds(), "square"),
        (np.zeros((1, 1)), GroupBounds(), "n >= 1"),
        (np.zeros((5, 5)), GroupBounds(shortest=0), "1 <= shortest"),
        (np.zeros((5, 5)), GroupBounds(shortest=3, longest=2), "got 3 and 2"),
        (np.zeros((5, 5)), GroupBounds(forced=[4]), r"0 .. 3; got \[4\]"),
        (np.zeros((8, 8)), GroupBounds(shortest=3, forced=[5]), "span from 5 to 7 can't be filled"),
        (np.zeros((12, 12)), GroupBounds(shortest=4, longest=5), "span from 0 to 11 can't be filled"),
        (np.zeros((11, 11)), GroupBounds(n_groups=2, longest=4), "make 3 to 10 groups; got n_groups = 2"),
        (np.zeros((11, 11)), GroupBounds(n_groups=4, shortest=3), "make 1 to 3 groups; got n_groups = 4"),
        (np.zeros((11, 11)), GroupBounds(n_groups=1, forced=[5]), r"starts \[0, 5\] forced make 2 to 10"),
        (np.full((4, 4), np.inf), GroupBounds(), "finite cost; got none in 1 to 3 groups"),
        (np.full((4, 4), np.inf), GroupBounds(n_groups=2), "finite cost; got none in 2 groups"),
        (np.full((4, 4), np.nan), GroupBounds(), "NaN"),
        (np.full((4, 4), -np.inf), GroupBounds(), "infinitely good"),
    ],
)
def test_what_cannot_be_is_refused_with_the_rule(costs: Any, bounds: GroupBounds, words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        best_segmentation(costs, bounds)


def test_a_missing_group_is_named_by_the_sign_of_the_search() -> None:
    with pytest.raises(ScheduleError, match="use -inf for a group"):
        best_segmentation(np.full((4, 4), np.inf), maximize=True)
