"""Rows of the solver column that average velocities: heavy ball and generalized heavy ball (GHVB)."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError

Array = NDArray[np.float64]
Method = Literal["hb", "ghvb"]

MAX_MOMENTUM_ORDER = 4

_ADAMS = (1.0, 1.0 / 2.0, 5.0 / 12.0, 3.0 / 8.0)
"""Coefficients of Adams-Bashforth in backward differences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MomentumStep:
    """A step with momentum (Wizadwongsa et al. 2023, arXiv 2307.11118), on the straight ODE.

    The straight ODE is dx / dsigma = v on a flow and d(x / alpha) / d(sigma / alpha) = eps otherwise; e is its right
    side. A velocity u is carried from row to row as long as the rows have momentum; the first one starts it.

    `hb` (heavy ball) steps along u <- (1 - beta) u + beta AB(e), where AB is Adams-Bashforth of the given order with
    the real steps. `ghvb` keeps u <- (1 - beta) u + beta e and combines an earlier one with the slopes since, by
    weights for equal steps in the straight variable. `beta` in (0, 1] damps; with 1 both are Adams-Bashforth. The
    paper's order 1.8 is GHVB of order 2 with beta 0.8.
    """

    method: Method
    order: int
    beta: float

    origin: ClassVar[int] = 0
    corrector: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ScheduleError(f"momentum method must be one of {get_args(Method)}; got {self.method!r}")
        order, beta = self.order, self.beta
        if isinstance(order, bool) or not isinstance(order, int) or not 1 <= order <= MAX_MOMENTUM_ORDER:
            raise ScheduleError(f"momentum order must be an integer in 1..{MAX_MOMENTUM_ORDER}; got {order!r}")
        if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0.0 < beta <= 1.0:
            raise ScheduleError(f"momentum beta must be a number in (0, 1]; got {beta!r}")

    @property
    def n_points(self) -> int:
        """Slopes or velocities besides the row's own that the formula reads."""
        return self.order - 1

    @property
    def form(self) -> str:
        """The formula's family in words."""
        return "heavy ball" if self.method == "hb" else "generalized heavy ball"


def next_lags(lags: Array | None, beta: float) -> Array:
    """Of u <- (1 - beta) u + beta e, how far back the slopes in u lie: the means of binomial(lag, j), j = 0 .. 3.

    Lags count rows back from u's own, `lags` are those of the u before; None is none, where u is the slope alone.
    """
    newest: Array = np.eye(1, MAX_MOMENTUM_ORDER)[0]
    return newest if lags is None else (1.0 - beta) * _a_row_later(lags) + beta * newest


def ghvb_weights(order: int, lags: Array) -> tuple[float, Array]:
    """Weights of GHVB on the velocity of `order` - 1 rows back, whose lags are given, and on the slopes since.

    Their sum over slopes at equal steps is the integral over the next one for all polynomials of a degree below
    `order`, whatever the betas were; the divisor is at least 1. Under one beta it tends to the combination of the last
    `order` velocities in Wizadwongsa et al. 2023, whose weights lose their order above 2 where beta changes.

    Returns:
        the weight of the velocity, and those of the `order` - 1 slopes, newest first.
    """
    for _ in range(order - 1):
        lags = _a_row_later(lags)
    signs = (-1.0) ** np.arange(order)
    ahead = signs * _ADAMS[:order]  # the integrals of binomial(lag, j), at lags from 0 to -1
    on_velocity = float(ahead[-1] / lags[order - 1])
    rest = signs * (ahead - on_velocity * lags[:order])
    on_slopes = [sum(math.comb(j, lag) * rest[j] for j in range(lag, order - 1)) for lag in range(order - 1)]
    return on_velocity, signs[:-1] * on_slopes


def _a_row_later(lags: Array) -> Array:
    """The means where each lag is one more."""
    return np.asarray(lags + np.append(0.0, lags[:-1]))
