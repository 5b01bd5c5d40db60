"""The one loop that every search runs in."""

import contextlib
import math
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from autotune.evaluators.job import SheetJob
from autotune.evaluators.pool import WorkerPool
from autotune.search.budget import Spent
from autotune.search.clock import Clock
from autotune.search.dispatcher import Dispatcher
from autotune.search.exploration import Exploration
from autotune.search.heartbeat import Heartbeat
from autotune.search.ladder import Ladder
from autotune.search.ledger import Ledger
from autotune.search.progress import CandidateEvent, Phase, Progress, SilentProgress
from autotune.search.searcher import Proposal, Result, SearchContext
from autotune.search.searcher_jobs import SearcherJobs
from autotune.search.spending import Spending
from autotune.search.study_plan import StudyPlan, study_phases
from autotune.search.verification import MARGIN, N_SHEETS, Verification, verification_order
from autotune.search.within_budget import BudgetSpentError
from autotune.spaces.errors import EvaluatorError
from autotune.spaces.evaluation import Failure
from autotune.spaces.front import BASELINE, baseline_of, pick, study_front
from autotune.spaces.given_schedule import given_hashes
from autotune.spaces.objective import needs_cost_model
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.study_record import Candidate, StudyState
from autotune.spaces.worst_prompts import shown_prompts
from autotune.storage.database import Database

SAVE_EVERY_S = 1.0

UNUSED = 0.05
"""Share of the budget from which on it is told that the search ended before."""

MAX_RESERVE_SHARE = 0.5
"""At most this share of the time that is left after the default run is kept for the verification."""


