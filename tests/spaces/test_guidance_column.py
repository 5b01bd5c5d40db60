"""The guidance column: what it may say, its canonical form, what must be kept, and least-squares weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.spaces.errors import ScheduleError
from autotune.spaces.guidance_column import (
    GuidanceAction,
    GuidanceRow,
    canonical_guidance,
    check_guidance,
    differences_kept,
    dropped_rows,
    fitted_guidance,
    guidance_from_json,
    guidance_to_json,
    guidance_weights,
    n_differences,
)

BOTH, STORED, LINEAR, QUADRATIC, ALONE = GuidanceAction
ESTIMATES = (STORED, LINEAR, QUADRATIC)


@st.composite
def columns(draw: st.DrawFn) -> tuple[GuidanceRow, ...]:
    rows: list[GuidanceRow] = []
    for _ in range(draw(st.integers(1, 9))):
        n_both = rows.count(BOTH)
        weights = st.lists(st.floats(-2, 2), min_size=1, max_size=max(1, min(3, n_both))).map(tuple)
        rows.append(draw(st.sampled_from(GuidanceAction) | weights if n_both else st.sampled_from([BOTH, ALONE])))
    return tuple(rows)


def differences(column: tuple[GuidanceRow, ...]) -> list[dict[int, float]]:
    """Per call: which calls' differences its estimate reads, with what weight; nothing where both branches run."""
    both: list[int] = []
    read = []
    for i, row in enumerate(column):
        weights = () if row is BOTH else guidance_weights(row, both, i)
        read.append(dict(zip(both, weights, strict=False)))
        if row is BOTH:
            both.insert(0, i)
    return read


@given(columns())
def test_the_canonical_column_estimates_the_same(column: tuple[GuidanceRow, ...]) -> None:
    check_guidance(column)
    canonical = canonical_guidance(column)
    if canonical is None:
        assert set(column) == {BOTH}
        return
    check_guidance(canonical)
    assert canonical_guidance(canonical) == canonical
    assert differences(canonical) == differences(column)
    assert dropped_rows(canonical, len(column)) == dropped_rows(column, len(column))
    for i, row in enumerate(canonical):
        assert n_differences(row) == len(differences(canonical)[i])


@given(columns())
def test_a_difference_is_kept_until_it_is_read_for_the_last_time(column: tuple[GuidanceRow, ...]) -> None:
    read, kept = differences(column), differences_kept(column)
    for i in range(len(column)):
        made = [j for j in range(i + 1) if column[j] is BOTH]
        live = [j for j in made if any(j in later for later in read[i + 1 :])]
        assert kept[i] == (len(made) - made.index(live[0]) if live else 0)


@given(columns())
def test_json_brings_the_column_back(column: tuple[GuidanceRow, ...]) -> None:
    assert guidance_from_json(guidance_to_json(column)) == column


def test_estimates_continue_lines_and_parabolas() -> None:
    assert guidance_weights(STORED, [4, 2, 1], 7) == (1.0,)
    assert np.allclose(guidance_weights(LINEAR, [4, 2, 1], 7), (2.5, -1.5))
    weights = guidance_weights(QUADRATIC, [4, 2, 1], 7)
    assert np.isclose(np.dot(weights, [16, 4, 1]), 49)
    assert guidance_weights(ALONE, [4], 7) == ()


def test_fitted_weights_are_those_of_least_squares_that_make_up_for_earlier_errors() -> None:
    rng = np.random.default_rng(0)
    d = rng.normal(size=(7, 500)).cumsum(axis=0)
    column = (BOTH, STORED, BOTH, BOTH, QUADRATIC, ALONE, LINEAR)
    fitted = fitted_guidance(column, d @ d.T)
    assert fitted[2:4] == (BOTH, BOTH)
    assert fitted[5] is ALONE  # which is meant to differ: nothing makes up for it
    error = np.zeros(500)
    for call, read in ((1, [0]), (4, [3, 2, 0]), (6, [3, 2])):
        expected = np.linalg.lstsq(d[read].T, d[call] - error, rcond=None)[0]
        assert fitted[call] == pytest.approx(tuple(expected), rel=1e-5, abs=1e-6)
        error += expected @ d[read] - d[call]
    check_guidance(fitted)


def test_only_the_asked_calls_get_weights_and_see_the_errors_of_the_others() -> None:
    d = np.random.default_rng(1).normal(size=(4, 500)).cumsum(axis=0)
    fitted = fitted_guidance((BOTH, BOTH, LINEAR, STORED), d @ d.T, [3])
    assert fitted[:3] == (BOTH, BOTH, LINEAR)
    expected = np.linalg.lstsq(d[[1]].T, d[3] - (2 * d[1] - d[0] - d[2]), rcond=None)[0]
    assert fitted[3] == pytest.approx(tuple(expected), rel=1e-5)


def test_differences_of_zero_can_be_fitted() -> None:
    assert fitted_guidance((BOTH, BOTH, LINEAR), np.zeros((3, 3)))[2] == (0.0, 0.0)


@pytest.mark.parametrize(
    ("column", "complaint"),
    [
        ((STORED, BOTH), r"guidance\[0\] can't be 'stored'"),
        ((ALONE, LINEAR), r"guidance\[1\] can't be 'linear'"),
        ((BOTH, (1.0, 2.0)), r"guidance\[1\] must hold 1 to 3 weights, one for each of the 1 calls"),
        ((BOTH, BOTH, (1.0, float("nan"))), r"guidance\[2\] must hold finite weights"),
        ((BOTH, ()), r"guidance\[1\] must hold 1 to 3 weights"),
    ],
)
def test_an_estimate_without_anything_to_read_is_refused(column: tuple[GuidanceRow, ...], complaint: str) -> None:
    with pytest.raises(ScheduleError, match=complaint):
        check_guidance(column)
