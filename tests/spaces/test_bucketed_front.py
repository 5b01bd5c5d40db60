import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.spaces.bucketed_front import BUCKET_SIZE, BucketedFront

grids = st.integers(1, 4).flatmap(lambda m: st.lists(st.tuples(*[st.integers(0, 4)] * m), min_size=1, max_size=40))


class BruteFront:
    """The definition, one comparison after the other."""

    def __init__(self) -> None:
        self.points: dict[int, tuple[float, ...]] = {}

    def add(self, tag: int, values: tuple[float, ...]) -> list[int] | None:
        if any(all(a <= b for a, b in zip(point, values, strict=True)) for point in self.points.values()):
            return None
        removed = [n for n, point in self.points.items() if all(a >= b for a, b in zip(point, values, strict=True))]
        for n in removed:
            del self.points[n]
        self.points[tag] = values
        return removed


def assert_same(points: list[tuple[float, ...]]) -> None:
    front, brute = BucketedFront(len(points[0])), BruteFront()
    for tag, values in enumerate(points):
        removed, expected = front.add(tag, values), brute.add(tag, values)
        assert (removed is None) == (expected is None)
        assert sorted(removed or ()) == sorted(expected or ())


@given(grids)
def test_front_is_the_brute_one_on_grids_with_ties(points: list[tuple[float, ...]]) -> None:
    assert_same(points)


@pytest.mark.parametrize("n_objectives", [2, 3, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_front_is_the_brute_one_over_many_buckets(n_objectives: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.random((9 * BUCKET_SIZE, n_objectives))
    points /= points.sum(axis=1, keepdims=True)  # a long front, most of which the later points drive out again
    points *= np.repeat([1.0, 0.98, 0.6], 3 * BUCKET_SIZE)[:, None]
    assert_same([tuple(row) for row in points.tolist()])


def test_front_takes_infinity_for_a_value_and_leaves_nan_out() -> None:
    rng = np.random.default_rng(0)
    points = rng.choice([-np.inf, 0.0, 1.0, 2.0, 3.0, np.inf], (6 * BUCKET_SIZE, 5))
    assert_same([tuple(row) for row in points.tolist()])
    assert BucketedFront(2).add(0, (float("nan"), 1.0)) is None


def test_one_point_drives_out_all_buckets() -> None:
    front, n = BucketedFront(3), 5 * BUCKET_SIZE
    for i in range(n):
        assert front.add(i, (i, n - i, 1)) == []
    assert sorted(front.add(n, (0, 0, 0)) or ()) == list(range(n))
    assert front.add(n + 1, (1, 1, 1)) is None
    assert front.add(n + 2, (-1, 1, 1)) == []
