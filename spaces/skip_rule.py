"""Rules that decide from one number per network call whether to skip it, as plain state machines."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from autotune.spaces.cache_policy import CachePolicy, PolicyKind


class SkipRule:
    """The decision of one policy over the calls of one run.

    A call is computed where too little is known, among the first `warm_up` and the last `cool_down` calls, after
    `max_skips` skips in a row, and where `_wants` says so.
    """

    def __init__(self, policy: CachePolicy, n_calls: int) -> None:
        self._policy, self._n_calls = policy, n_calls
        self._skipped = 0
        self._known = False

    def skips(self, call: int, change: float | None) -> bool:
        """Whether to skip a call; asked once for each, in order.

        Args:
            call: position of the call in the run, from 0.
            change: the number that the rule looks at; None where it is not known yet.
        """
        wants = self._wants(call, change)
        policy = self._policy
        free = policy.warm_up <= call < self._n_calls - policy.cool_down
        if wants and free and self._known and self._skipped < policy.max_skips:
            self._skipped += 1
            return True
        self._computes()
        self._skipped, self._known = 0, True
        return False

    def _wants(self, call: int, change: float | None) -> bool:
        """Skip while the change is below the threshold: FBCache, and SADA's criterion."""
        return change is not None and change < self._policy.threshold

    def _computes(self) -> None:
        """Forget what has been accumulated since the last computed call."""


class AccumulatedChange(SkipRule):
    """TeaCache (Liu et al. 2024, arXiv 2411.19108): skip while the sum of p(change) is below the threshold."""

    _total = 0.0

    def _wants(self, call: int, change: float | None) -> bool:
        if change is None:
            return False
        self._total += float(np.polyval(self._policy.polynomial, change))
        return self._total < self._policy.threshold

    def _computes(self) -> None:
        self._total = 0.0


class MagnitudeError(SkipRule):
    """MagCache (Ma et al. 2025, arXiv 2506.09045): rho *= ratio, error += |1 - rho|, skip while it is at most delta.

    Nothing is measured: with the ratios known, so is the plan.
    """

    _ratio, _error = 1.0, 0.0

    def _wants(self, call: int, change: float | None) -> bool:
        if call < self._policy.warm_up:
            return False
        self._ratio *= self._policy.ratios[call]
        self._error += abs(1.0 - self._ratio)
        return self._error <= self._policy.threshold

    def _computes(self) -> None:
        self._ratio, self._error = 1.0, 0.0


_RULES: Mapping[PolicyKind, type[SkipRule]] = MappingProxyType(
    {PolicyKind.TEACACHE: AccumulatedChange, PolicyKind.MAGCACHE: MagnitudeError}
)


def make_rule(policy: CachePolicy, n_calls: int) -> SkipRule:
    """The rule of a policy at the beginning of a run."""
    return _RULES.get(policy.kind, SkipRule)(policy, n_calls)