class StudyLoop:
    """Runs a study that stands in the database, from its beginning or on from where it stopped.

    Resuming is running again: what the record holds is taken from there, so that the searchers see the same history, at
    no cost. `used` is what earlier sessions took; `clock` tells the seconds of this one. `interrupt` is polled between
    candidates; once true, the study verifies its picks and stops as INTERRUPTED. `report_s` seconds of the budget are
    left over for what the caller does afterwards.
    """

    def __init__(
        self,
        plan: StudyPlan,
        pool: WorkerPool,
        database: Database,
        clock: Clock,
        *,
        used: Spent | None = None,
        report_s: float = 0.0,
        progress: Progress | None = None,
        interrupt: Callable[[], bool] = lambda: False,
    ) -> None:
        self._plan, self._pool, self._database, self._clock = plan, pool, database, clock
        self._progress = progress or SilentProgress()
        self._interrupt = interrupt
        self._report_s = report_s
        self._spending = Spending(plan.budget, clock.now, pool.n_workers, used or Spent())
        self._dispatcher = Dispatcher(pool, database, clock.now)
        self._jobs = SearcherJobs(plan, pool, database, self._dispatcher, self._spending, self._has_time)
        self._verification = Verification(plan.held_out, plan.verification, pool.condition.batch_size)
        n_prompts = len(plan.calibration.prompts)
        self._ladder = Ladder(n_prompts, plan.objectives, plan.constraints, plan.ladder)
        self._ledger = Ledger(plan, database, self._ladder)
        self._saved_s = float("-inf")
        self._most_reserve_s = 0.0
        self._verified: set[str] = set()
        self._is_closing = False  # nothing will be verified any more

    def run(self) -> StudyState:
        """Search, verify, draw; the state that the study ends in.

        Raises:
            StudyBusyError: another process runs this study.
            EvaluatorError: the evaluator is broken, or the pipeline's default run can't be measured.
        """
        self._database.claim_study(self._plan.name)
        with Heartbeat(self._database):
            try:
                self._save(StudyState.RUNNING)
                exploration = self._exploration()
                stopped = self._search(exploration)
                stopped = self._verify() or stopped
                # What verification took less than was kept for it is searched with, as long as that finds anything.
                while not stopped and self._spending.left_s < math.inf and exploration.can_go_on:
                    self._progress.on_phase(Phase.SEARCH)
                    stopped = exploration.go_on()
                    stopped = self._verify() or stopped
                self._draw_sheets()
                self._is_closing = True
                if not stopped and self._spending.left_s < math.inf and exploration.can_go_on:
                    self._progress.on_phase(Phase.SEARCH)
                    stopped = exploration.go_on()
                if exploration.is_exhausted and not stopped and self._spending.used_fraction < 1.0 - UNUSED:
                    self._progress.on_exhausted()
                stopped = stopped or self._interrupt()
                state = StudyState.INTERRUPTED if stopped else StudyState.DONE
            except BaseException:
                self._save(StudyState.INTERRUPTED)
                raise
            self._save(state)
        return state

    def _exploration(self) -> Exploration:
        return Exploration(
            self._plan,
            self._pool,
            dispatcher=self._dispatcher,
            ladder=self._ladder,
            ledger=self._ledger,
            spending=self._spending,
            record=self._database.iterate_candidates(self._plan.name),
            has_time=self._has_time,
            interrupt=self._interrupt,
            announce=self._announce,
        )

    def _search(self, exploration: Exploration) -> bool:
        """Try candidates until the budget is used; True if interrupted."""
        self._progress.on_phase(Phase.BASELINE, 1)
        default = canonical_schedule(Schedule(n_steps=self._pool.condition.n_steps), self._pool.inventory)
        label = f"default, {default.n_steps} steps"
        measured = exploration.measure_baseline(Proposal(schedule=default, family=BASELINE, label=label))
        if isinstance(measured.outcome, Failure):
            raise EvaluatorError(
                f"the pipeline's default run must be measurable; got {measured.outcome.kind}: "
                f"{measured.outcome.reason}; try a smaller resolution or batch"
            )
        self._baseline = measured.outcome
        self._verification.note_baseline(measured)
        self._jobs.note_baseline(self._baseline)
        self._most_reserve_s = MAX_RESERVE_SHARE * self._spending.left_s
        if needs_cost_model(self._plan.objectives, self._plan.constraints):
            self._dispatcher.cost_model = self._jobs.cost_model()
        context = SearchContext(
            condition=self._pool.condition,
            inventory=self._pool.inventory,
            own_timesteps=self._pool.own_timesteps,
            fit=lambda schedule, column: self._jobs.fit(schedule, column, self._reserve_s()),
            quick_fit=lambda schedule, column: self._jobs.fit(schedule, column, self._reserve_s(), quick=True),
            trace=self._jobs.trace if self._pool.converges else None,
            edge_costs=self._jobs.edge_costs if self._jobs.affords_edges() else None,
            branch_tables=self._jobs.branch_tables if self._jobs.affords_recording() else None,
            segment_costs=self._jobs.segment_costs if self._jobs.affords_recording() else None,
            cost_model=self._jobs.cost_model if self._jobs.affords_costs() else None,
            objectives=self._plan.objectives,
            constraints=self._plan.constraints,
            guided=self._pool.guided,
            converges=self._pool.converges,
            given=self._plan.given,
            granularity=self._plan.granularity,
        )
        if "latency" in self._plan.objectives and context.cost_model is not None:
            with contextlib.suppress(BudgetSpentError):
                self._dispatcher.cost_model = context.cost_model()
        for family, phase, share in study_phases(self._plan):
            self._progress.on_phase(phase)
            of_share = context
            if phase is Phase.POLICIES and not self._jobs.affords_edges(share):
                of_share = replace(context, edge_costs=None)  # those that need no calibration
            if exploration.run(family, of_share, phase, share):
                return True
        return False

    def _verify(self) -> bool:
        """Measure the front again on held-out prompts; True if interrupted.

        The baseline and the picks are measured even after an interrupt, which stops a study but should not leave it
        without a result; a second one raises KeyboardInterrupt wherever it hits. The baseline comes alone: whoever
        measures it first makes the reference for all workers.
        """
        plan, dispatcher = self._plan, self._dispatcher
        order = verification_order(self._ledger.leaders(), plan.verification.max_members, given_hashes(plan.given))
        waiting = deque(c for c in (*order.first, *order.others) if c.schedule_hash not in self._verified)
        self._progress.on_phase(Phase.VERIFICATION, len(waiting))
        n_done, n_all, stopped = 0, len(waiting), False
        running: dict[str, Candidate] = {}
        while True:
            if waiting and not running:
                dispatcher.await_worker()
            while waiting and dispatcher.n_free and not (running and n_done == 0):
                candidate = waiting[0]
                stopped = n_all - len(waiting) >= len(order.first) and self._interrupt()
                if stopped or not self._may_verify(candidate):
                    waiting.clear()
                    break
                running[candidate.schedule_hash] = waiting.popleft()
                dispatcher.submit([self._verification.request(candidate)])
            if not running:
                return stopped
            for measured in dispatcher.collect():
                candidate = running.pop(measured.request.schedule_hash)
                n_done += 1
                self._verification.note(candidate, measured)
                self._verified.add(candidate.schedule_hash)
                self._database.set_held_out(plan.name, schedule_hash=candidate.schedule_hash, key=measured.key)
                self._save(StudyState.RUNNING)
                result = Result(proposal=Proposal.of(candidate), outcome=measured.outcome)
                self._announce(Phase.VERIFICATION, candidate.number, result, reused=measured.reused)

    def _may_verify(self, candidate: Candidate) -> bool:
        key = self._dispatcher.key(candidate.schedule_hash, self._plan.held_out)
        if self._database.find_evaluations([key]):
            return True
        measurement = candidate.calibration.measurement
        return self._fits(self._verification.expected_s([] if measurement is None else [measurement]))

    def _draw_sheets(self) -> None:
        """Draw the missing ones of the contact sheets of the baseline and the picks, while there is time."""
        self._progress.on_phase(Phase.IMAGES)
        record, held_out = self._ledger.leaders(), self._plan.held_out
        baseline = baseline_of(record)
        picks = pick(study_front(record), record).values()
        chosen = [*([baseline] if baseline else []), *picks]
        indices = shown_prompts(record, picks, len(held_out.prompts))
        shown = held_out.only(indices)
        for candidate in {c.number: c for c in chosen}.values():
            name = f"sheet-{self._dispatcher.key(candidate.schedule_hash, shown)}"
            if self._database.artifacts.load(name) is None:
                measurement = candidate.calibration.measurement
                assert measurement is not None  # it stands on the front
                if not self._fits(self._verification.sheet_s(measurement, self._pool.n_workers)):
                    return
                job = SheetJob(schedule=candidate.schedule, fidelity=held_out, indices=indices)
                data = self._dispatcher.call(job)
                assert isinstance(data, bytes)
                self._database.artifacts.save(name, data, "image/png")
            self._database.set_image(self._plan.name, schedule_hash=candidate.schedule_hash, artifact=name)

    def _reserve_s(self) -> float:
        """Seconds to keep for verifying the front as it stands, the baseline with it, and for what comes after."""
        most_s = self._most_reserve_s
        n_workers = self._pool.n_workers
        if self._is_closing or self._verification.expected_s([self._baseline]) > most_s:
            return self._report_s  # nothing more will be verified
        archive, n_max = self._ledger.archive, self._plan.verification.max_members
        pairs = zip(archive.members, archive.measurements, strict=True)
        members = [m for member, m in pairs if member.schedule_hash not in self._verified]
        first = [] if self._verified else [self._baseline]
        waiting = [*first, *members] or archive.measurements or [self._baseline]
        sheets_s = N_SHEETS * self._verification.sheet_s(self._baseline, n_workers)
        # The next candidate may join the front and cost as much to verify as the others do on average.
        share = (len(first) + min(len(members) + 1, n_max)) / len(waiting)
        return self._report_s + sheets_s + min(share * self._verification.expected_s(waiting, n_workers), most_s)

    def _fits(self, seconds: float) -> bool:
        return seconds + self._report_s <= self._spending.left_s

    def _has_time(self, seconds: float | None = None) -> bool:
        """Whether a measurement of so many seconds, by default one more candidate, leaves time to verify the front."""
        left_s = self._spending.left_s
        if left_s == math.inf:
            return True
        if seconds is None:
            # Few candidates take longer than the baseline, and they begin on fewer prompts.
            seconds = self._spending.next_s(self._baseline.wall_s * self._ladder.rungs[0] / self._baseline.n_prompts)
        return MARGIN * seconds + self._reserve_s() <= left_s

    def _save(self, state: StudyState) -> None:
        """Note the time used; while the study runs at most once a second."""
        now = self._clock.now()
        if state is not StudyState.RUNNING or now - self._saved_s >= SAVE_EVERY_S:
            spent = self._spending.spent
            self._database.update_study(self._plan.name, state=state, wall_s=spent.wall_s, device_s=spent.worker_s)
            self._saved_s = now

    def _announce(self, phase: Phase, number: int, result: Result, *, reused: bool, on_front: bool = True) -> None:
        self._save(StudyState.RUNNING)
        archive = self._ledger.archive
        self._progress.on_candidate(
            CandidateEvent(
                phase=phase,
                number=number,
                proposal=result.proposal,
                outcome=result.outcome,
                reused=reused,
                on_front=on_front,
                elapsed_s=self._spending.spent.wall_s,
                used_fraction=self._spending.used_fraction,
                front_size=len(archive),
                hypervolume=archive.hypervolume,
            )
        )
