"""What searchers share that go through a plan, whose order depends on the results so far."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from autotune.search.searcher import Novelty, Proposal, Result, SearchContext
from autotune.spaces.schedule import Schedule


class PlannedSearcher(ABC):
    """Proposes what `_candidates` yields, leaving out what is known; the seed has no effect."""

    family: str

    def __init__(self, context: SearchContext, seed: int = 0) -> None:
        self._context = context
        self._novelty = Novelty(context.inventory)
        self._error: dict[str, float] = {}
        self._plan = self._candidates()

    def ask(self, n: int) -> list[Proposal]:
        """The next `n` candidates; their order uses what has been told by then."""
        proposals: list[Proposal] = []
        while len(proposals) < n:
            entry = next(self._plan, None)
            if entry is None:
                break
            proposal = self._novelty.admit(entry[1], family=self.family, label=entry[0])
            if proposal is not None:
                proposals.append(proposal)
        return proposals

    def tell(self, results: Sequence[Result]) -> None:
        """Note the error by label; a failure counts as the worst."""
        for result in results:
            self._novelty.mark(result.proposal)
            if result.measurement is not None:
                self._error[result.proposal.label] = result.measurement.error

    @abstractmethod
    def _candidates(self) -> Iterator[tuple[str, Schedule]]:
        """Label and schedule of each candidate in order, drawn one by one, so that each knows the results before."""
