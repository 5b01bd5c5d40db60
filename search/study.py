"""The one loop that every search runs in."""

from collections.abc import Callable, Sequence

from autotune.evaluators.evaluator import Evaluator
from autotune.search.archive import ParetoArchive
from autotune.search.budget import Spent
from autotune.search.clock import Clock
from autotune.search.families import make_searcher
from autotune.search.measurer import Measurer
from autotune.search.progress import CandidateEvent, Phase, Progress, SilentProgress
from autotune.search.searcher import Proposal, Result, SearchContext, Searcher
from autotune.search.study_plan import StudyPlan
from autotune.search.verification import Verification, verification_order
from autotune.spaces.column_fit import ColumnFit, FitColumn
from autotune.spaces.errors import EvaluatorError
from autotune.spaces.evaluation import Failure, Measurement
from autotune.spaces.front import BASELINE, RIVAL
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.study_record import Candidate, StudyState
from autotune.spaces.trace import Trace
from autotune.spaces.traced_run import N_TRACED, TRACE_LEVELS
from autotune.storage.database import Database

MAX_REPEATS = 1000
"""Known schedules in a row after which a searcher counts as exhausted."""

SAVE_EVERY_S = 1.0

MAX_RESERVE_SHARE = 0.5
"""At most this share of a wall-time budget is kept for the verification."""


