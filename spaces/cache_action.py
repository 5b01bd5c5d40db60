"""What a cached site may do in one network call, and the weights of the stored values that a forecast combines."""

from collections.abc import Sequence
from enum import IntEnum

from autotune.spaces.errors import ScheduleError

HERMITE_SCALE = 0.5
"""Sigma of HiCache's scaled Hermite polynomials; 0.5 is the best in its paper."""


class CacheAction(IntEnum):
    """What a site does in one network call.

    A forecast reads the values of the last calls that computed, the newest first: F0, F1, F2 at the distances d1, d2
    before F0, the present call lying k after it. With D1 = (F0 - F1) / d1 and D2 the difference of the last two slopes
    over d1, it is F0 + D1 p1(k) + D2 p2(k); order 1 ends after D1. With fewer values than it needs, the order is lower.
    """

    RECOMPUTE = 0
    REUSE = 1
    """F0."""
    TAYLOR_1 = 2
    """p1 = k."""
    TAYLOR_2 = 3
    """p2 = k^2 / 2: TaylorSeer (Liu et al. 2025, arXiv 2503.06923), whose equal distances give the same weights."""
    HERMITE_1 = 4
    """p1 = 2 s^2 k, half the slope at s = 0.5. That is also the average velocity of MeanCache between two computed
    calls, the mean of both standing for the average."""
    HERMITE_2 = 5
    """p2 = s^2 (4 s^2 k^2 - 2 d1^2) / 2: HiCache (Feng et al. 2025), in units of d1."""
    NEWTON_2 = 6
    """p2 = k (k + d1) / 2 at equal distances: the parabola through all three values, whatever the distances. Ours."""

    @property
    def order(self) -> int:
        """Of the polynomial; 0 for a plain reuse."""
        return _ORDERS[self]

    def at_order(self, order: int) -> "CacheAction":
        """The same kind of forecast with an order that is not above this one."""
        if order >= self.order:
            return self
        if order == 0:
            return CacheAction.REUSE
        return CacheAction.HERMITE_1 if self is CacheAction.HERMITE_2 else CacheAction.TAYLOR_1


_ORDERS = (0, 0, 1, 2, 1, 2, 2)

ORDERS = bytes(_ORDERS)
"""Order of each action, by its number."""


def forecast_weights(action: CacheAction, computed: Sequence[float], now: float) -> tuple[float, ...]:
    """Weights of the stored values, newest first, that sum to 1.

    Args:
        action: a reuse or a forecast.
        computed: positions at which values were computed, newest first, strictly decreasing; those that the order does
            not need are left out.
        now: position of the present call, after the newest value.

    Raises:
        ScheduleError: there is no value, positions do not decrease, or the action is no forecast.
    """
    if action is CacheAction.RECOMPUTE or not computed:
        raise ScheduleError(
            f"a forecast needs an action that reads, and a value; got {action.name} and {len(computed)} values"
        )
    positions = (now, *computed)
    if any(later <= earlier for later, earlier in zip(positions, computed, strict=False)):
        raise ScheduleError(f"the positions of a forecast must decrease strictly; got {positions}")
    order = min(action.order, len(computed) - 1)
    if order == 0:
        return (1.0,)
    k, d1 = now - computed[0], computed[0] - computed[1]
    hermite = action in (CacheAction.HERMITE_1, CacheAction.HERMITE_2)
    p1 = 2.0 * HERMITE_SCALE**2 * k if hermite else k
    weights = [1.0 + p1 / d1, -p1 / d1]
    if order == 2:
        d2 = computed[1] - computed[2]
        if action is CacheAction.NEWTON_2:
            p2 = k * (k + d1) * d1 / (d1 + d2)
        elif hermite:
            p2 = HERMITE_SCALE**2 * (4.0 * HERMITE_SCALE**2 * k**2 - 2.0 * d1**2) / 2.0
        else:
            p2 = k**2 / 2.0
        slopes = p2 / d1  # of D2 = (first slope - second slope) / d1
        weights = [weights[0] + slopes / d1, weights[1] - slopes / d1 - slopes / d2, slopes / d2]
    return tuple(weights)
