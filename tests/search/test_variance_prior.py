import numpy as np
import pytest
from scipy import special

from autotune.search.paired_bound import lower_bound
from autotune.search.variance_prior import MIN_VARIANCES, MOST_DEGREES, Prior, VariancePrior


def drawn(rng: np.random.Generator, prior: Prior, n: int) -> np.ndarray:
    """True variances of the distribution that a prior stands for."""
    return prior.variance * prior.degrees / rng.chisquare(prior.degrees, n)


@pytest.mark.parametrize("prior", [Prior(variance=0.01, degrees=2.0), Prior(variance=4.0, degrees=30.0)])
@pytest.mark.parametrize("degrees", [3, 47])
def test_the_distribution_of_variances_is_found(prior: Prior, degrees: int) -> None:
    rng = np.random.default_rng(0)
    known = VariancePrior(degrees)
    for part in np.split(drawn(rng, prior, 20_000), 10):
        known.note(part * rng.chisquare(degrees, len(part)) / degrees)
    fitted = known.prior
    assert fitted is not None
    assert fitted.variance == pytest.approx(prior.variance, rel=0.05)
    assert fitted.degrees == pytest.approx(prior.degrees, rel=0.15)


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_with_a_prior_the_bound_is_as_sure_as_is_said_even_of_one_term(k: int) -> None:
    rng, n, alpha, n_drawn = np.random.default_rng(k), 16, 0.1, 40_000
    prior = Prior(variance=0.5, degrees=3.0)
    terms = 1.0 + np.sqrt(drawn(rng, prior, n_drawn))[:, None] * rng.standard_normal((n_drawn, n))
    below = (terms.mean(axis=1) < lower_bound(terms[:, :k], n, alpha, prior)).mean()
    assert below == pytest.approx(alpha, abs=4.0 * np.sqrt(alpha * (1.0 - alpha) / n_drawn))


def test_variances_that_are_all_alike_are_known_for_sure() -> None:
    known = VariancePrior(47)
    known.note(0.09 * np.random.default_rng(0).chisquare(47, 5000) / 47)
    fitted = known.prior
    assert fitted is not None
    assert fitted.degrees > 300.0
    assert fitted.variance == pytest.approx(0.09, rel=0.02)
    known = VariancePrior(47)
    known.note(np.full(50, 0.09))
    fitted = known.prior
    assert fitted is not None
    assert fitted.degrees == MOST_DEGREES


def test_few_variances_and_those_of_no_use_give_no_prior() -> None:
    known = VariancePrior(47)
    known.note([0.0, np.nan, np.inf, *[0.1] * (MIN_VARIANCES - 1)])
    assert known.prior is None
    known.note([])
    known.note(0.1)
    assert known.prior is not None


def test_the_degrees_fit_the_spread() -> None:
    """The variance of logarithms is trigamma(d / 2), of the prior's and of the estimates' degrees, in sum."""
    rng = np.random.default_rng(3)
    logs = rng.normal(0.0, 1.5, 40)
    known = VariancePrior(11)
    known.note(np.exp(logs))
    fitted = known.prior
    assert fitted is not None
    total = special.polygamma(1, fitted.degrees / 2.0) + special.polygamma(1, 5.5)
    assert total == pytest.approx(logs.var(ddof=1), rel=1e-9)
