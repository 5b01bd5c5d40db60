"""Network calls of two runs matched by their noise level, and refreshes carried from one run to the other.

Levels are compared through the share sigma / (sigma + alpha) = 1 / (1 + e^lambda), each side's lambda from its own
noise schedule: unlike lambda it is finite at pure noise (1) and at the clean end (0). On a flow it is sigma.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.noise_schedule import NoiseSchedule

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Calls = NDArray[np.intp]


def noise_share(noise: NoiseSchedule, times: Sequence[float]) -> Array:
    """The share sigma / (sigma + alpha) of each call, in (0, 1], made strictly decreasing.

    A call that repeats a timestep (PNDM, Heun) counts as lying halfway to the next level.
    """
    share: Array = 1.0 / (1.0 + np.exp(noise.lam(times)))
    for i in range(1, len(share)):
        if share[i] >= share[i - 1]:
            later = share[i:][share[i:] < share[i - 1]]
            share[i] = 0.5 * (share[i - 1] + (later[0] if len(later) else 0.0))
    return share


def fractional_calls(source: Array, target: Array) -> Array:
    """Where each source call falls among the calls of the target: a fractional index in [0, n_target].

    Both arguments are `noise_share`s; the clean end has the index n_target.
    """
    index: Array = np.interp(-source, -np.append(target, 0.0), np.arange(len(target) + 1.0))
    return index


def spread_refreshes(at: Array, fresh: Mask, n_calls: int) -> Mask:
    """Which of `n_calls` target calls refresh, in the share of calls that refresh at the source: bool (n_calls,).

    The refreshes of the source are a curve of their number over the noise level, linear from each to the next. The
    target's stand at equal distances on it, at the nearest call: where the source refreshes often, so does the target,
    and an even rhythm stays even. After the last one the curve goes on for as long as the last gap, so that a frozen
    end stays frozen.

    Args:
        at: fractional target index of each source call, rising, (n_source,).
        fresh: which source calls refresh, (n_source,).
        n_calls: calls of the target.
    """
    places = at[fresh]
    n_known, chosen = len(places), np.zeros(n_calls, bool)
    if not n_known or not n_calls:
        return chosen
    n_wanted = min(n_calls, max(1, math.floor(n_known * n_calls / len(fresh) + 0.5)))
    gap = places[-1] - places[-2] if n_known > 1 else n_calls - places[-1]
    ends = np.append(places, min(n_calls, places[-1] + gap))
    before = -1
    for j, place in enumerate(np.interp(np.arange(n_wanted) * n_known / n_wanted, np.arange(n_known + 1), ends)):
        # Calls that come later are left for the refreshes that come later.
        before = min(max(math.floor(place + 0.5), before + 1), n_calls - (n_wanted - j))
        chosen[before] = True
    return chosen


def nearest_calls(at: Array, among: Calls, n_calls: int) -> Calls:
    """For each target call the nearest source call out of `among`, the earlier of two: (n_calls,)."""
    distance = np.abs(np.arange(n_calls)[:, None] - at[among][None, :])
    return np.asarray(among[np.argmin(distance, axis=1)], np.intp)
