"""Random cache plans: the floor that every other searcher has to beat."""

from collections.abc import Sequence

import numpy as np

from autotune.search.searcher import Novelty, Proposal, Result, SearchContext
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.schedule import Schedule

FAMILY = "random"
MAX_TRIES = 200


class RandomSearcher:
    """Independent cells, each reused with a probability drawn anew per candidate from [0.05, 0.95]."""

    def __init__(self, context: SearchContext, seed: int = 0) -> None:
        self._context = context
        self._rng = np.random.default_rng(seed)
        self._novelty = Novelty(context.inventory)

    def ask(self, n: int) -> list[Proposal]:
        """Up to `n` new plans; fewer once new ones are hard to find."""
        proposals: list[Proposal] = []
        for _ in range(MAX_TRIES * n):
            if len(proposals) == n:
                break
            recompute = self._rng.uniform(0.05, 0.95)
            reuse = self._rng.random((self._context.n_calls, len(self._context.inventory))) >= recompute
            schedule = Schedule(n_steps=self._context.condition.n_steps, cache=CachePlan.from_array(reuse))
            label = f"random, {recompute:.0%} recomputed"
            proposal = self._novelty.admit(schedule, family=FAMILY, label=label)
            if proposal is not None and proposal.schedule.cache is not None:
                proposals.append(proposal)
        return proposals

    def tell(self, results: Sequence[Result]) -> None:
        """Remember what was tried; nothing else is learnt."""
        for result in results:
            self._novelty.mark(result.proposal)
