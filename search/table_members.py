"""A searcher beside which members of the front are tried again with a table: cache corrected, or quantized."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from autotune.search.archive import ParetoArchive
from autotune.search.searcher import Novelty, Proposal, Result, SearchContext, Searcher
from autotune.spaces.column_fit import PRECISIONS, FitColumn
from autotune.spaces.errors import ScheduleError
from autotune.spaces.schedule import Schedule

EVERY = 6
"""Proposals from one schedule with a table to the next: a fit takes as long as three to six evaluations."""

LABELS: Mapping[FitColumn, str] = MappingProxyType(
    {FitColumn.CACHE_CORRECTION: "cache corrected", **{column: str(column).upper() for column in PRECISIONS}}
)
"""What is added to the label of a member, by what can be fitted to it."""


def wants_precision(context: SearchContext) -> bool:
    """Whether a study is about the bytes of weights, which nothing but a quantization changes."""
    limited = [constraint.metric for constraint in context.constraints]
    return any(name in ("weights", "weights_gb") for name in (*context.objectives, *limited))


class TableMembersSearcher:
    """Asks another searcher, and in between fits a table to the newest member of the front that has none of its kind.

    The columns take turns. The other searcher is told of all results; tables are beyond it, and it goes on from
    schedules without.
    """

    def __init__(self, searcher: Searcher, context: SearchContext, family: str, columns: Sequence[FitColumn]) -> None:
        self._searcher, self._context, self._family, self._columns = searcher, context, family, list(columns)
        self._archive = ParetoArchive(context.objectives, context.constraints)
        self._novelty = Novelty(context.inventory)
        self._tried: set[tuple[str, FitColumn]] = set()
        self._n_since = 0

    def ask(self, n: int) -> list[Proposal]:
        """Up to `n` proposals, those with tables first when their turn has come."""
        proposals: list[Proposal] = []
        while len(proposals) < n:
            fitted = self._fitted() if self._n_since >= EVERY else None
            if fitted is None:
                asked = self._searcher.ask(n - len(proposals))
                self._n_since += len(asked)
                fitted = None if asked else self._fitted()
                proposals += asked
                if not asked and fitted is None:
                    break
            if fitted is not None:
                self._n_since = 0
                proposals.append(fitted)
        return proposals

    def tell(self, results: Sequence[Result]) -> None:
        """Learn from results, of own proposals or of others'."""
        for result in results:
            self._novelty.mark(result.proposal)
            self._archive.add(result)
        self._searcher.tell(results)

    def _fitted(self) -> Proposal | None:
        """A member with a table of the column whose turn it is, or of the next that some member takes."""
        for column in list(self._columns):
            self._columns.append(self._columns.pop(0))
            for member in reversed(self._archive.members):
                if (member.schedule_hash, column) in self._tried or not _takes(member.schedule, column):
                    continue
                self._tried.add((member.schedule_hash, column))
                try:
                    fit = self._context.fit(member.schedule, column)
                except ScheduleError:  # nothing to win, or no runs left
                    continue
                label = f"{member.label}, {LABELS[column]}"
                if (made := self._novelty.admit(fit.schedule, family=self._family, label=label)) is not None:
                    return made
        return None


def _takes(schedule: Schedule, column: FitColumn) -> bool:
    """Whether a table of this kind can be fitted without losing another."""
    if column is FitColumn.CACHE_CORRECTION:
        return schedule.cache is not None and schedule.cache_correction is None
    return not schedule.tables
