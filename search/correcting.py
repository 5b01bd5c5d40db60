"""A searcher beside which members of the front are tried again with their cache corrected."""

from collections.abc import Sequence

from autotune.search.archive import ParetoArchive
from autotune.search.searcher import Novelty, Proposal, Result, SearchContext, Searcher
from autotune.spaces.column_fit import FitColumn
from autotune.spaces.errors import ScheduleError

EVERY = 6
"""Proposals from one corrected schedule to the next: a fit takes as long as three to four evaluations."""


class CorrectingSearcher:
    """Asks another searcher, and in between corrects the newest member of the front that has a cache.

    The other searcher is told of all results; tables are beyond it, and it goes on from uncorrected schedules.
    """

    def __init__(self, searcher: Searcher, context: SearchContext, family: str) -> None:
        self._searcher, self._context, self._family = searcher, context, family
        self._archive = ParetoArchive(context.objectives, context.constraints)
        self._novelty = Novelty(context.inventory)
        self._tried: set[str] = set()
        self._n_since = 0

    def ask(self, n: int) -> list[Proposal]:
        """Up to `n` proposals, corrected ones first when their turn has come."""
        proposals: list[Proposal] = []
        while len(proposals) < n:
            corrected = self._corrected() if self._n_since >= EVERY else None
            if corrected is None:
                asked = self._searcher.ask(n - len(proposals))
                self._n_since += len(asked)
                corrected = None if asked else self._corrected()
                proposals += asked
                if not asked and corrected is None:
                    break
            if corrected is not None:
                self._n_since = 0
                proposals.append(corrected)
        return proposals

    def tell(self, results: Sequence[Result]) -> None:
        """Learn from results, of own proposals or of others'."""
        for result in results:
            self._novelty.mark(result.proposal)
            self._archive.add(result)
        self._searcher.tell(results)

    def _corrected(self) -> Proposal | None:
        """The newest member of the front that has a cache and no correction, corrected; None if all were tried."""
        for member in reversed(self._archive.members):
            if member.schedule.cache is None or member.schedule.tables or member.schedule_hash in self._tried:
                continue
            self._tried.add(member.schedule_hash)
            try:
                fit = self._context.fit(member.schedule, FitColumn.CACHE_CORRECTION)
            except ScheduleError:  # nothing to correct, or no runs left
                continue
            label = f"{member.label}, cache corrected"
            if (made := self._novelty.admit(fit.schedule, family=self._family, label=label)) is not None:
                return made
        return None
