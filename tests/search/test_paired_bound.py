import numpy as np
import pytest
from scipy import stats

from autotune.search.paired_bound import failure_bound, least_count, lower_bound, student_quantile


def test_the_bound_is_that_of_students_one_sample_test() -> None:
    values = np.random.default_rng(0).normal(0.3, 1.0, (3, 8))
    interval = stats.ttest_1samp(values, 0.0, axis=1, alternative="greater").confidence_interval(0.975)
    # Of so many terms that the correction for a finite number of them vanishes.
    assert lower_bound(values, 10**12, 0.025) == pytest.approx(interval.low, rel=1e-9)


@pytest.mark.parametrize("degrees", [1, 3, 7, 63])
@pytest.mark.parametrize("alpha", [0.3, 0.05, 1e-6])
def test_the_quantile_is_students(degrees: int, alpha: float) -> None:
    assert student_quantile(degrees, alpha) == pytest.approx(stats.t.isf(alpha, degrees), rel=1e-9)


@pytest.mark.parametrize("k", [2, 4, 8, 12])
def test_the_mean_of_all_terms_falls_below_the_bound_as_often_as_is_said(k: int) -> None:
    n, alpha, n_drawn = 16, 0.1, 40_000
    terms = np.random.default_rng(k).normal(1.0, 2.0, (n_drawn, n))
    below = (terms.mean(axis=1) < lower_bound(terms[:, :k], n, alpha)).mean()
    assert below == pytest.approx(alpha, abs=4.0 * np.sqrt(alpha * (1.0 - alpha) / n_drawn))


def test_all_terms_give_their_mean_and_one_gives_nothing() -> None:
    assert lower_bound([1.0, 2.0, 6.0], 3, 0.05) == 3.0
    assert lower_bound([[1.0], [5.0]], 3, 0.05).tolist() == [-np.inf, -np.inf]
    assert lower_bound([[2.0, 2.0]], 3, 0.05).tolist() == [2.0]  # no spread, no doubt


@pytest.mark.parametrize("values", [[], [1.0, 2.0, 3.0, 4.0]])
def test_a_part_has_one_term_or_more_and_no_more_than_the_whole(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"1 \.\. 3 of all; got"):
        lower_bound(values, 3, 0.05)


@pytest.mark.parametrize(("k", "n"), [(4, 64), (16, 64), (8, 17), (17, 17)])
@pytest.mark.parametrize("alpha", [0.3, 0.05])
def test_as_many_ones_as_were_seen_are_rarer_than_alpha_below_the_least_count(k: int, n: int, alpha: float) -> None:
    for seen in range(k + 1):
        least = least_count(seen, k, n, alpha)
        assert seen <= least <= n - (k - seen)
        assert stats.hypergeom.sf(seen - 1, n, least, k) > alpha
        if least > seen:
            assert stats.hypergeom.sf(seen - 1, n, least - 1, k) <= alpha


@pytest.mark.parametrize("rate", [0.04, 0.3, 0.7])
@pytest.mark.parametrize("k", [4, 16])
def test_the_bound_on_failures_is_above_the_truth_in_alpha_of_the_cases_at_most(rate: float, k: int) -> None:
    """With hard episodes that both fail in more often, and in any order."""
    rng, n, alpha, n_drawn = np.random.default_rng(k), 64, 0.125, 2000
    above = 0
    for _ in range(n_drawn):
        chance = np.clip(rate * rng.choice([0.2, 2.0], n), 0.0, 1.0)
        own, rival = (rng.random((2, n)) < chance).astype(float)
        above += failure_bound(own[:k], rival, alpha) > own.mean() - rival.mean() + 1e-12
    assert above / n_drawn <= alpha + 3.0 * np.sqrt(alpha * (1.0 - alpha) / n_drawn)


def test_episodes_that_went_alike_are_no_certainty_and_all_of_them_are() -> None:
    rival = [0.0] * 60 + [1.0] * 4
    assert failure_bound([0.0] * 4, rival, 0.125) == -4 / 64  # the four that the rival fails in may all succeed
    assert failure_bound([0.0] * 4, [0.0] * 64, 0.125) == 0.0  # better than without a failure nobody is
    assert failure_bound([1.0] * 4, rival, 0.125) > 0.3
    assert failure_bound([*[0.0] * 58, *[1.0] * 6], rival, 0.125) == pytest.approx(2 / 64)
    with pytest.raises(ValueError, match=r"1 \.\. 2 of all; got 3"):
        failure_bound([0.0] * 3, [0.0] * 2, 0.1)
