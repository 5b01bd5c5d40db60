import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.spaces.staircase import DominatedArea, Staircase

cells = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=30)


@given(cells)
def test_staircase_holds_what_no_other_point_dominates(points: list[tuple[int, int]]) -> None:
    staircase = Staircase()
    for n, (x, y) in enumerate(points):
        before = dict(staircase.y)
        removed = staircase.add(x, y)
        beaten = any(a <= x and b <= y for a, b in points[:n])
        assert (removed is None) == beaten
        assert set(removed or ()) == {a for a, b in before.items() if not beaten and a >= x and b >= y}
    front = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    assert [(x, staircase.y[x]) for x in staircase.x] == sorted(front)
    assert len(staircase.y) == len(staircase.x)


def test_staircase_takes_infinity_for_a_value_and_leaves_nan_out() -> None:
    staircase, inf, nan = Staircase(), float("inf"), float("nan")
    assert staircase.add(1.0, inf) == []
    assert staircase.add(inf, inf) is None
    assert staircase.add(nan, 0.0) is None
    assert staircase.add(0.0, nan) is None
    assert staircase.add(-inf, 3.0) == [1.0]
    assert staircase.add(inf, 2.0) == []
    assert staircase.x == [-inf, inf]


@given(cells)
def test_area_is_the_number_of_dominated_cells(points: list[tuple[int, int]]) -> None:
    right, top = 6, 5
    area = DominatedArea(right, top)
    covered = np.zeros((right, top), bool)
    for x, y in points:
        area.add(x, y)
        covered[x:, y:] = True
        assert area.value == covered.sum()


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_area_does_not_depend_on_the_order(order: tuple[int, ...]) -> None:
    points = [(0.1, 0.8), (0.3, 0.5), (0.35, 0.45), (0.9, 0.2)]
    area = DominatedArea(1.0, 1.0)
    for i in order:
        area.add(*points[i])
    assert area.value == pytest.approx(0.9 * 0.2 + 0.7 * 0.3 + 0.65 * 0.05 + 0.1 * 0.25)
