"""A searcher beside which members of the front are tried again with a table: cache corrected, or quantized."""

import contextlib
from collections.abc import Sequence

from autotune.search.archive import ParetoArchive
from autotune.search.precision_choice import PrecisionChoice
from autotune.search.searcher import Novelty, Proposal, Result, SearchContext, Searcher
from autotune.spaces.column_fit import FitColumn
from autotune.spaces.errors import ScheduleError
from autotune.spaces.front import JOINT
from autotune.spaces.schedule import Schedule

EVERY = 6
"""Proposals from one schedule with a table to the next: a fit takes as long as three to six evaluations."""

EVERY_IF_NEEDED = 2
"""The same where a limit is met by quantized schedules only."""


class TableMembersSearcher:
    """Asks another searcher, and in between proposes schedules with tables: a correction and a precision take turns.

    Corrected is the newest member of the front with a cache that has no correction, quantized or not; quantized is what
    `PrecisionChoice` chooses, plain or corrected. The other searcher is told of all results; tables are beyond it, and
    it goes on from schedules without.
    """

    def __init__(
        self, searcher: Searcher, context: SearchContext, family: str, *, correct: bool = False, quantize: bool = False
    ) -> None:
        """A searcher that has one kind of table, or both."""
        self._searcher, self._context, self._family = searcher, context, family
        self._turns = [*([self._corrected] if correct else []), *([self._quantized] if quantize else [])]
        self._archive = ParetoArchive(context.objectives, context.constraints)
        self._choice = PrecisionChoice(context)
        self._novelty = Novelty(context.inventory)
        self._with_correction: set[str] = set()
        self._n_since = 0

    def ask(self, n: int) -> list[Proposal]:
        """Up to `n` proposals, those with tables first when their turn has come."""
        proposals: list[Proposal] = []
        while len(proposals) < n:
            every = EVERY_IF_NEEDED if self._quantized in self._turns and self._choice.is_needed else EVERY
            fitted = self._fitted() if self._n_since >= every else None
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
        self._choice.tell(results)
        self._searcher.tell(results)

    def _fitted(self) -> Proposal | None:
        """A schedule with a table of the kind whose turn it is, or else of the next."""
        for turn in list(self._turns):
            self._turns.append(self._turns.pop(0))
            if (made := turn()) is not None:
                return made
        return None

    def _corrected(self) -> Proposal | None:
        for member in reversed(self._archive.members):
            schedule = member.schedule
            if schedule.cache is None or schedule.cache_correction is not None:
                continue
            if schedule.unconditional_cache is not None:  # a correction is of both branches alike
                continue
            if member.schedule_hash in self._with_correction:
                continue
            self._with_correction.add(member.schedule_hash)
            with contextlib.suppress(ScheduleError):  # no runs left
                fit = self._context.fit(schedule, FitColumn.CACHE_CORRECTION)
                if (made := self._admit(member, fit.schedule, "corrections", "cache corrected")) is not None:
                    return made
        return None

    def _quantized(self) -> Proposal | None:
        while (chosen := self._choice.next()) is not None:
            with contextlib.suppress(ScheduleError):  # no runs left
                schedule = chosen.schedule(self._context.fit)
                if (made := self._admit(chosen.member, schedule, "bits", str(chosen.precision).upper())) is not None:
                    self._choice.note(made, chosen)
                    return made
        return None

    def _admit(self, member: Proposal, schedule: Schedule, arm: str, suffix: str) -> Proposal | None:
        label = f"{member.label}, {suffix}"
        if self._family == JOINT:  # whose labels begin with the search that proposed, which is not the member's
            label = f"{arm}: {label.removeprefix(member.label.partition(': ')[0] + ': ')}"
        return self._novelty.admit(schedule, family=self._family, label=label)
