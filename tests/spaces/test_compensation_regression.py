"""Cascade polynomial regression: what it learns, where it stops, and what it says of its own error."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import curve_fit

from autotune.spaces import compensation_regression
from autotune.spaces.compensation_regression import (
    RATIO_BOUNDS,
    CompensationRegression,
    RatioSample,
    leave_one_out_error,
)
from autotune.spaces.errors import ScheduleError

from .noise_cases import FLOW, named

COUNTS, SCALES = (5, 8, 10, 15), (1.5, 3.0, 5.0, 7.5)
Ratio = Callable[[float, int, float], float]


def polynomial(step: float, n: int, guidance: float) -> float:
    """Of degrees 3, 2, 2 in step / n, guidance and n, with values near 1."""
    a, g, c = step / n, guidance / 7.5, n / 15
    return 1.0 + 0.1 * (1 - a + 0.5 * a**3) * (0.3 + g - 0.4 * g**2) * (1.2 - c + 0.3 * c**2)


def sample(n: int, guidance: float, ratio: Ratio = polynomial) -> RatioSample:
    return RatioSample(guidance=guidance, ratios=(1.0, 1.0, *(ratio(i, n, guidance) for i in range(2, n))))


def samples(ratio: Ratio = polynomial) -> list[RatioSample]:
    return [sample(n, g, ratio) for n, g in itertools.product(COUNTS, SCALES)]


@pytest.fixture
def _negligible_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compensation_regression, "RIDGE", 1e-14)


@pytest.mark.usefixtures("_negligible_ridge")
def test_an_exact_polynomial_is_recovered_between_the_settings_too() -> None:
    made = CompensationRegression.fit(samples())
    assert made.degrees == (3, 2, 2)
    assert made.rms_error < 1e-6
    for n, guidance in ((5, 1.5), (7, 2.2), (12, 6.0), (15, 7.5)):
        np.testing.assert_allclose(made.predict(n, guidance), sample(n, guidance).ratios, atol=1e-5)


def test_the_ridge_costs_little() -> None:
    made = CompensationRegression.fit(samples())
    assert made.rms_error < 0.005  # the ratios differ by 0.1
    for n, guidance in itertools.product(COUNTS, SCALES):
        np.testing.assert_allclose(made.predict(n, guidance), sample(n, guidance).ratios, atol=0.015)


@pytest.mark.usefixtures("_negligible_ridge")
def test_scipy_fits_the_same_nested_polynomial() -> None:
    """The form of the paper, a cascade of polynomials, with 36 free coefficients; ratios with noise."""
    rng = np.random.default_rng(0)
    noisy = samples(lambda i, n, g: polynomial(i, n, g) + 0.01 * float(rng.standard_normal()))
    x = np.array([(i / s.n_steps, s.guidance, s.n_steps) for s in noisy for i in range(2, s.n_steps)]).T
    y = np.concatenate([s.ratios[2:] for s in noisy])

    def cascade(x: np.ndarray, *coefficients: float) -> np.ndarray:
        total = np.zeros(x.shape[1])
        step, guidance, calls = 2.0 * x[0] - 1.0, x[1] / 3.0 - 1.5, x[2] / 5.0 - 2.0
        for outer, over_guidance in enumerate(np.reshape(coefficients, (4, 3, 3))):
            inner = sum(np.polynomial.polynomial.polyval(calls, c) * guidance**k for k, c in enumerate(over_guidance))
            total += inner * step**outer
        return total

    best, _ = curve_fit(cascade, x, y, p0=np.zeros(36))
    made = CompensationRegression.fit(noisy)
    for n, guidance in ((6, 2.0), (9, 4.0), (15, 7.5)):
        at = np.array([(i / n, guidance, n) for i in range(2, n)]).T
        np.testing.assert_allclose(made.predict(n, guidance)[2:], cascade(at, *best), atol=1e-5)
    assert made.rms_error == pytest.approx(float(np.sqrt(np.mean((cascade(x, *best) - y) ** 2))), rel=1e-4)


def test_the_error_is_the_distance_to_the_fitted_ratios() -> None:
    kinked = samples(lambda i, n, g: 0.9 if i == n - 1 else 1.1)
    made = CompensationRegression.fit(kinked)
    gaps = [np.subtract(made.predict(s.n_steps, s.guidance)[2:], s.ratios[2:]) for s in kinked]
    assert made.rms_error == pytest.approx(float(np.sqrt(np.mean(np.concatenate(gaps) ** 2))), rel=1e-9)
    assert made.rms_error > 0.01


def test_the_error_left_out_is_that_of_settings_that_were_never_fitted() -> None:
    """One of four runs lies inside the others' counts and is off by 0.2; the ends can't be predicted."""
    flat = [sample(n, 3.0, lambda i, n, g: 1.3 if n == 8 else 1.1) for n in (5, 8, 15)]
    assert leave_one_out_error(flat) == pytest.approx(0.2, abs=2e-3)
    assert CompensationRegression.fit(flat).rms_error < 0.02
    assert leave_one_out_error(flat[:2]) is None
    assert leave_one_out_error([]) is None


@pytest.mark.parametrize("unseen", [3.0, 5.0])
def test_one_regression_predicts_a_guidance_scale_that_it_never_saw(unseen: float) -> None:

    def ratio(step: float, n: int, guidance: float) -> float:
        return 1.0 + 0.04 * (guidance - 2.0) * (1.0 - step / n)

    made = CompensationRegression.fit([s for s in samples(ratio) if s.guidance != unseen])
    nearest = min((g for g in SCALES if g != unseen), key=lambda g: abs(g - unseen))
    for n in COUNTS:
        truth, known = sample(n, unseen, ratio).ratios, sample(n, nearest, ratio).ratios
        miss = np.abs(np.subtract(made.predict(n, unseen), truth)).max()
        assert miss < 0.25 * np.abs(np.subtract(known, truth)).max()


def test_predictions_are_ratios_of_one_run_within_the_bounds() -> None:
    wild = samples(lambda i, n, g: 1.0 - 3.0 * (i / n) ** 3)
    made = CompensationRegression.fit([s for s in wild if s.n_steps <= 8])
    ratios = made.predict(8, 5.0)
    assert len(ratios) == 8
    assert ratios[:2] == (1.0, 1.0)
    assert min(ratios) == RATIO_BOUNDS[0]
    high = CompensationRegression.fit(samples(lambda i, n, g: 9.0)).predict(8, 5.0)
    assert set(high[2:]) == {RATIO_BOUNDS[1]}


@pytest.mark.parametrize(("n", "guidance"), [(4, 3.0), (16, 3.0), (8, 1.4), (8, 7.6)])
def test_it_does_not_extrapolate(n: int, guidance: float) -> None:
    made = CompensationRegression.fit(samples())
    assert not made.covers(n, guidance)
    with pytest.raises(ScheduleError, match=r"5 to 15 steps and a guidance scale of 1.5 to 7.5; .*; fit them there"):
        made.predict(n, guidance)


@pytest.mark.parametrize(
    ("counts", "scales", "degrees"),
    [
        ((10,), (3.0,), (3, 0, 0)),
        ((5, 10), (3.0,), (3, 0, 1)),
        ((5, 8, 10), (1.5, 3.0), (3, 1, 2)),
        ((4,), (3.0,), (1, 0, 0)),
        ((3,), (1.5, 3.0, 5.0, 7.5), (0, 2, 0)),
    ],
)
def test_degrees_fall_where_there_are_few_settings(
    counts: tuple[int, ...], scales: tuple[float, ...], degrees: tuple[int, int, int]
) -> None:
    made = CompensationRegression.fit([sample(n, g) for n in counts for g in scales])
    assert made.degrees == degrees
    assert made.covers(counts[0], scales[0])
    assert np.all(np.isfinite(made.predict(counts[-1], scales[-1])))


def test_runs_of_one_and_two_steps_teach_nothing() -> None:
    short = [RatioSample(guidance=1.0, ratios=(1.0,) * n) for n in (1, 2)]
    with pytest.raises(ScheduleError, match="at least 3 steps"):
        CompensationRegression.fit(short)
    made = CompensationRegression.fit([*short, sample(5, 3.0)])
    assert made.calls == (5, 5)
    assert made.guidance == (3.0, 3.0)


def test_schedules_go_in_and_out() -> None:
    plan = named("unipc-2", FLOW, 5)
    assert RatioSample.of(plan, 3.0) == RatioSample(guidance=3.0, ratios=(1.0,) * 5)
    made = CompensationRegression.fit([sample(5, 3.0)])
    compensated = made.compensated(plan, 3.0)
    assert compensated.compensation == made.predict(5, 3.0)
    assert (compensated.time, compensated.solver) == (plan.time, plan.solver)
    assert RatioSample.of(compensated, 3.0).ratios == compensated.compensation
