"""A searcher that asks within its budget: it ends where there is no room for a trace or a recording of its own."""

from collections.abc import Sequence

from autotune.search.searcher import Proposal, Result, Searcher
from autotune.spaces.errors import UsageError


class BudgetSpentError(UsageError):
    """A budget has no room for what a searcher asks for."""


class WithinBudget:
    """A searcher that asks for no more schedules once the budget had no room for a job of its own."""

    def __init__(self, searcher: Searcher) -> None:
        self._searcher: Searcher | None = searcher

    def ask(self, n: int) -> list[Proposal]:
        """Its proposals."""
        try:
            return [] if self._searcher is None else self._searcher.ask(n)
        except BudgetSpentError:
            self._searcher = None
            return []

    def tell(self, results: Sequence[Result]) -> None:
        """Pass results on."""
        try:
            if self._searcher is not None:
                self._searcher.tell(results)
        except BudgetSpentError:
            self._searcher = None
