"""Weights of forecasts, against polynomials, the published formulas at equal distances, and the limits of orders."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import hermite

from autotune.spaces.cache_action import CacheAction, forecast_weights
from autotune.spaces.errors import ScheduleError

FORECASTS = [action for action in CacheAction if action.order]


def differences(values: list[float]) -> list[float]:
    """F, its first and its second backward difference at the newest of three equally distant values, newest first."""
    return [values[0], values[0] - values[1], values[0] - 2 * values[1] + values[2]]


@given(st.sampled_from(FORECASTS), st.lists(st.floats(0.1, 9), min_size=3, max_size=3), st.floats(0.1, 9))
def test_weights_sum_to_one(action: CacheAction, distances: list[float], k: float) -> None:
    computed = [100.0, *(100.0 - np.cumsum(distances))]
    weights = forecast_weights(action, computed, 100.0 + k)
    assert len(weights) == action.order + 1
    assert math.isclose(sum(weights), 1.0, abs_tol=1e-9)


@pytest.mark.parametrize(("action", "degree"), [(CacheAction.TAYLOR_1, 1), (CacheAction.NEWTON_2, 2)])
def test_polynomials_are_continued_exactly_at_uneven_distances(action: CacheAction, degree: int) -> None:
    computed, now = (7.0, 4.5, 4.0), 11.0
    weights = forecast_weights(action, computed, now)
    for power in range(degree + 1):
        values = [t**power for t in computed]
        assert math.isclose(sum(w * v for w, v in zip(weights, values, strict=False)), now**power, rel_tol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_taylor_equals_the_published_series_at_equal_distances(k: int) -> None:
    n, values = 3, [0.7, -1.1, 2.0]
    computed = [20.0, 20.0 - n, 20.0 - 2 * n]
    d = differences(values)
    for order in (1, 2):
        action = CacheAction.TAYLOR_1 if order == 1 else CacheAction.TAYLOR_2
        series = sum(d[i] * k**i / (math.factorial(i) * n**i) for i in range(order + 1))
        weights = forecast_weights(action, computed, 20.0 + k)
        assert math.isclose(sum(w * v for w, v in zip(weights, values, strict=False)), series, rel_tol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_hermite_equals_the_published_series_at_equal_distances(k: int) -> None:
    n, sigma, values = 4, 0.5, [0.7, -1.1, 2.0]
    computed = [20.0, 20.0 - n, 20.0 - 2 * n]
    d = differences(values)
    for order in (1, 2):
        action = CacheAction.HERMITE_1 if order == 1 else CacheAction.HERMITE_2
        series = d[0]
        for i in range(1, order + 1):
            physicists = float(hermite.hermval(sigma * k / n, [0.0] * i + [1.0]))
            series += d[i] / math.factorial(i) * sigma**i * physicists
        weights = forecast_weights(action, computed, 20.0 + k)
        assert math.isclose(sum(w * v for w, v in zip(weights, values, strict=False)), series, rel_tol=1e-12)


def test_average_velocity_between_two_computed_calls_is_hermite_of_order_one() -> None:
    """MeanCache: v + J k with J = (mean - v_before) / distance, the mean of the two velocities as the average."""
    before, after, distance, k = 2.0, 5.0, 4.0, 3.0
    published = after + ((before + after) / 2.0 - before) / distance * k
    weights = forecast_weights(CacheAction.HERMITE_1, (10.0, 10.0 - distance), 10.0 + k)
    assert math.isclose(weights[0] * after + weights[1] * before, published, rel_tol=1e-12)


def test_fewer_values_lower_the_order_of_the_same_kind() -> None:
    for action in FORECASTS:
        assert forecast_weights(action, (3.0,), 5.0) == (1.0,)
        lower = forecast_weights(action.at_order(1), (3.0, 1.0), 5.0)
        assert forecast_weights(action, (3.0, 1.0), 5.0) == lower
        assert action.at_order(0) is CacheAction.REUSE
    assert CacheAction.NEWTON_2.at_order(1) is CacheAction.TAYLOR_1
    assert CacheAction.HERMITE_2.at_order(1) is CacheAction.HERMITE_1


@pytest.mark.parametrize(
    ("action", "computed", "now"),
    [
        (CacheAction.RECOMPUTE, (1.0,), 2.0),
        (CacheAction.REUSE, (), 2.0),
        (CacheAction.TAYLOR_1, (2.0, 1.0), 2.0),
        (CacheAction.TAYLOR_2, (2.0, 1.0, 1.0), 3.0),
    ],
)
def test_what_is_no_forecast_is_refused(action: CacheAction, computed: tuple[float, ...], now: float) -> None:
    with pytest.raises(ScheduleError):
        forecast_weights(action, computed, now)
