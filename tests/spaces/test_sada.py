"""SADA's estimates: the order of each form on an ODE whose solution is known."""

import math

import numpy as np
import pytest

from autotune.spaces.sada import (
    PAPER_STATE_WEIGHTS,
    RELEASED_STATE_WEIGHTS,
    adams_bashforth,
    figure_of,
    lagrange,
)


def error_of_one_step(h: float, weights: tuple[float, ...] | int) -> float:
    """Error of the state of y' = y at h, from the exact slopes at 0, -h, -2h; uneven where an order is given."""
    positions = [0.0, -h, -2.0 * h] if isinstance(weights, tuple) else [0.0, -h, -2.5 * h]
    w = tuple(h * x for x in weights) if isinstance(weights, tuple) else adams_bashforth(positions, h, weights)
    state = 1.0 + sum(a * math.exp(t) for a, t in zip(w, positions, strict=False))
    return abs(state - math.exp(h))


@pytest.mark.parametrize(("weights", "order"), [(2, 2), (3, 3), (PAPER_STATE_WEIGHTS, 2), (RELEASED_STATE_WEIGHTS, 1)])
def test_order_by_the_slope_of_the_error_of_one_step(weights: tuple[float, ...] | int, order: int) -> None:
    slope = math.log2(error_of_one_step(0.02, weights) / error_of_one_step(0.01, weights))
    assert slope == pytest.approx(order + 1, abs=0.1)


def test_equal_steps_give_the_textbook_weights() -> None:
    assert adams_bashforth([0.0, 0.5, 1.0], -0.5, 2) == pytest.approx((-0.75, 0.25))
    assert adams_bashforth([0.0, -1.0, -2.0], 1.0, 3) == pytest.approx((23 / 12, -16 / 12, 5 / 12))
    assert lagrange([0.0, -1.0], 1.0, 2) == pytest.approx((2.0, -1.0))


def test_lagrange_is_exact_for_polynomials_on_uneven_positions() -> None:
    positions, cubic = [0.9, 0.7, 0.2, -0.4], np.poly1d([2.0, -1.0, 0.5, 3.0])
    weights = lagrange(positions, 1.3, 4)
    assert sum(w * cubic(t) for w, t in zip(weights, positions, strict=True)) == pytest.approx(cubic(1.3))
    with pytest.raises(ValueError, match="3 calls needs as many positions; got 2"):
        lagrange([1.0, 2.0], 0.0, 3)


def test_the_figure_is_one_plus_the_cosine() -> None:
    assert figure_of(-2.0, 1.0, 2.0) == 0.0
    assert figure_of(0.0, 1.0, 2.0) == 1.0
    assert figure_of(2.0, 1.0, 2.0) == 2.0
    assert figure_of(0.0, 0.0, 2.0) == 0.0
