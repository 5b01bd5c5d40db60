"""Cheapest paths against all paths."""

import time
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError
from autotune.spaces.grid_path import cheapest_path

Array = NDArray[np.float64]


def cost_of(costs: Array, path: tuple[int, ...], discount: float) -> float:
    return float(sum(discount**k * costs[i, j] for k, (i, j) in enumerate(pairwise(path))))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Array, int, float]:
    m = draw(st.integers(2, 10))
    finite = st.floats(-1.0, 10.0)
    costs = draw(arrays(np.float64, (m, m), elements=st.one_of(finite, finite, finite, st.just(np.inf))))
    return costs, draw(st.integers(1, m - 1)), draw(st.sampled_from([0.8, 1.0, 1.15, 2.0]))


@given(problems())
def test_no_other_path_is_cheaper(problem: tuple[Array, int, float]) -> None:
    costs, n_jumps, discount = problem
    last = len(costs) - 1
    paths = [(0, *middle, last) for middle in combinations(range(1, last), n_jumps - 1)]
    least = min(cost_of(costs, path, discount) for path in paths)
    if least == np.inf:
        with pytest.raises(ScheduleError, match="finite cost"):
            cheapest_path(costs, n_jumps, discount=discount)
        return
    path = cheapest_path(costs, n_jumps, discount=discount)
    assert path in paths
    assert cost_of(costs, path, discount) == pytest.approx(least, rel=1e-12, abs=1e-12)


@given(arrays(np.float64, (7, 7), elements=st.floats(-1.0, 10.0)), st.integers(1, 6))
def test_costs_of_jumps_back_do_not_count(costs: Array, n_jumps: int) -> None:
    assume(np.any(np.tril(costs)))
    assert cheapest_path(costs, n_jumps) == cheapest_path(np.triu(costs, 1), n_jumps)


def test_a_discount_above_one_makes_later_jumps_dearer() -> None:
    costs = np.array([[0, 1.0, 2.2, 0], [0, 0, 0, 2.1], [0, 0, 0, 1.0], [0, 0, 0, 0]])
    assert cheapest_path(costs, 2) == (0, 1, 3)  # 3.1 against 3.2
    assert cheapest_path(costs, 2, discount=1.15) == (0, 2, 3)  # 3.415 against 3.35


@pytest.mark.parametrize(
    ("costs", "n_jumps", "discount", "words"),
    [
        (np.zeros((3, 4)), 1, 1.0, "square"),
        (np.zeros((1, 1)), 1, 1.0, "at least two levels"),
        (np.zeros((4, 4)), 0, 1.0, "1 to 3 jumps"),
        (np.zeros((4, 4)), 4, 1.0, "1 to 3 jumps; got 4"),
        (np.zeros((4, 4)), 2, 0.0, "discount"),
        (np.full((4, 4), np.nan), 2, 1.0, "NaN"),
        (np.full((4, 4), -np.inf), 2, 1.0, "NaN or -inf"),
    ],
)
def test_impossible_problems_are_refused(costs: Any, n_jumps: int, discount: float, words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        cheapest_path(costs, n_jumps, discount=discount)


def test_twenty_jumps_through_a_hundred_levels_are_fast() -> None:
    costs = np.random.default_rng(0).random((100, 100))
    seconds = []
    for _ in range(5):
        start = time.process_time()
        cheapest_path(costs, 20)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.05  # 0.5 ms on a 2.5 GHz core
