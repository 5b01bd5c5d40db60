"""Calls that published cache schedules recompute: functions of numbers alone, or of a table of measured errors."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError

StepMask = Literal["slow", "medium", "fast", "ultra"]

_PRESET_CALLS = 28
_BINS: dict[StepMask, tuple[int, ...]] = {  # lengths of runs of calls, computed and reused in turn
    "slow": (8, 1, 3, 2, 3, 2, 2, 2, 1, 3, 1),
    "medium": (6, 1, 2, 3, 2, 3, 2, 3, 2, 3, 1),
    "fast": (6, 1, 1, 3, 1, 4, 1, 5, 1, 4, 1),
    "ultra": (4, 2, 1, 5, 1, 6, 1, 7, 1),
}


def power_law_refreshes(n_calls: int, n_refreshed: int, centre: float, power: float) -> tuple[int, ...]:
    """Refreshes that lie denser the nearer they are to call `centre` (DeepCache, Ma et al. 2024, arXiv 2312.00858).

    They are c + l^p, rounded, for l evenly spaced from (-c)^(1/p) to (T - c)^(1/p), where a power keeps the sign of its
    base. The last of `n_refreshed` + 1 such values is T itself and left out; values that round alike are one refresh.

    Args:
        n_calls: T.
        n_refreshed: how many there are at most, in 1 .. n_calls.
        centre: c, in 0 .. n_calls.
        power: p, at least 1, which spaces them evenly; 1.2 to 1.4 in the paper.

    Raises:
        ScheduleError: an argument lies outside its range.
    """
    if not (1 <= n_refreshed <= n_calls and 0.0 <= centre <= n_calls and 1.0 <= power < np.inf):
        raise ScheduleError(
            f"power-law refreshes need 1 <= n_refreshed <= n_calls, 0 <= centre <= n_calls and power >= 1; got "
            f"n_refreshed = {n_refreshed}, n_calls = {n_calls}, centre = {centre}, power = {power}"
        )
    first, last = _signed_power(np.array([-centre, n_calls - centre]), 1.0 / power)
    calls = np.rint(centre + _signed_power(np.linspace(first, last, n_refreshed + 1), power)).astype(int)
    return tuple(sorted({0, *calls.tolist()} - {n_calls}))


def step_mask_refreshes(preset: StepMask, n_calls: int) -> tuple[int, ...]:
    """Refreshes of cache-dit's step masks, which it publishes for 28 calls as runs of computed and of reused calls.

    For another number of calls the ends of the runs are scaled by n_calls / 28 and rounded, halves up. Runs that this
    makes empty vanish; call 0 is always refreshed.

    Raises:
        ScheduleError: there is no such preset, or no call.
    """
    if preset not in _BINS or n_calls < 1:
        raise ScheduleError(
            f"a step mask is one of {', '.join(get_args(StepMask))}, of 1 call or more; got {preset!r}, {n_calls}"
        )
    ends = [(2 * int(end) * n_calls + _PRESET_CALLS) // (2 * _PRESET_CALLS) for end in np.cumsum((0, *_BINS[preset]))]
    computed = [range(start, end) for start, end in zip(ends[::2], ends[1::2], strict=True)]
    return tuple(sorted({0}.union(*computed)))


def smooth_cache_refreshes(errors: NDArray[np.float64], threshold: float, lookahead: int = 3) -> tuple[int, ...]:
    """Refreshes by SmoothCache's rule (Liu et al. 2024, arXiv 2411.10510).

    From a refresh in call t on, the greatest k up to `lookahead` with E[t, k] <= threshold is taken: the next k calls
    reuse, and the one after them is refreshed.

    Args:
        errors: E (n_calls, at least lookahead + 1), the relative error of reusing the value of call t in call t + k.
        threshold: the greatest error that is accepted, at least 0.
        lookahead: how many calls in a row may reuse, at least 1.

    Raises:
        ScheduleError: an argument breaks a rule.
    """
    if not threshold >= 0.0 or lookahead < 1 or errors.ndim != 2 or errors.shape[1] <= lookahead:
        raise ScheduleError(
            "SmoothCache needs threshold >= 0, lookahead >= 1 and errors (n_calls, lookahead + 1 or more); got "
            f"threshold = {threshold}, lookahead = {lookahead}, shape {errors.shape}; measure errors over longer gaps"
        )
    refreshed, call = [], 0
    while call < len(errors):
        refreshed.append(call)
        possible = errors[call, 1 : min(lookahead, len(errors) - 1 - call) + 1]
        call += 1 + int(np.max(np.flatnonzero(possible <= threshold) + 1, initial=0))
    return tuple(refreshed)


def _signed_power(base: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    return np.asarray(np.sign(base) * np.abs(base) ** exponent)
