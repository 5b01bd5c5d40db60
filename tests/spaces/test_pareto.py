import itertools
import time

import moocore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autotune.spaces.pareto import front_hypervolume, hypervolume, non_dominated


def brute_non_dominated(points: np.ndarray) -> list[bool]:
    kept = []
    for i, p in enumerate(points):
        beaten = any((q <= p).all() and (q < p).any() for q in points)
        copy = any((q == p).all() for q in points[:i])
        kept.append(not beaten and not copy)
    return kept


def inclusion_exclusion(points: np.ndarray, reference: np.ndarray) -> float:
    total = 0.0
    for size in range(1, len(points) + 1):
        for subset in itertools.combinations(points, size):
            corner = np.max(subset, axis=0)
            total += (-1) ** (size + 1) * float(np.prod(np.maximum(reference - corner, 0.0)))
    return total


@pytest.mark.parametrize("n_objectives", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_non_dominated_agrees_with_the_definition(n_objectives: int, seed: int) -> None:
    points = np.random.default_rng(seed).integers(0, 5, (40, n_objectives)).astype(float)
    assert non_dominated(points).tolist() == brute_non_dominated(points)


tables = st.tuples(st.integers(1, 30), st.integers(2, 4)).flatmap(
    lambda shape: arrays(float, shape, elements=st.integers(0, 5).map(float))
)


@given(tables)
def test_non_dominated_agrees_with_moocore_where_values_are_tied(points: np.ndarray) -> None:
    assert non_dominated(points).tolist() == moocore.is_nondominated(points).tolist()


@given(tables)
def test_hypervolume_agrees_with_moocore_where_values_are_tied(points: np.ndarray) -> None:
    corner = np.full(points.shape[1], 4.0)
    assert hypervolume(points, corner) == pytest.approx(moocore.hypervolume(points, ref=corner))


@pytest.mark.parametrize("n_objectives", [2, 3, 4])
def test_hypervolume_of_a_long_front_agrees_with_moocore(n_objectives: int) -> None:
    points = np.random.default_rng(0).random((60, n_objectives))
    points /= np.sqrt((points**2).sum(axis=1, keepdims=True))
    corner = np.full(n_objectives, 1.1)
    assert hypervolume(points, corner) == pytest.approx(moocore.hypervolume(points, ref=corner), rel=1e-12)


@pytest.mark.parametrize("n_objectives", [2, 3, 4, 5])
@pytest.mark.parametrize("n_values", [2, 8, 50])
def test_non_dominated_agrees_with_moocore_where_points_are_many(n_objectives: int, n_values: int) -> None:
    rng = np.random.default_rng(0)
    points = rng.integers(0, n_values, (1500, n_objectives)).astype(float)
    front = rng.random((1500, n_objectives))
    front = np.floor(n_values * front / front.sum(axis=1, keepdims=True))
    for table in (points, front):
        assert non_dominated(table).tolist() == moocore.is_nondominated(table).tolist()


@pytest.mark.parametrize("n_objectives", [2, 3, 4])
def test_infinity_is_a_value_among_many_points(n_objectives: int) -> None:
    points = np.random.default_rng(0).integers(0, 9, (600, n_objectives)).astype(float)
    points[points == 8.0], points[points == 0.0] = np.inf, -np.inf
    no_larger = (points[:, None] <= points).all(axis=-1)
    smaller = no_larger & ~no_larger.T
    copies = np.triu(no_larger & no_larger.T, k=1)
    assert non_dominated(points).tolist() == (~(smaller | copies).any(axis=0)).tolist()


@pytest.mark.parametrize("n_objectives", [2, 3, 4])
def test_time_of_non_dominated_grows_less_than_quadratically(n_objectives: int) -> None:
    def seconds(n: int) -> float:
        points = np.random.default_rng(0).random((n, n_objectives))
        points /= points.sum(axis=1, keepdims=True)
        times = []
        for _ in range(3):
            began = time.process_time()
            assert non_dominated(points).all()
            times.append(time.process_time() - began)
        return min(times)

    assert seconds(20_000) < 40 * seconds(2_000)  # a hundred times as many pairs


def test_of_identical_points_the_first_is_kept() -> None:
    assert non_dominated([[1, 2], [2, 1], [1, 2]]).tolist() == [True, True, False]


def test_nan_is_never_kept_and_infinity_is_a_value() -> None:
    assert non_dominated([[np.nan, 0.0], [np.inf, 1.0], [2.0, 3.0]]).tolist() == [False, True, True]
    assert non_dominated([[np.nan, 0.0]]).tolist() == [False]
    assert non_dominated([]).tolist() == []


@pytest.mark.parametrize("n_objectives", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_hypervolume_agrees_with_inclusion_and_exclusion(n_objectives: int, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(0.0, 1.2, (9, n_objectives))
    reference = np.ones(n_objectives)
    inside = points[(points < 1.0).all(axis=1)]
    assert hypervolume(points, reference) == pytest.approx(inclusion_exclusion(inside, reference), abs=1e-12)


def test_hypervolume_in_three_dimensions_agrees_with_sampling() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0.0, 1.0, (30, 3))
    samples = rng.uniform(0.0, 1.0, (100_000, 3))
    dominated = np.zeros(len(samples), bool)
    for point in points:
        dominated |= (point <= samples).all(axis=1)
    assert hypervolume(points, (1.0, 1.0, 1.0)) == pytest.approx(dominated.mean(), abs=0.006)


def test_hypervolume_of_nothing_below_the_reference_is_zero() -> None:
    assert hypervolume([[1.0, 0.5], [2.0, 2.0]], (1.0, 1.0)) == 0.0
    assert hypervolume([], (1.0, 1.0)) == 0.0


def test_front_hypervolume_of_a_known_point() -> None:
    # half the cost at a deviation of 1 %: 0.5 x 2 of the box's 1 x 3
    assert front_hypervolume([0.5], [0.01]) == pytest.approx(1.0 / 3.0)


def test_front_hypervolume_stays_in_its_box() -> None:
    assert front_hypervolume([0.0], [0.0]) == pytest.approx(1.0)
    assert front_hypervolume([-3.0, 0.5], [1e-9, 1e-9]) == pytest.approx(1.0)
    assert front_hypervolume([1.0, 0.2], [0.001, 1.0]) == 0.0
    assert front_hypervolume([], []) == 0.0
