"""BAC's scheduler against its golden schedules, against all schedules, and its adjacent form against the greedy one."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from autotune.spaces.adaptive_caching import ScoreForm, adaptive_refreshes
from autotune.spaces.branch_tables import Metric
from autotune.spaces.errors import ScheduleError

Array = NDArray[np.float64]

FIRST = [0, 0.1, 0.2, 0.9, 1.0, 1.1, 2.0, 2.05]
SECOND = [0, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.3, 2.31, 2.32]


def cosines(angles: list[float]) -> Array:
    return np.asarray(np.cos(np.subtract.outer(angles, angles)))


def score(table: Array, starts: tuple[int, ...], form: ScoreForm) -> float:
    total = 0.0
    for start, end in zip(starts, (*starts[1:], len(table)), strict=True):
        for t in range(start + 1, end):
            total += table[start, t] if form == "anchored" else table[t - 1, t]
    return float(total)


@pytest.mark.parametrize(
    ("angles", "anchored", "adjacent", "best"),
    [
        (FIRST, (0, 3), (0, 6), 4.812225),
        (FIRST, (0, 3, 6), (0, 3, 6), 4.948892),
        (FIRST, (0, 1, 3, 6), (0, 1, 3, 6), 3.968825),
        (SECOND, (0, 5), (0, 7), 5.788403),
        (SECOND, (0, 3, 7), (0, 1, 7), 6.182704),
    ],
)
def test_golden_schedules(
    angles: list[float], anchored: tuple[int, ...], adjacent: tuple[int, ...], best: float
) -> None:
    table = cosines(angles)
    assert adaptive_refreshes(table, len(anchored)) == anchored
    assert score(table, anchored, "anchored") == pytest.approx(best, abs=5e-7)
    assert adaptive_refreshes(table, len(adjacent), form="adjacent") == adjacent


tables = st.integers(2, 8).flatmap(lambda n: arrays(np.float64, (n, n), elements=st.floats(-1.0, 1.0, width=32)))


@given(table=tables, data=st.data(), metric=st.sampled_from(["cosine", "l1"]), last=st.booleans())
def test_no_schedule_scores_better(table: Array, data: st.DataObject, metric: Metric, last: bool) -> None:
    n = len(table)
    m = data.draw(st.integers(1 + last, n))
    sign = 1.0 if metric == "cosine" else -1.0
    for form in ("anchored", "adjacent"):
        found = adaptive_refreshes(table, m, metric=metric, form=form, force_last=last)
        assert len(found) == m
        assert found[0] == 0
        assert not last or found[-1] == n - 1
        others = [(0, *rest) for rest in combinations(range(1, n), m - 1) if not last or (0, *rest)[-1] == n - 1]
        best = max(sign * score(table, other, form) for other in others)
        assert sign * score(table, found, form) == pytest.approx(best, abs=1e-9)


@given(similar=arrays(np.float64, 11, elements=st.floats(-1.0, 1.0, width=32)), m=st.integers(1, 12))
def test_the_adjacent_form_is_greedy(similar: Array, m: int) -> None:
    table = np.eye(12) + np.diag(similar, 1)
    found = adaptive_refreshes(table, m, form="adjacent")
    assert np.sort(similar[np.array(found[1:], int) - 1]) == pytest.approx(np.sort(similar)[: m - 1], abs=1e-9)


@pytest.mark.parametrize(
    ("table", "m", "words"),
    [
        (np.zeros((3, 4)), 2, "n_calls >= 1; got shape"),
        (np.full((3, 3), np.nan), 2, "finite above its diagonal"),
        (np.zeros((3, 3)), 4, "make 1 to 3 groups; got n_groups = 4"),
        (np.zeros((3, 3)), 0, "got n_groups = 0"),
    ],
)
def test_what_cannot_be_is_refused(table: Array, m: int, words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        adaptive_refreshes(table, m)
