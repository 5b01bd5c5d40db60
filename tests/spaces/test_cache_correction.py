"""Least-squares corrections: the properties that CacheQuant's caching part must have, and the notes' example."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from autotune.spaces.cache_correction import ChannelAffine, PairMoments
from autotune.spaces.errors import ScheduleError

Array = NDArray[np.float64]


def pairs(seed: int, n: int = 40, channels: int = 3) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, channels)) * rng.uniform(0.1, 10, channels) + rng.normal(size=channels)
    return x, 0.5 * x + rng.normal(size=(n, channels))


def mean_square(line: ChannelAffine, x: Array, y: Array) -> float:
    return float(((line.scale * x + line.shift - y) ** 2).mean(axis=0).sum())


@given(st.integers(0, 10_000), st.integers(1, 30))
def test_a_fit_never_raises_the_error_of_its_pairs(seed: int, n: int) -> None:
    x, y = pairs(seed, n)
    moments = PairMoments.of(x, y)
    line = moments.fit()
    before = float(((x - y) ** 2).mean(axis=0).sum())
    assert moments.error() == pytest.approx(before, rel=1e-9)
    assert moments.error(line) == pytest.approx(mean_square(line, x, y), rel=1e-9, abs=1e-9)
    assert mean_square(line, x, y) <= before * (1 + 1e-9)


@given(st.integers(0, 10_000))
def test_no_line_nearby_is_better(seed: int) -> None:
    x, y = pairs(seed)
    line, rng = PairMoments.of(x, y).fit(), np.random.default_rng(seed)
    for _ in range(5):
        other = ChannelAffine(line.scale + rng.normal(0, 0.1, 3), line.shift + rng.normal(0, 0.1, 3))
        assert mean_square(other, x, y) >= mean_square(line, x, y)


def test_equal_values_give_the_identity_and_lines_without_noise_are_found() -> None:
    x, _ = pairs(0)
    same = PairMoments.of(x, x).fit()
    assert same.scale == pytest.approx(np.ones(3), abs=1e-12)
    assert same.shift == pytest.approx(np.zeros(3), abs=1e-12)
    scale, shift = np.array([-2.0, 0.3, 1.1]), np.array([5.0, 0.0, -0.4])
    found = PairMoments.of(x, scale * x + shift).fit()
    assert found.scale == pytest.approx(scale, rel=1e-9)
    assert found.shift == pytest.approx(shift, rel=1e-9, abs=1e-9)


def test_a_constant_channel_is_only_shifted() -> None:
    y = np.array([[1.0], [3.0]])
    for value in (0.0, 7.0, 1e6 + 0.1):
        line = PairMoments.of(np.full((2, 1), value), y).fit()
        assert line.scale == [1.0]
        assert line.shift == pytest.approx([2.0 - value])


def test_sums_of_batches_are_those_of_all() -> None:
    x, y = pairs(1)
    line, whole = (PairMoments.of(x[:7], y[:7]) + PairMoments.of(x[7:], y[7:])).fit(), PairMoments.of(x, y).fit()
    assert line.scale == pytest.approx(whole.scale, rel=1e-12)
    assert line.shift == pytest.approx(whole.shift, rel=1e-12)


def test_the_example_of_the_notes() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3))  # 4 images of 5 x 5
    y = x * [0.8, 1.1, 1.0] + [0.1, -0.2, 0.0] + 0.05 * rng.normal(size=(100, 3))
    moments = PairMoments.of(x, y)
    line = moments.fit()
    assert line.scale == pytest.approx([0.804, 1.104, 0.999], abs=0.015)
    assert line.shift == pytest.approx([0.098, -0.201, 0.002], abs=0.015)
    assert moments.error() / 3 == pytest.approx(0.0370, rel=0.2)
    assert moments.error(line) / 3 == pytest.approx(0.0024, rel=0.2)


@pytest.mark.parametrize(
    ("scale", "shift", "words"),
    [(np.ones(2), np.ones(3), "one number per channel"), (np.ones(1), np.array([np.inf]), "must be finite")],
)
def test_what_is_no_line_is_refused(scale: Array, shift: Array, words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        ChannelAffine(scale, shift)
