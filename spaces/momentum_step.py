"""Rows of the solver column that average velocities: heavy ball and generalized heavy ball (GHVB)."""

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
    the real steps. `ghvb` keeps u <- (1 - beta) u + beta e and combines the last `order` of them with weights for
    equal steps in the straight variable. `beta` in (0, 1] damps; with 1 both are Adams-Bashforth. The paper's order
    1.8 is GHVB of order 2 with beta 0.8.
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


def ghvb_weights(order: int, beta: float) -> Array:
    """Weights of the last `order` velocities of GHVB, newest first; their sum is 1.

    The velocities are u = beta / (1 - (1 - beta) B) e with the shift B to the step before, and Adams-Bashforth is
    sum_j g_j (1 - B)^j e, so the product of that sum with (1 - (1 - beta) B) / beta, cut after `order` powers of
    1 - B, acts on u (Wizadwongsa et al. 2023).
    """
    weights = np.zeros(order)
    difference = np.array([1.0])  # (1 - B)^j by powers of B
    for j in range(order):
        factor = _ADAMS[j] + ((1.0 - beta) / beta * _ADAMS[j - 1] if j else 0.0)
        weights[: j + 1] += factor * difference
        difference = np.convolve(difference, [1.0, -1.0])
    return weights
