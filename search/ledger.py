"""The candidates of a study in order: numbered, kept in the database, and what follows from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from autotune.search.archive import ParetoArchive
from autotune.search.hash_index import HashIndex
from autotune.search.ladder import Ladder
from autotune.search.searcher import Proposal, Result
from autotune.search.study_plan import StudyPlan
from autotune.spaces.evaluation import Failure, Measurement
from autotune.spaces.front import RIVAL
from autotune.spaces.given_schedule import given_hashes
from autotune.spaces.study_record import Candidate, StudyRecord
from autotune.storage.database import Database
from autotune.storage.studies import CandidateEntry

PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """A candidate with its number, its result, what a searcher is told of it, and whether it stands on the front."""

    number: int
    result: Result
    told: Result
    on_front: bool


class Ledger:
    """Takes the candidates of a study in, one after the other; holds no more of them than their hashes and the front.

    Candidates that were measured on all calibration prompts stand on the front and are what the ladder compares with;
    of the others, which it stopped before, a searcher is told an estimate for all prompts.
    """

    def __init__(self, plan: StudyPlan, database: Database, ladder: Ladder) -> None:
        self._plan, self._database, self._ladder = plan, database, ladder
        self._numbers = HashIndex()
        self.archive = ParetoArchive(plan.objectives, plan.constraints)
        self._rivals = ParetoArchive(plan.objectives, plan.constraints)

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, schedule_hash: str) -> bool:
        return schedule_hash in self._numbers

    def add(self, settled: Sequence[tuple[Proposal, str, Measurement | Failure]]) -> list[Noted]:
        """Number proposals with the keys of their evaluations and their outcomes, and note them in the database."""
        first = len(self._numbers)
        entries = [
            CandidateEntry(
                number=first + i,
                family=proposal.family,
                label=proposal.label,
                schedule=proposal.schedule,
                schedule_hash=proposal.schedule_hash,
                key=key,
            )
            for i, (proposal, key, _) in enumerate(settled)
        ]
        self._database.add_candidates(self._plan.name, entries)
        return [self.note(proposal, outcome) for proposal, _, outcome in settled]

    def note(self, proposal: Proposal, outcome: Measurement | Failure) -> Noted:
        """Take in a candidate that the database has already."""
        number = self._numbers.add(proposal.schedule_hash)
        result = Result(proposal=proposal, outcome=outcome)
        on_front = False
        if isinstance(outcome, Measurement) and self._is_whole(outcome):
            self._ladder.note(outcome)
            on_front = self.archive.add(result)
            if proposal.family == RIVAL:
                self._rivals.add(result)
        return Noted(number=number, result=result, told=self._told(result), on_front=on_front)

    def number(self, proposal: Proposal) -> int:
        """The number of a candidate."""
        number = self._numbers.find(proposal.schedule_hash)
        if number is None:
            raise KeyError(proposal.schedule_hash)
        return number

    def result(self, proposal: Proposal) -> Result:
        """What a searcher is told of a candidate."""
        record = self._database.load_study(self._plan.name, numbers=[self.number(proposal)])
        return self._result(record.candidates[0])

    def results(self) -> Iterator[list[Result]]:
        """What a searcher is told of all candidates so far, page by page."""
        page: list[Result] = []
        so_far = islice(self._database.iterate_candidates(self._plan.name, page=PAGE), len(self._numbers))
        for candidate in so_far:
            page.append(self._result(candidate))
            if len(page) == PAGE:
                yield page
                page = []
        if page:
            yield page

    def leaders(self) -> StudyRecord:
        """The study with no other candidates than the baseline, those given, the front, and that of the rivals."""
        members = (*self.archive.members, *self._rivals.members)
        given = {n for h in given_hashes(self._plan.given) if (n := self._numbers.find(h)) is not None}
        return self._database.load_study(self._plan.name, numbers={0, *map(self.number, members), *given})

    def _result(self, candidate: Candidate) -> Result:
        outcome = candidate.calibration.outcome
        assert outcome is not None  # the database gives finished candidates only
        return self._told(Result(proposal=Proposal.of(candidate), outcome=outcome))

    def _told(self, result: Result) -> Result:
        measurement = result.measurement
        if measurement is None or self._is_whole(measurement):
            return result
        return Result(proposal=result.proposal, outcome=self._ladder.estimate(measurement))

    def _is_whole(self, measurement: Measurement) -> bool:
        return measurement.n_prompts == len(self._plan.calibration.prompts)
