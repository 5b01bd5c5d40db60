"""An adaptive policy taken over to a run of another number of calls."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.cache_policy import UNLIMITED, CachePolicy

Array = NDArray[np.float64]


def retimed_policy(policy: CachePolicy, at: Array, n_calls: int) -> CachePolicy:
    """The policy for `n_calls` calls, among which the source's lie at the fractional indices `at`.

    Guards stay at their noise levels, and numbers of calls keep their share of the run. MagCache's ratios are those of
    one call to the next: their product up to a noise level stays what it is. A threshold is taken over as it is, though
    what it is compared with depends on how far calls lie apart.

    Args:
        policy: of the source.
        at: fractional target index of each source call, rising, (n_source,).
        n_calls: calls of the target.
    """
    n_source = len(at)
    if n_calls == n_source and np.allclose(at, np.arange(n_source)):
        return policy
    ends, share = np.append(at, n_calls), n_calls / n_source

    def calls_before(call: int) -> int:
        """Of the target, before the level of a source call; one at least where there was one."""
        return max(min(1, call), round(float(ends[min(call, n_source)])))

    changed: dict[str, Any] = {
        "warm_up": calls_before(policy.warm_up),
        "settled": calls_before(policy.settled),
        "cool_down": 0 if policy.cool_down == 0 else max(1, n_calls - calls_before(n_source - policy.cool_down)),
        "interval": max(min(2, policy.interval), round(share * policy.interval)),
        "max_skips": max(1, round(share * policy.max_skips)) if policy.max_skips < UNLIMITED else UNLIMITED,
    }
    if policy.ratios:
        product = np.cumsum(np.log(policy.ratios))
        there = np.interp(np.interp(np.arange(n_calls), at, np.arange(n_source)), np.arange(n_source), product)
        changed["ratios"] = tuple(np.exp(np.diff(there, prepend=there[0])).tolist())
    read = policy.to_json()
    return replace(policy, **{name: value for name, value in changed.items() if name in read})
