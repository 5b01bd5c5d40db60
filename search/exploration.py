"""The search of a study: proposals become candidates, on one worker or on many."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from autotune.evaluators.pool import WorkerPool
from autotune.search.budget import Spent
from autotune.search.dispatcher import Dispatcher, Measured, Request
from autotune.search.families import make_searcher
from autotune.search.ladder import Ladder
from autotune.search.ledger import Ledger
from autotune.search.precision_choice import wants_precision
from autotune.search.progress import Phase
from autotune.search.searcher import Proposal, Result, SearchContext, Searcher
from autotune.search.spending import Spending
from autotune.search.study_plan import StudyPlan
from autotune.search.table_members import TableMembersSearcher
from autotune.search.within_budget import WithinBudget
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.schedule import Schedule
from autotune.spaces.study_record import Candidate

MAX_REPEATS = 1000
"""Known schedules in a row after which a searcher counts as exhausted."""


class Announce(Protocol):
    """Tells the onlooker of a candidate."""

    def __call__(self, phase: Phase, number: int, result: Result, *, reused: bool, on_front: bool) -> None:
        """A candidate is done."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Climb:
    """A proposal on its way up the ladder, and what it took so far, in seconds of a worker."""

    proposal: Proposal
    cost_s: float = 0.0


class Exploration:
    """Asks searchers, keeps the workers busy, and tells the searchers what came of it.

    With one worker every proposal is measured before the next one is asked for, so that a study is a function of its
    seed. With more, as many proposals are under way as there are workers, and candidates are numbered as they end.
    """

    def __init__(
        self,
        plan: StudyPlan,
        pool: WorkerPool,
        *,
        dispatcher: Dispatcher,
        ladder: Ladder,
        ledger: Ledger,
        spending: Spending,
        record: Iterator[Candidate],
        has_time: Callable[[float | None], bool],
        interrupt: Callable[[], bool],
        announce: Announce,
    ) -> None:
        self._plan, self._pool = plan, pool
        self._dispatcher, self._ladder, self._ledger, self._spending = dispatcher, ladder, ledger, spending
        self._has_time, self._interrupt, self._announce = has_time, interrupt, announce
        self._record = _Record(record)
        self._climbs: dict[str, _Climb] = {}
        self._is_full = False
        self._last: tuple[Searcher, Phase] | None = None
        self._is_dry = False

    def measure_baseline(self, proposal: Proposal) -> Measured:
        """Measure the first candidate, on all prompts, while nothing else runs: it makes the reference for all."""
        recorded = self._record.take()
        request = _request(proposal, self._plan.calibration)
        self._spending.begin(self._n_calls(proposal.schedule) * len(self._plan.calibration.prompts))
        self._dispatcher.submit([request])
        (measured,) = self._dispatcher.collect()
        if recorded is None:
            self._add([(proposal, measured)], Phase.BASELINE)
        else:
            noted = self._ledger.note(proposal, measured.outcome)
            self._announce(Phase.BASELINE, 0, noted.result, reused=True, on_front=noted.on_front)
        return measured

    def run(self, family: str, context: SearchContext, phase: Phase, share: float) -> bool:
        """Ask one searcher until its share of the budget is used or it has no more; True if interrupted."""
        quantize = wants_precision(context)
        correct = quantize if self._plan.correct is None else self._plan.correct
        if self._plan.correct is False:
            context = context.without_cache_corrections()
        searcher: Searcher = make_searcher(family, context, self._plan.seed)
        if (correct or quantize) and phase is Phase.SEARCH:
            searcher = TableMembersSearcher(searcher, context, family, correct=correct, quantize=quantize)
        searcher = WithinBudget(searcher)
        for page in self._ledger.results():
            searcher.tell(page)
        before = self._spending.spent
        if phase is Phase.FEWER_STEPS:
            before = replace(before, network_calls=0)  # their share has room for the default run and a cost model
        left_over = self._replay(searcher, family, phase)
        if self._record.peek() is not None:
            return False  # the record goes on with another family, whatever a new budget would have allowed
        self._last = searcher, phase
        return self._ask(searcher, phase, left_over, before, share)

    def go_on(self) -> bool:
        """Ask the last searcher again, with whatever is left of the budget; True if interrupted."""
        assert self._last is not None  # `can_go_on`
        return self._ask(*self._last, [], self._spending.spent, 1.0)

    @property
    def is_exhausted(self) -> bool:
        """Whether the last searcher has no schedule that was not tried."""
        return self._is_dry

    @property
    def can_go_on(self) -> bool:
        """Whether the last searcher may have more, and the budget room for it."""
        return self._last is not None and not self._is_dry and self._wanted(self._spending.spent, 1.0) > 0

    def _ask(self, searcher: Searcher, phase: Phase, left_over: list[Proposal], before: Spent, share: float) -> bool:
        n_known, is_dry = 0, False
        while True:
            stopped = self._interrupt()
            wanted = 0 if stopped or is_dry or n_known >= MAX_REPEATS else self._wanted(before, share)
            if wanted and not self._climbs:
                self._dispatcher.await_worker()
            # What climbs on stored rungs keeps no worker busy; asking for more meanwhile would change their order.
            room = min(wanted, self._dispatcher.n_free, self._pool.n_workers - len(self._climbs))
            if room:
                asked, left_over = left_over or searcher.ask(room), []
                is_dry = not asked
                n_new = self._begin(asked, searcher)
                n_known = 0 if n_new else n_known + len(asked)
                if asked and not n_new:
                    continue
            if not self._climbs:
                self._is_dry = is_dry or n_known >= MAX_REPEATS
                return stopped
            results = self._collect(phase)
            if results:
                searcher.tell(results)
                is_dry = False

    def _replay(self, searcher: Searcher, family: str, phase: Phase) -> list[Proposal]:
        """Take the family's part of the record in; what was asked for and is not in it is given back.

        Where the searcher does not ask for what the record holds next (it was told in another order, or this version
        goes another way), the rest is told to it as it stands.
        """
        left_over: list[Proposal] = []
        while (candidate := self._record.peek()) is not None and candidate.family == family:
            if not left_over:
                asked = searcher.ask(1)
                if asked and asked[0].schedule_hash in self._ledger:
                    searcher.tell([self._ledger.result(asked[0])])
                    continue
                if not asked or asked[0].schedule_hash != candidate.schedule_hash:
                    left_over = asked or [Proposal.of(candidate)]
            self._record.take()
            searcher.tell([self._note(candidate, phase)])
        return [p for p in left_over if p.schedule_hash not in self._ledger]

    def _note(self, candidate: Candidate, phase: Phase) -> Result:
        """Take in a candidate of the record."""
        outcome = candidate.calibration.outcome
        assert outcome is not None  # the record holds finished candidates only
        n_prompts = outcome.n_prompts if isinstance(outcome, Measurement) else self._ladder.rungs[0]
        self._spending.recall(self._n_calls(candidate.schedule) * n_prompts)
        noted = self._ledger.note(Proposal.of(candidate), outcome)
        self._announce(phase, noted.number, noted.result, reused=True, on_front=noted.on_front)
        return noted.told

    def _wanted(self, before: Spent, share: float) -> int:
        """How many proposals the budget has room for, at most as many as there are workers."""
        wanted = self._pool.n_workers
        budget, spent = self._spending.budget, self._spending.spent
        if self._is_full or not self._has_time(None):
            return 0
        if budget.evaluations is not None:
            wanted = min(wanted, budget.evaluations - spent.evaluations)
        if share < 1.0:
            if budget.evaluations is not None:
                used = spent.evaluations - before.evaluations
                wanted = min(wanted, max(1, int(share * budget.evaluations)) - used)
            if budget.network_calls is not None:
                used = spent.network_calls - before.network_calls
                if used >= share * budget.network_calls:
                    return 0
            if spent.wall_s - before.wall_s >= share * self._spending.search_s(before):
                return 0
        return max(0, wanted)

    def _begin(self, asked: Sequence[Proposal], searcher: Searcher) -> int:
        """Begin to measure proposals; what is known is told at once. Returns how many are new."""
        known = [p for p in asked if p.schedule_hash in self._ledger]
        if known:
            searcher.tell([self._ledger.result(p) for p in known])
        under_way = {climb.proposal.schedule_hash for climb in self._climbs.values()} if len(self._climbs) else set()
        new = [p for p in asked if p.schedule_hash not in self._ledger and p.schedule_hash not in under_way]
        whole = {self._dispatcher.key(p.schedule_hash, self._plan.calibration): p for p in new}
        stored = self._dispatcher.find(list(whole)) if len(self._ladder.rungs) > 1 else {}
        requests = []
        for key, proposal in whole.items():
            n_prompts = self._ladder.rungs[-1 if key in stored else 0]
            if not self._spending.begin(self._n_calls(proposal.schedule) * n_prompts):
                self._is_full = True
                break
            request = _request(proposal, self._plan.calibration.first(n_prompts))
            self._climbs[self._dispatcher.key(proposal.schedule_hash, request.fidelity)] = _Climb(proposal=proposal)
            requests.append(request)
        self._dispatcher.submit(requests)
        return len(new)

    def _collect(self, phase: Phase) -> list[Result]:
        """Wait for what ends next; what has ended for good becomes a candidate, the rest climbs on."""
        left_s = self._spending.left_s
        ended = self._dispatcher.collect(None if left_s == float("inf") else max(0.0, left_s))
        if not ended:  # the time is over, and a worker does not come back
            self._dispatcher.abandon()
            self._climbs.clear()
            self._is_full = True
        settled = []
        for measured in ended:
            climb = self._climbs.pop(measured.key)
            if measured.request.lower is None and not measured.reused:
                self._spending.note_seconds(measured.cost_s)
            climb = replace(climb, cost_s=climb.cost_s + measured.cost_s)
            if not self._climb_on(climb, measured):
                settled.append((climb.proposal, measured))
        return self._add(settled, phase)

    def _climb_on(self, climb: _Climb, measured: Measured) -> bool:
        """Go to the next rung, if the ladder and the budget let the candidate."""
        outcome = measured.outcome
        if not isinstance(outcome, Measurement):
            return False
        rung = self._ladder.judge(outcome)
        if rung is None:
            return False
        if not self._has_time(climb.cost_s * (rung - outcome.n_prompts) / outcome.n_prompts):
            return False
        if not self._spending.extend(self._n_calls(climb.proposal.schedule) * (rung - outcome.n_prompts)):
            self._is_full = True
            return False
        request = _request(climb.proposal, self._plan.calibration.first(rung), outcome)
        self._climbs[self._dispatcher.key(climb.proposal.schedule_hash, request.fidelity)] = climb
        self._dispatcher.submit([request])
        return True

    def _add(self, settled: Sequence[tuple[Proposal, Measured]], phase: Phase) -> list[Result]:
        if not settled:
            return []
        noted = self._ledger.add([(proposal, m.key, m.outcome) for proposal, m in settled])
        for (_, measured), entry in zip(settled, noted, strict=True):
            self._announce(phase, entry.number, entry.result, reused=measured.reused, on_front=entry.on_front)
        return [entry.told for entry in noted]

    def _n_calls(self, schedule: Schedule) -> int:
        if schedule.time is not None:
            return schedule.n_steps
        return len(self._pool.own_timesteps(schedule.n_steps))


class _Record:
    """What earlier sessions have recorded, one candidate ahead; what this one adds is not read again."""

    def __init__(self, candidates: Iterator[Candidate]) -> None:
        self._candidates = candidates
        self._next = next(candidates, None)

    def peek(self) -> Candidate | None:
        """The next candidate, None at the end."""
        return self._next

    def take(self) -> Candidate | None:
        """The next candidate, which is gone then."""
        taken = self._next
        if taken is not None:
            self._next = next(self._candidates, None)
        return taken


def _request(proposal: Proposal, fidelity: Fidelity, lower: Measurement | None = None) -> Request:
    return Request(schedule=proposal.schedule, schedule_hash=proposal.schedule_hash, fidelity=fidelity, lower=lower)
