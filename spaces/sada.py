"""The estimates of SADA (Jiang et al., ICML 2025): states, outputs and data extrapolated from the calls before.

Positions are those in which the network's output is the slope of the ODE: sigma / alpha for a network that predicts
noise, whose state is then x / alpha, and sigma for the velocity of a flow. Histories are newest first.
"""

from collections.abc import Sequence

import numpy as np

RELEASED_STATE_WEIGHTS = (0.625, 0.75, -0.375)
"""The released code's weights of the last three slopes, in steps; of the first order only: their first moment is 0."""

PAPER_STATE_WEIGHTS = (5.0 / 6.0, 5.0 / 6.0, -2.0 / 3.0)
"""The paper's weights: exact for slopes that are linear, so of the second order."""


def adams_bashforth(positions: Sequence[float], target: float, order: int) -> tuple[float, ...]:
    """Weights w of the last slopes, so that x(target) = x(positions[0]) + sum w_i y(positions[i]).

    Adams-Bashforth with steps of any sizes: the integral of the polynomial through the last `order` slopes. In equal
    steps h it is h (3/2, -1/2) or h (23/12, -16/12, 5/12).

    Args:
        positions: where the slopes were computed, newest first, all different.
        target: where the state is wanted.
        order: how many slopes to use.

    Raises:
        ValueError: there are fewer positions than `order`.
    """
    points, h = _offsets(positions, target, order)
    powers = np.arange(order)
    return tuple((h * np.linalg.solve(points[None, :] ** powers[:, None], 1.0 / (powers + 1.0))).tolist())


def lagrange(positions: Sequence[float], target: float, n_terms: int) -> tuple[float, ...]:
    """Weights of the last `n_terms` values whose polynomial is evaluated at `target`; exact up to degree n_terms - 1.

    Raises:
        ValueError: there are fewer positions than `n_terms`.
    """
    points, _ = _offsets(positions, target, n_terms)
    powers = np.arange(n_terms)
    return tuple(np.linalg.solve(points[None, :] ** powers[:, None], np.ones(n_terms)).tolist())


def _offsets(
    positions: Sequence[float], target: float, n: int
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], float]:
    """The first n positions in units of the step from the newest one to the target, and that step."""
    if len(positions) < n or n < 1:
        raise ValueError(f"an estimate from {n} calls needs as many positions; got {len(positions)}")
    h = target - positions[0]
    return np.array([(position - positions[0]) / h for position in positions[:n]]), h


def figure_of(products: float, error_norm: float, curvature_norm: float) -> float:
    """1 + the cosine between the error of the extrapolated state and the curvature, in [0, 2]; below 1 is stable.

    SADA's criterion is the sign of the inner product; the cosine makes a scale of it. Where a norm is 0 the ODE is
    straight: 0, as stable as can be.
    """
    norm = error_norm * curvature_norm
    return 1.0 + products / norm if norm > 0.0 else 0.0
