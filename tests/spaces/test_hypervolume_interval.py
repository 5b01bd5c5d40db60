import numpy as np
import pytest

from autotune.spaces.errors import UsageError
from autotune.spaces.hypervolume_interval import difference_interval, resampled_hypervolumes, staircase_volumes
from autotune.spaces.pareto import front_hypervolume
from autotune.spaces.statistics import percentile_interval, pooled_timing_draws, resampled_means


@pytest.mark.parametrize("n", [1, 2, 7])
def test_volumes_are_those_of_each_set_alone_also_beyond_the_box(n: int) -> None:
    rng = np.random.default_rng(n)
    sets = 10.0 ** rng.uniform(-4.0, 0.7, (50, n))
    for costs in (rng.uniform(-0.1, 1.3, n), rng.uniform(-0.1, 1.3, (50, n))):
        each = np.broadcast_to(costs, sets.shape)
        expected = [front_hypervolume(cost, deviation) for cost, deviation in zip(each, sets, strict=True)]
        assert staircase_volumes(costs, sets).tolist() == pytest.approx(expected, abs=1e-12)


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


def test_the_interval_covers_the_true_volume_where_runs_scatter() -> None:
    """Three runs of each of twelve members, off by 10 %; errors are known."""
    rng = np.random.default_rng(0)
    cost, error = np.linspace(0.1, 0.9, 12), np.geomspace(0.5, 0.01, 12)
    truth, covered, widths = front_hypervolume(cost, error), 0, []
    for _ in range(60):
        runs = cost[:, None] * rng.lognormal(0.0, 0.1, (12, 3))
        low, high = percentile_interval(
            resampled_hypervolumes(pooled_timing_draws(runs.tolist()), np.tile(error[:, None], 4))
        )
        covered += low < truth < high
        widths.append(high - low)
    assert 0.85 <= covered / 60 <= 1.0
    assert 0.005 < np.median(widths) < 0.05


def test_what_two_fronts_share_does_not_tell_them_apart() -> None:
    rng = np.random.default_rng(0)
    runs, errors = rng.lognormal(-1.0, 0.1, (4, 3)), rng.lognormal(-3.0, 0.5, (4, 12))
    turned = slice(None, None, -1)
    first, second = (
        resampled_hypervolumes(pooled_timing_draws(runs[rows].tolist()), errors[rows]) for rows in (slice(None), turned)
    )
    assert difference_interval(first, second) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert len(np.unique(pooled_timing_draws([[0.5], [0.3]]), axis=0)) == 1  # single runs are taken as they are


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
    assert not resampled_hypervolumes(pooled_timing_draws([]), np.empty((0, 3))).any()
    with pytest.raises(UsageError, match=r"2 members needs an error per prompt; got the shape \(1, 3\)"):
        resampled_hypervolumes([0.1, 0.2], [[0.1, 0.2, 0.3]])
