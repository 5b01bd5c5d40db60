import numpy as np
import pytest

from autotune.spaces.errors import UsageError
from autotune.spaces.hypervolume_interval import difference_interval, resampled_hypervolumes, staircase_volumes
from autotune.spaces.pareto import front_hypervolume
from autotune.spaces.statistics import percentile_interval, resampled_means


@pytest.mark.parametrize("n", [1, 2, 7])
def test_volumes_are_those_of_each_set_alone_also_beyond_the_box(n: int) -> None:
    rng = np.random.default_rng(n)
    cost = np.sort(rng.uniform(-0.1, 1.3, n))
    sets = 10.0 ** rng.uniform(-4.0, 0.7, (50, n))
    volumes = staircase_volumes(cost, sets)
    assert volumes.tolist() == pytest.approx([front_hypervolume(cost, deviation) for deviation in sets], abs=1e-12)


def test_all_rows_see_the_same_draws_and_their_mean_is_the_mean() -> None:
    row = np.array([0.1, 0.5, 0.2, 0.9])
    means = resampled_means([row, 3.0 * row], seed=1)
    assert means[:, 1] == pytest.approx(3.0 * means[:, 0])
    assert means[:, 0].mean() == pytest.approx(row.mean(), rel=0.02)
    assert len(np.unique(means[:, 0])) > 20


def test_no_spread_over_prompts_means_no_width() -> None:
    cost, deviation = np.array([0.6, 0.2]), np.array([[0.01] * 5, [0.1] * 5])
    volumes = resampled_hypervolumes(cost, deviation)
    assert volumes == pytest.approx(front_hypervolume(cost, deviation[:, 0]))


def test_the_interval_covers_the_true_volume_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    cost, scale = np.array([0.2, 0.5, 0.8]), np.array([0.2, 0.05, 0.02])
    truth = front_hypervolume(cost, scale * np.exp(0.125))
    covered = 0
    for _ in range(60):
        deviation = scale[:, None] * rng.lognormal(0.0, 0.5, (3, 30))
        low, high = percentile_interval(resampled_hypervolumes(cost, deviation))
        assert low < front_hypervolume(cost, deviation.mean(axis=1)) < high
        covered += low < truth < high
    assert 0.85 <= covered / 60 <= 1.0


def test_a_front_differs_by_nothing_from_itself_and_by_little_noise_from_a_scaled_one() -> None:
    """Paired: all members of the second front deviate twice as far on every prompt."""
    deviation = np.random.default_rng(0).lognormal(-3.0, 0.8, (4, 12))
    cost = np.array([0.1, 0.3, 0.5, 0.7])
    first, second = (resampled_hypervolumes(cost, factor * deviation) for factor in (1.0, 2.0))
    assert difference_interval(first, first) == (0.0, 0.0)
    low, high = difference_interval(first, second)
    alone_low, alone_high = percentile_interval(first)
    assert low == pytest.approx(high) == pytest.approx(0.9 * np.log10(2.0) / 3.0)
    assert alone_high - alone_low > 0.02


def test_no_members_have_no_volume_and_a_wrong_shape_is_named() -> None:
    assert not resampled_hypervolumes([], np.empty((0, 3))).any()
    with pytest.raises(UsageError, match=r"2 members needs an error per prompt; got the shape \(1, 3\)"):
        resampled_hypervolumes([0.1, 0.2], [[0.1, 0.2, 0.3]])
