import numpy as np
import pytest

from autotune.evaluators.surrogate import Surrogate, cross_validate

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(80, 4))
LEVEL = FEATURES[:, 0] + 0.3 * np.sin(2.0 * FEATURES[:, 1])
TARGETS = LEVEL[:, None] + 0.01 * RNG.normal(size=(80, 6)) + np.arange(6.0)


def test_a_smooth_function_of_the_features_is_learnt_at_every_output() -> None:
    surrogate = Surrogate(FEATURES[:60], TARGETS[:60])
    error = surrogate.predict(FEATURES[60:]) - TARGETS[60:]
    assert np.sqrt((error**2).mean()) < 0.15 * LEVEL.std()
    assert abs(error.mean(axis=0)).max() < 0.1


def test_far_away_features_count_as_at_the_end_of_what_is_known() -> None:
    surrogate = Surrogate(FEATURES, TARGETS)
    ends = FEATURES.max(axis=0)[None]
    assert np.array_equal(surrogate.predict(1e6 * ends), surrogate.predict(ends))


def test_held_out_residuals_are_those_of_fits_without_the_row() -> None:
    surrogate = Surrogate(FEATURES, TARGETS)
    residuals = surrogate.held_out_residuals()
    process, inputs, outputs = surrogate._process, surrogate._inputs, surrogate._outputs
    x, y = inputs.transform(FEATURES), outputs.transform(TARGETS)
    for i in (0, 17, 79):
        others = np.arange(80) != i
        covariance = process.kernel_(x[others]) + 1e-10 * np.eye(79)  # the regressor's own jitter
        cross = process.kernel_(x[[i]], x[others])
        predicted = cross @ np.linalg.solve(covariance, y[others])
        assert residuals[i] == pytest.approx((y[i] - predicted[0]) * outputs.scale_, rel=1e-6, abs=1e-9)


def test_accuracy_is_high_for_what_can_be_known_and_low_for_noise() -> None:
    known = cross_validate(FEATURES, TARGETS[:, 0])
    assert known.r2 > 0.95
    assert known.tau > 0.85
    noise = cross_validate(FEATURES, RNG.normal(size=len(FEATURES)))
    assert noise.r2 < 0.2
    assert abs(noise.tau) < 0.3
