"""Refreshed calls of published schedules, worked out by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from autotune.search.refresh_sets import StepMask, power_law_refreshes, smooth_cache_refreshes, step_mask_refreshes
from autotune.spaces.errors import ScheduleError


@pytest.mark.parametrize(
    ("n_calls", "n_refreshed", "centre", "power", "expected"),
    [
        # Roots -2 and 2.449 in steps of 1.112; squares -4, -0.79, 0.05, 1.79, 6 around 4.
        (10, 4, 4, 2.0, (0, 3, 4, 6)),
        # Roots -2.236 and 3.873 in steps of 1.222; squares -5, -1.03, 0.04, 2.04, 7.03, 15 around 5.
        (20, 5, 5, 2.0, (0, 4, 5, 7, 12)),
        # Roots 0 and 3.162 in steps of 0.632; squares 0, 0.4, 1.6, 3.6, 6.4, 10: the first two are one.
        (10, 5, 0, 2.0, (0, 2, 4, 6)),
        # Roots -3.162 and 0: the mirror image; 9.6 rounds to T and is left out.
        (10, 5, 10, 2.0, (0, 4, 6, 8)),
        (10, 5, 3, 1.0, (0, 2, 4, 6, 8)),
        (10, 10, 3, 1.0, tuple(range(10))),
        (10, 1, 3, 1.4, (0,)),
    ],
)
def test_power_law(n_calls: int, n_refreshed: int, centre: float, power: float, expected: tuple[int, ...]) -> None:
    assert power_law_refreshes(n_calls, n_refreshed, centre, power) == expected


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n), st.integers(0, n))))
def test_power_laws_refresh_call_0_and_no_more_than_asked(numbers: tuple[int, int, int]) -> None:
    n_calls, n_refreshed, centre = numbers
    refreshed = power_law_refreshes(n_calls, n_refreshed, centre, 1.4)
    assert refreshed[0] == 0
    assert refreshed[-1] < n_calls
    assert len(refreshed) <= n_refreshed


@pytest.mark.parametrize(
    ("preset", "n_calls", "expected"),
    [
        ("slow", 28, (*range(8), 9, 10, 11, 14, 15, 16, 19, 20, 23, 27)),
        ("medium", 28, (*range(6), 7, 8, 12, 13, 17, 18, 22, 23, 27)),
        ("fast", 28, (*range(6), 7, 11, 16, 22, 27)),
        ("ultra", 28, (0, 1, 2, 3, 6, 12, 19, 27)),
        ("ultra", 56, (*range(8), 12, 13, 24, 25, 38, 39, 54, 55)),
        ("ultra", 14, (0, 1, 3, 6)),  # ends 2, 3, 3.5, 6, 6.5, 9.5, 10, 13.5, 14
        ("ultra", 1, (0,)),
    ],
)
def test_step_masks_and_how_they_scale(preset: StepMask, n_calls: int, expected: tuple[int, ...]) -> None:
    assert step_mask_refreshes(preset, n_calls) == expected


ERRORS = np.array(
    [
        [0.0, 0.1, 0.2, 0.3],  # all three: 1, 2 and 3 reuse
        [0.0, 0.9, 0.9, 0.9],
        [0.0, 0.9, 0.9, 0.9],
        [0.0, 0.9, 0.9, 0.9],
        [0.0, 0.4, 0.3, 0.5],  # the greatest k counts, though k = 1 is above: 5 and 6 reuse
        [0.0, 0.1, 0.1, 0.1],
        [0.0, 0.1, 0.1, 0.1],
        [0.0, 0.5, 0.6, 0.7],  # none
        [0.0, 0.1, np.inf, np.inf],  # the run ends after 9
        [0.0, np.inf, np.inf, np.inf],
    ]
)


@pytest.mark.parametrize(
    ("threshold", "lookahead", "expected"),
    [(0.3, 3, (0, 4, 7, 8)), (0.3, 1, (0, 2, 3, 4, 5, 7, 8)), (0.0, 3, tuple(range(10))), (9.0, 3, (0, 4, 8))],
)
def test_smooth_cache_reuses_as_long_as_errors_allow(
    threshold: float, lookahead: int, expected: tuple[int, ...]
) -> None:
    assert smooth_cache_refreshes(ERRORS, threshold, lookahead) == expected


@given(arrays(np.float64, (12, 4), elements=st.floats(0.01, 1.0)), st.floats(0.0, 1.1))
def test_smooth_cache_never_reuses_above_its_threshold(errors: NDArray[np.float64], threshold: float) -> None:
    refreshed = smooth_cache_refreshes(errors, threshold)
    for call, end in zip(refreshed, (*refreshed[1:], 12), strict=True):
        assert end - call == 1 or errors[call, end - call - 1] <= threshold
        assert all(errors[call, k] > threshold for k in range(end - call, min(4, 12 - call)))


@pytest.mark.parametrize(
    "arguments", [(10, 0, 3, 1.4), (10, 11, 3, 1.4), (10, 5, -1, 1.4), (10, 5, 11, 1.4), (10, 5, 3, 0.9)]
)
def test_impossible_power_laws_are_refused(arguments: tuple[int, int, float, float]) -> None:
    with pytest.raises(ScheduleError, match="power-law refreshes need"):
        power_law_refreshes(*arguments)


@pytest.mark.parametrize(("preset", "n_calls"), [("quick", 28), ("slow", 0)])
def test_unknown_step_masks_are_refused(preset: Any, n_calls: int) -> None:
    with pytest.raises(ScheduleError, match="one of slow, medium, fast, ultra, of 1 call or more"):
        step_mask_refreshes(preset, n_calls)


@pytest.mark.parametrize(
    ("errors", "threshold", "lookahead"), [(ERRORS, -0.1, 3), (ERRORS, 0.1, 0), (ERRORS, 0.1, 4), (ERRORS[0], 0.1, 3)]
)
def test_impossible_smooth_caches_are_refused(errors: NDArray[np.float64], threshold: float, lookahead: int) -> None:
    with pytest.raises(ScheduleError, match="SmoothCache needs threshold"):
        smooth_cache_refreshes(errors, threshold, lookahead)
