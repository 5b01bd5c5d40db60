"""Cache policies that decide at run time: thresholds from a grid, then between neighbours that are far apart."""

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from autotune.search.planned import PlannedSearcher
from autotune.search.searcher import Proposal, Result, SearchContext
from autotune.search.within_budget import WithinBudget
from autotune.spaces.cache_policy import CachePolicy, PolicyKind, supports
from autotune.spaces.evaluation import Measurement
from autotune.spaces.policy_calibration import PolicyCalibration
from autotune.spaces.schedule import Schedule

FAMILY = "policies"

N_GRID = 6
"""Thresholds of a policy that are tried first, spread geometrically over its range, the middle ones before the ends."""

N_BETWEEN = 8
"""Thresholds between those, each in the middle of the widest gap that is left."""

FIRST_BLOCK_RANGE, MAGCACHE_RANGE, TEACACHE_RANGE, SADA_RANGE = (0.02, 1.0), (0.01, 1.0), (0.05, 2.0), (0.1, 2.0)
WINDOWS = ((100.0, 800.0), (-1.0, 1001.0))
FASTER_WINDOWS = ((-1.0, 681.0), (-1.0, 901.0))


class PolicySearcher(PlannedSearcher):
    """Goes through the policies of one family, each at many thresholds; nothing that the model does not support.

    The middle of a gap is the geometric mean of two neighbouring thresholds; the widest gap is where the logarithm of
    the error and the relative multiply-accumulates differ most.
    """

    def __init__(self, context: SearchContext, seed: int = 0) -> None:
        super().__init__(context, seed)
        self._measured: dict[str, Measurement] = {}

    def tell(self, results: Sequence[Result]) -> None:
        """Note the measurements by label."""
        super().tell(results)
        for result in results:
            if result.measurement is not None:
                self._measured[result.proposal.label] = result.measurement

    @abstractmethod
    def _policies(self) -> Iterator[tuple[CachePolicy, tuple[float, float] | None]]:
        """Policies, and the range of thresholds to try; None of one that has none."""

    def _candidates(self) -> Iterator[tuple[str, Schedule]]:
        ranged = []
        for policy, span in self._policies():
            if not supports(policy.kind, self._context.inventory):
                continue
            if span is None:
                yield self._candidate(policy)
            else:
                ranged.append((policy, np.geomspace(*span, N_GRID).tolist()))
        for i in sorted(range(N_GRID), key=lambda i: abs(i - 0.5 * (N_GRID - 1))):
            for policy, thresholds in ranged:
                yield self._candidate(replace(policy, threshold=thresholds[i]))
        for _ in range(N_BETWEEN):
            for policy, thresholds in ranged:
                i = max(range(len(thresholds) - 1), key=lambda i: self._gap(policy, thresholds[i : i + 2]))
                thresholds.insert(i + 1, math.sqrt(thresholds[i] * thresholds[i + 1]))
                yield self._candidate(replace(policy, threshold=thresholds[i + 1]))

    def _candidate(self, policy: CachePolicy) -> tuple[str, Schedule]:
        return policy.text, Schedule(n_steps=self._context.condition.n_steps, policy=policy)

    def _gap(self, policy: CachePolicy, pair: Sequence[float]) -> tuple[float, float]:
        """How far apart the results of two thresholds are, 0 where one is missing; then their distance."""
        width = math.log(pair[1] / pair[0])
        found = [self._measured.get(replace(policy, threshold=threshold).text) for threshold in pair]
        if found[0] is None or found[1] is None:
            return 0.0, width
        errors = [max(result.error, 1e-12) for result in found if result is not None]
        apart = abs(math.log10(errors[1] / errors[0])) + abs(found[1].relative_macs - found[0].relative_macs)
        return apart, width

    @property
    def _fifth(self) -> int:
        """A fifth of the calls, the published warm-up."""
        return max(1, round(0.2 * self._context.n_calls))

    def _calibration(self) -> PolicyCalibration | None:
        """What the model was calibrated to; None where nothing measures it, or a run is too short."""
        if self._context.edge_costs is None or self._context.n_calls < 3:
            return None
        return self._context.edge_costs().calibration


