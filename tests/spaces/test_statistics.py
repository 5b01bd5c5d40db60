import numpy as np
import pytest

from autotune.spaces.errors import UsageError
from autotune.spaces.statistics import (
    bootstrap_interval,
    mean_ratio_interval,
    ratio_interval,
    share_interval,
    timing_interval,
)


def test_one_value_is_its_own_interval() -> None:
    assert bootstrap_interval([0.3]) == (0.3, 0.3)
    assert bootstrap_interval([0.1, 0.1, 0.1]) == (0.1, 0.1)


def test_same_seed_same_interval_and_the_global_random_state_is_left_alone() -> None:
    values = [0.1, 0.4, 0.2, 0.9]
    np.random.seed(1)
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]


def test_interval_of_a_mean_has_the_width_of_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    low, high = bootstrap_interval(values.tolist())
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20.0, rel=0.08)
    assert low < values.mean() < high


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(0.0, 1.0, 30).tolist(), level=0.9)
        hits += low <= 0.0 <= high
    assert 0.82 <= hits / 200 <= 0.96


def test_ratio_of_paired_timings_ignores_drift_that_both_share() -> None:
    drift = np.linspace(1.0, 3.0, 15)
    low, high = ratio_interval((0.5 * drift).tolist(), drift.tolist())
    assert (low, high) == pytest.approx((0.5, 0.5))


def test_ratio_of_unequally_many_timings() -> None:
    low, high = ratio_interval([5.0, 5.1, 4.9], [10.0, 10.2, 9.8, 10.1, 9.9])
    assert low <= 0.5 <= high
    assert high - low < 0.06


def test_of_three_timings_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """That of a bootstrap, from the least to the largest, does in 75 % of cases."""
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(400):
        low, high = timing_interval(np.exp(rng.normal(0.0, 0.05, 3)).tolist())
        hits += low <= 1.0 <= high
    assert 0.91 <= hits / 400 <= 0.98


def test_an_interval_of_timings_is_students_around_the_median() -> None:
    values = [0.9, 1.0, 1.3]
    low, high = timing_interval(values)
    half = 4.302653 * np.log(values).std(ddof=1) / np.sqrt(3)
    assert np.log([low, high]) == pytest.approx([-half, half], rel=0.01)
    assert timing_interval([0.4]) == (0.4, 0.4)
    with pytest.raises(UsageError, match="timings must be positive; got 0"):
        timing_interval([1.0, 0.0])


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_bad_values_are_refused(values: list[float]) -> None:
    for interval in (bootstrap_interval, timing_interval):
        with pytest.raises(UsageError):
            interval(values)


def test_a_denominator_must_be_positive() -> None:
    with pytest.raises(UsageError, match="denominator"):
        ratio_interval([1.0], [0.0])


def test_a_share_has_wilsons_interval_also_where_nothing_differs() -> None:
    """Against the roots of (p - share)^2 = z^2 p (1 - p) / n."""
    assert share_interval([1.0] * 10) == pytest.approx((1.0 / (1.0 + 1.959964**2 / 10), 1.0), rel=1e-6)
    low, high = share_interval([1.0] * 97 + [0.0] * 3)
    for end in (low, high):
        assert (end - 0.97) ** 2 == pytest.approx(1.959964**2 * end * (1.0 - end) / 100, rel=1e-5)
    assert 0.91 < low < 0.92
    assert 0.98 < high < 0.99
    with pytest.raises(UsageError, match="values from 0 to 1"):
        share_interval([0.5, 1.1])


def test_a_share_is_covered_about_as_often_as_is_said() -> None:
    rng = np.random.default_rng(5)
    for share in (0.5, 0.95):
        inside = 0
        for _ in range(800):
            low, high = share_interval((rng.random(64) < share).astype(float).tolist())
            inside += low <= share <= high
        assert inside / 800 > 0.92


def test_a_ratio_of_means_that_may_be_0_counts_from_the_least_on() -> None:
    default = [0.0] * 20 + [1.0]
    low, high = mean_ratio_interval([0.0] * 21, default, least=0.5 / 21)
    assert 0.0 < low < 0.5
    assert high == 1.0  # where no failure of the default run is drawn, both are taken for half a failure
    with pytest.raises(UsageError, match="must be positive"):
        mean_ratio_interval([0.0] * 21, default)
