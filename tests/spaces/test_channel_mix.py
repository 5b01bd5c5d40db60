"""History corrections as least squares: what the caching part of CacheQuant must have, they have too."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from autotune.spaces.channel_mix import ChannelMix, MixMoments
from autotune.spaces.errors import ScheduleError

Array = NDArray[np.float64]


def moments(parts: Array, y: Array) -> MixMoments:
    """Of parts (k - 1, n, channels)."""
    table = np.concatenate([parts, np.ones_like(parts[:1])]).transpose(2, 1, 0)
    apart = (y - parts[0]).T
    cross = np.einsum("cnk,cn->ck", table, apart)
    return MixMoments(float(len(y)), table.transpose(0, 2, 1) @ table, cross, (apart**2).sum(axis=1))


def mixed(mix: ChannelMix, parts: Array) -> Array:
    made: Array = np.einsum("knc,ck->nc", parts, mix.weights[:, :-1]) + mix.weights[:, -1]
    return made


def drawn(seed: int, n: int = 50) -> tuple[Array, Array]:
    """Parts that are nearly alike, as outputs of neighbouring calls are, and y of its own."""
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=(n, 3)) + 0.05 * rng.normal(size=(6, n, 3))
    return parts, 0.5 * parts[0] + 0.4 * parts[2] + 0.1 * rng.normal(size=(n, 3))


def mean_square(apart: Array) -> float:
    return float((apart**2).mean(axis=0).sum())


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_a_fit_never_raises_the_error_of_its_values(seed: int, n: int) -> None:
    parts, y = drawn(seed, n)
    sums = moments(parts, y)
    mix, before = sums.fit(), mean_square(parts[0] - y)
    assert sums.error() == pytest.approx(before, rel=1e-9)
    assert sums.error(mix) == pytest.approx(mean_square(mixed(mix, parts) - y), rel=1e-6, abs=1e-9)
    assert mean_square(mixed(mix, parts) - y) <= before * (1 + 1e-9)


def test_equal_values_give_the_identity_and_mixes_without_noise_are_found() -> None:
    parts, _ = drawn(0)
    same = moments(parts, parts[0]).fit()
    assert (same.weights == np.eye(1, 7)).all()
    weights = np.random.default_rng(1).normal(size=(3, 7))
    y = mixed(ChannelMix(weights), parts)
    found = moments(parts, y).fit()
    assert mean_square(mixed(found, parts) - y) < 1e-5 * mean_square(parts[0] - y)
    assert found.weights == pytest.approx(weights, abs=0.02)  # of parts that differ by a twentieth


def test_a_part_of_zeros_has_no_weight_and_sums_of_batches_are_those_of_all() -> None:
    parts, y = drawn(2)
    parts[1] = 0.0
    whole = moments(parts, y).fit()
    assert (whole.weights[:, 1] == 0.0).all()
    summed = (moments(parts[:, :20], y[:20]) + moments(parts[:, 20:], y[20:])).fit()
    assert summed.weights == pytest.approx(whole.weights, abs=1e-6)


@pytest.mark.parametrize(
    ("weights", "words"),
    [(np.ones((2, 3)), "of 1 to 2 refreshes"), (np.ones((2, 6)), "got an array"), (np.full((1, 5), np.nan), "finite")],
)
def test_what_is_no_mix_is_refused(weights: Array, words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        ChannelMix(weights)