class SadaSearcher(PolicySearcher):
    """SADA (Jiang et al., ICML 2025): step-wise and multi-step, in Adams-Bashforth form and as released."""

    family = "sada"

    def _policies(self) -> Iterator[tuple[CachePolicy, tuple[float, float] | None]]:
        base = CachePolicy(kind=PolicyKind.SADA, order=2, warm_up=max(3, self._fifth), cool_down=1)
        for order, max_skips in ((2, 1), (2, 3), (3, 1)):
            yield replace(base, order=order, max_skips=max_skips), SADA_RANGE
        settled = max(1, round(0.4 * self._context.n_calls))
        multistep = replace(base, kind=PolicyKind.SADA_MULTISTEP, max_skips=2, settled=settled)
        yield multistep, SADA_RANGE
        released = replace(base, kind=PolicyKind.SADA_RELEASED, order=1, max_skips=3)
        yield released, SADA_RANGE
        yield replace(released, kind=PolicyKind.SADA_RELEASED_MULTISTEP, settled=settled), SADA_RANGE


class TeaCacheSearcher(PolicySearcher):
    """TeaCache (Liu et al. 2024), with this model's polynomial."""

    family = "teacache"

    def _policies(self) -> Iterator[tuple[CachePolicy, tuple[float, float] | None]]:
        known = self._calibration()
        if known is not None and known.polynomial:
            policy = CachePolicy(kind=PolicyKind.TEACACHE, polynomial=known.polynomial, cool_down=1)
            yield policy, TEACACHE_RANGE


class FirstBlockSearcher(PolicySearcher):
    """FBCache, and the same with at most two skips in a row."""

    family = "first-block"

    def _policies(self) -> Iterator[tuple[CachePolicy, tuple[float, float] | None]]:
        yield CachePolicy(kind=PolicyKind.FIRST_BLOCK), FIRST_BLOCK_RANGE
        yield CachePolicy(kind=PolicyKind.FIRST_BLOCK, max_skips=2, cool_down=1), FIRST_BLOCK_RANGE


class MagCacheSearcher(PolicySearcher):
    """MagCache (Ma et al. 2025) with this model's ratios, in its slow and its fast setting."""

    family = "magcache"

    def _policies(self) -> Iterator[tuple[CachePolicy, tuple[float, float] | None]]:
        known = self._calibration()
        if known is not None:
            for max_skips, warm_up in ((2, self._fifth), (4, self._fifth), (4, 1)):
                policy = CachePolicy(
                    kind=PolicyKind.MAGCACHE, ratios=known.ratios, max_skips=max_skips, warm_up=warm_up
                )
                yield policy, MAGCACHE_RANGE


class DiffusersCachesSearcher(PolicySearcher):
    """All caches of diffusers that it can enable on the model, with their parameters."""

    family = "diffusers-caches"

    def _policies(self) -> Iterator[tuple[CachePolicy, tuple[float, float] | None]]:
        yield CachePolicy(kind=PolicyKind.DIFFUSERS_FIRST_BLOCK), FIRST_BLOCK_RANGE
        for interval in (2, 3, 5):
            for order in (1, 2):
                policy = CachePolicy(kind=PolicyKind.DIFFUSERS_TAYLORSEER, interval=interval, order=order, warm_up=3)
                yield policy, None
        for interval in (2, 3, 4):
            for window in WINDOWS:
                yield CachePolicy(kind=PolicyKind.DIFFUSERS_PAB, interval=interval, window=window), None
            for window in FASTER_WINDOWS:
                yield CachePolicy(kind=PolicyKind.DIFFUSERS_FASTERCACHE, interval=interval, window=window), None
        known = self._calibration() if supports(PolicyKind.DIFFUSERS_MAGCACHE, self._context.inventory) else None
        if known is not None:
            magcache = CachePolicy(
                kind=PolicyKind.DIFFUSERS_MAGCACHE, ratios=known.ratios, max_skips=3, warm_up=self._fifth
            )
            yield magcache, MAGCACHE_RANGE


class EveryPolicySearcher:
    """The families of this file in turns, each as far as the budget has room for what it is calibrated by."""

    family = FAMILY

    def __init__(self, context: SearchContext, seed: int = 0) -> None:
        makers = (SadaSearcher, TeaCacheSearcher, FirstBlockSearcher, MagCacheSearcher, DiffusersCachesSearcher)
        self._turns = deque(WithinBudget(make(context, seed)) for make in makers)

    def ask(self, n: int) -> list[Proposal]:
        """Up to `n` proposals, of as many families."""
        proposals: list[Proposal] = []
        n_dry = 0
        while len(proposals) < n and n_dry < len(self._turns):
            asked = self._turns[0].ask(1)
            self._turns.rotate(-1)
            proposals += [replace(proposal, family=FAMILY) for proposal in asked]
            n_dry = 0 if asked else n_dry + 1
        return proposals

    def tell(self, results: Sequence[Result]) -> None:
        """Pass results on to all of them."""
        for searcher in self._turns:
            searcher.tell(results)