class StudyLoop:
    """Runs a study that stands in the database, from its beginning or on from where it stopped.

    Resuming is running again: everything that was measured is found by its key, so that the searchers see the same
    history, at no cost. `used_s` is the wall time of earlier sessions; `clock` tells the seconds of this one.
    `interrupt` is polled between candidates; once true, the study verifies its picks and stops as INTERRUPTED.
    """

    def __init__(
        self,
        plan: StudyPlan,
        evaluator: Evaluator,
        database: Database,
        clock: Clock,
        *,
        used_s: float = 0.0,
        progress: Progress | None = None,
        interrupt: Callable[[], bool] = lambda: False,
    ) -> None:
        self._plan = plan
        self._evaluator = evaluator
        self._database = database
        self._clock = clock
        self._used_s = used_s
        self._progress = progress or SilentProgress()
        self._interrupt = interrupt
        self._measurer = Measurer(evaluator, database, clock)
        self._verification = Verification(
            plan.name,
            measurer=self._measurer,
            evaluator=evaluator,
            database=database,
            held_out=plan.held_out,
            settings=plan.verification,
        )
        self._archive = ParetoArchive(plan.objectives, plan.constraints)
        self._results: dict[str, Result] = {}
        self._network_calls = 0
        self._costs: list[float] = []
        self._saved_s = float("-inf")

    def run(self) -> StudyState:
        """Search, verify, draw; the state that the study ends in.

        Raises:
            EvaluatorError: the evaluator is broken, or the pipeline's default run can't be measured.
        """
        try:
            self._save(StudyState.RUNNING)
            stopped = self._search()
            stopped = self._verify() or stopped
            state = StudyState.INTERRUPTED if stopped else StudyState.DONE
        except BaseException:
            self._save(StudyState.INTERRUPTED)
            raise
        self._save(state)
        return state

    def _search(self) -> bool:
        """Try candidates until the budget is used; True if interrupted."""
        recorded = {c.number: c for c in self._database.load_study(self._plan.name).candidates}
        self._progress.on_phase(Phase.BASELINE, 1)
        condition = self._evaluator.condition
        default = canonical_schedule(Schedule(n_steps=condition.n_steps), self._evaluator.inventory)
        baseline = self._try(
            Proposal(schedule=default, family=BASELINE, label=f"default, {condition.n_steps} steps"), Phase.BASELINE
        )
        if isinstance(baseline.outcome, Failure):
            raise EvaluatorError(
                f"the pipeline's default run must be measurable; got {baseline.outcome.kind}: "
                f"{baseline.outcome.reason}; try a smaller resolution or batch"
            )
        context = SearchContext(
            condition=condition,
            inventory=self._evaluator.inventory,
            own_timesteps=self._evaluator.own_timesteps,
            fit=self._fit,
            trace=self._trace,
            objectives=self._plan.objectives,
            constraints=self._plan.constraints,
        )
        families = list(dict.fromkeys((RIVAL, self._plan.family)))
        for family in families:
            self._progress.on_phase(Phase.FEWER_STEPS if family == RIVAL else Phase.SEARCH)
            searcher = make_searcher(family, context, self._plan.seed)
            searcher.tell(list(self._results.values()))
            share = 1.0 if family == self._plan.family else self._plan.rival_share
            if self._run_family(searcher, family, share, recorded):
                return True
        return False

    def _run_family(self, searcher: Searcher, family: str, share: float, recorded: dict[int, Candidate]) -> bool:
        """Ask one searcher until its share of the budget is used or it has no more; True if interrupted."""
        phase = Phase.FEWER_STEPS if family == RIVAL else Phase.SEARCH
        before, n_known = self._spent(), 0
        while self._may_try_another() and n_known < MAX_REPEATS:
            number = len(self._results)
            # A resumed study keeps to the record, even where a new budget would have drawn the line elsewhere.
            if number in recorded and recorded[number].family != family:
                return False
            if number not in recorded and share < 1.0 and self._share_used(before, share):
                return False
            if self._interrupt():
                return True
            asked = searcher.ask(1)
            if not asked:
                return False
            if number in recorded and recorded[number].schedule_hash != asked[0].schedule_hash:
                searcher.tell(self._follow_record(recorded, phase))
            known = self._results.get(asked[0].schedule_hash)
            n_known = 0 if known is None else n_known + 1
            searcher.tell([known or self._try(asked[0], phase)])
        return False

    def _follow_record(self, recorded: dict[int, Candidate], phase: Phase) -> list[Result]:
        """Take in the rest of the record as it stands: this version of the searcher would have gone another way."""
        results = []
        while (candidate := recorded.get(len(self._results))) is not None:
            results.append(self._try(Proposal.of(candidate), phase))
        return results

    def _try(self, proposal: Proposal, phase: Phase) -> Result:
        """Measure the next candidate, or find it measured, and note it in the study."""
        plan, number = self._plan, len(self._results)
        measured = self._measurer.measure(proposal.schedule, proposal.schedule_hash, plan.calibration)
        result = Result(proposal=proposal, outcome=measured.outcome)
        self._database.add_candidate(
            plan.name,
            number=number,
            family=proposal.family,
            label=proposal.label,
            schedule=proposal.schedule,
            schedule_hash=proposal.schedule_hash,
            key=measured.evaluation.key,
        )
        self._results[proposal.schedule_hash] = result
        if not measured.reused and number > 0:  # the first one carries warm-up and the reference
            self._costs.append(measured.cost_s)
        measurement = result.measurement
        if number == 0 and measurement is not None:
            self._verification.note_baseline(measurement, measured, len(plan.calibration.prompts))
        calls = proposal.schedule.n_steps if measurement is None else measurement.network_calls
        self._network_calls += calls * len(plan.calibration.prompts)
        on_front = self._archive.add(result)
        self._save(StudyState.RUNNING)
        self._announce(phase, number, result, reused=measured.reused, on_front=on_front)
        return result

    def _fit(self, schedule: Schedule, column: FitColumn) -> ColumnFit:
        """Fit a column on the calibration prompts, in the time that is left; its network calls count."""
        limit = self._plan.budget.wall_s
        left_s = None if limit is None else max(0.0, limit - self._elapsed_s - self._reserve_s(limit))
        fit = self._evaluator.fit(schedule, column, self._plan.calibration, timeout_s=left_s)
        self._network_calls += fit.network_calls
        return fit

    def _trace(self) -> Trace:
        """Trace a few calibration prompts; the network calls count."""
        n = min(N_TRACED, len(self._plan.calibration.prompts))
        self._network_calls += n * TRACE_LEVELS
        return self._evaluator.trace(self._plan.calibration, n, TRACE_LEVELS)

    def _verify(self) -> bool:
        """Measure the front again on held-out prompts and draw its picks; True if interrupted.

        The baseline and the picks are measured even after an interrupt, which stops a study but should not leave it
        without a result; a second one raises KeyboardInterrupt wherever it hits.
        """
        plan = self._plan
        order = verification_order(self._database.load_study(plan.name), plan.verification.max_members)
        members = (*order.first, *order.others)
        self._progress.on_phase(Phase.VERIFICATION, len(members))
        stopped = False
        for i, candidate in enumerate(members):
            stopped = i >= len(order.first) and self._interrupt()
            if stopped or not (self._verification.is_stored(candidate) or self._fits(self._expected_s([candidate]))):
                break
            measured = self._verification.measure(candidate)
            self._save(StudyState.RUNNING)
            self._announce(
                Phase.VERIFICATION,
                candidate.number,
                Result(proposal=Proposal.of(candidate), outcome=measured.outcome),
                reused=measured.reused,
                on_front=True,
            )
        self._progress.on_phase(Phase.IMAGES)
        self._verification.draw_sheets(self._database.load_study(plan.name), lambda: self._fits(0.0))
        return stopped or self._interrupt()

    @property
    def _baseline(self) -> Measurement:
        measurement = next(iter(self._results.values())).measurement
        assert measurement is not None  # nothing else is tried before it succeeds
        return measurement

    def _expected_s(self, candidates: Sequence[Candidate]) -> float:
        return self._verification.expected_s([m for c in candidates if (m := c.calibration.measurement) is not None])

    def _reserve_s(self, limit_s: float) -> float:
        """Seconds to keep for verifying the front as it stands, the baseline with it; 0 if even that one won't fit."""
        if self._verification.expected_s([self._baseline]) > MAX_RESERVE_SHARE * limit_s:
            return 0.0
        members, n_max = self._archive.measurements, self._plan.verification.max_members
        expected_s = self._verification.expected_s([self._baseline, *members])
        # The next candidate may join the front and cost as much to verify as the others do on average.
        n_verified = 1 + min(len(members) + 1, n_max)
        return min(expected_s * n_verified / (1 + len(members)), MAX_RESERVE_SHARE * limit_s)

    @property
    def _elapsed_s(self) -> float:
        return self._used_s + self._clock.now()

    def _spent(self) -> Spent:
        return Spent(wall_s=self._elapsed_s, evaluations=len(self._results), network_calls=self._network_calls)

    def _fits(self, seconds: float) -> bool:
        limit = self._plan.budget.wall_s
        return limit is None or self._elapsed_s + seconds <= limit

    def _may_try_another(self) -> bool:
        budget = self._plan.budget
        if budget.wall_s is None:
            return budget.allows(self._spent())
        # Few candidates take longer than the baseline.
        next_s = max(self._baseline.wall_s, *self._costs[-8:], 0.0)
        return budget.allows(self._spent(), next_s=next_s, reserve_s=self._reserve_s(budget.wall_s))

    def _share_used(self, before: Spent, share: float) -> bool:
        """Whether the share of the budget that was left `before` a searcher began is used."""
        budget, spent = self._plan.budget, self._spent()
        if budget.evaluations is not None and spent.evaluations - before.evaluations >= max(
            1, int(share * budget.evaluations)
        ):
            return True
        if budget.network_calls is not None and spent.network_calls >= share * budget.network_calls:
            return True
        return budget.wall_s is not None and spent.wall_s - before.wall_s >= share * (
            (1.0 - MAX_RESERVE_SHARE) * budget.wall_s - before.wall_s
        )

    def _save(self, state: StudyState) -> None:
        """Note the time used; while the study runs at most once a second."""
        now = self._clock.now()
        if state is not StudyState.RUNNING or now - self._saved_s >= SAVE_EVERY_S:
            self._database.update_study(self._plan.name, state=state, wall_s=self._elapsed_s)
            self._saved_s = now

    def _announce(self, phase: Phase, number: int, result: Result, *, reused: bool, on_front: bool) -> None:
        self._progress.on_candidate(
            CandidateEvent(
                phase=phase,
                number=number,
                proposal=result.proposal,
                outcome=result.outcome,
                reused=reused,
                on_front=on_front,
                elapsed_s=self._elapsed_s,
                used_fraction=self._plan.budget.used_fraction(self._spent()),
                front_size=len(self._archive),
                hypervolume=self._archive.hypervolume,
            )
        )
