"""The joint search: whole tables evolve, and searches of single columns run beside, under one budget."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from autotune.search.archive import ParetoArchive
from autotune.search.ecad import EcadSearcher
from autotune.search.policies import EveryPolicySearcher
from autotune.search.refits import Refits
from autotune.search.s3 import S3Searcher, S3Settings
from autotune.search.searcher import Novelty, Proposal, Result, SearchContext, Searcher
from autotune.search.table_evolution import TableEvolution
from autotune.search.within_budget import WithinBudget
from autotune.spaces.front import JOINT

FAMILY = JOINT

MEMORY = 0.95
"""What gains and costs of the past count for after each further result."""

PRIOR_GAIN = 3e-4
"""Hypervolume that one more evaluation of each arm, which never fades, is taken to have brought."""

START_TURNS = 4
"""Proposals of each arm that come before gains are weighed: a single try would tell little of an arm."""

OPTIMISM = 1.0
"""Of the bandit, in units of the largest mean gain: how much an arm that was tried little is favoured."""


def _s3_without_fits(context: SearchContext, seed: int) -> Searcher:
    """S3 whose best schedules are fitted by the arm of fits, once that pays."""
    return S3Searcher(context, seed, S3Settings(fit_every=0))


CONVERGING = frozenset({"s3", "fits"})
"""Arms that come closer to a converged run, and have nothing to do where there is none."""

ARMS: Mapping[str, Callable[[SearchContext, int], Searcher]] = MappingProxyType(
    {
        "tables": TableEvolution,
        "ecad": EcadSearcher,
        "s3": _s3_without_fits,
        "policies": EveryPolicySearcher,
        "fits": Refits,
    }
)


@dataclass(slots=True)
class _Arm:
    """One search, what its proposals have brought and what they have cost, in evaluations: sums that fade.

    `turns` counts its proposals, and does not fade.
    """

    searcher: Searcher
    gain: float = 0.0
    cost: float = 0.0
    turns: int = 0
    is_dry: bool = False

    @property
    def n(self) -> float:
        """Evaluations that tell of the arm, that of the prior among them."""
        return 1.0 + self.cost

    @property
    def mean(self) -> float:
        """Mean gain of an evaluation: of an arm that was not tried for long, the prior."""
        return (PRIOR_GAIN + self.gain) / self.n


class JointSearcher:
    """A bandit over searches, which all learn from all results.

    The gain of a proposal is the hypervolume that it adds. Each arm has some turns first. Then the next proposal comes
    from the arm with the largest upper bound of its mean gain per evaluation, of which the past fades, since gains
    dwindle (discounted UCB, Garivier and Moulines 2008, arXiv 0805.3415). Fits, of which one costs as much as many
    evaluations, come as soon as the gain that they expect themselves is above every mean: the bounds would hold them
    back by what is hoped for of other arms, most of which a fit makes void.
    """

    def __init__(
        self,
        context: SearchContext,
        seed: int = 0,
        arms: Mapping[str, Callable[[SearchContext, int], Searcher]] = ARMS,
    ) -> None:
        trace, edges = context.trace, context.edge_costs  # which all arms share
        context = replace(context, trace=trace and functools.cache(trace), edge_costs=edges and functools.cache(edges))
        arms = {name: make for name, make in arms.items() if context.converges or name not in CONVERGING}
        made = {name: make(context, seed) for name, make in arms.items()}
        # An arm whose recordings don't fit into the budget ends alone; fits adapt to what is left.
        self._arms = {name: _Arm(s if isinstance(s, Refits) else WithinBudget(s)) for name, s in made.items()}
        self._archive = ParetoArchive(context.objectives, context.constraints)
        self._novelty = Novelty(context.inventory)
        self._asked: dict[str, tuple[str, Proposal]] = {}

    def ask(self, n: int) -> list[Proposal]:
        """Up to `n` proposals, each from the arm that promises most now."""
        proposals: list[Proposal] = []
        while len(proposals) < n and (live := [name for name, arm in self._arms.items() if not arm.is_dry]):
            name = max(live, key=self._bound)
            arm = self._arms[name]
            asked = arm.searcher.ask(1)
            if not asked:
                arm.is_dry = True
                continue
            (own,) = asked
            arm.cost, arm.turns = arm.cost + 1.0, arm.turns + 1
            proposal = self._novelty.admit(own.schedule, family=FAMILY, label=f"{name}: {own.label}")
            if proposal is not None:
                self._asked[proposal.schedule_hash] = name, own
                proposals.append(proposal)
        return proposals

    def tell(self, results: Sequence[Result]) -> None:
        """Credit the arm that asked, and tell all arms."""
        for result in results:
            self._novelty.mark(result.proposal)
            gain = self._archive.gain(result)
            name, own = self._asked.pop(result.proposal.schedule_hash, (None, result.proposal))
            for arm in self._arms.values():
                if name is not None:
                    arm.gain, arm.cost = MEMORY * arm.gain, MEMORY * arm.cost
                arm.searcher.tell([replace(result, proposal=own)])
                arm.is_dry = False
            if name is not None:
                self._arms[name].gain += gain

    def _bound(self, name: str) -> float:
        arm = self._arms[name]
        others = [other for other in self._arms.values() if not isinstance(other.searcher, Refits)]
        scale = max(other.mean for other in others)
        if isinstance(arm.searcher, Refits):
            return math.inf if arm.searcher.expected_gain > scale else 0.0
        if arm.turns < START_TURNS:
            return math.inf
        total = sum(other.n for other in others)
        return arm.mean + OPTIMISM * scale * math.sqrt(math.log(1.0 + total) / arm.n)
