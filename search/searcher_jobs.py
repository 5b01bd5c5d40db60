"""What searchers may ask of the workers besides scores: fits, traces, costs of reuses, branch tables, cost models."""

import logging
import statistics
from collections.abc import Callable
from dataclasses import replace

from autotune.evaluators.job import (
    COST_MODEL_RUNS,
    BranchTablesJob,
    CostModelJob,
    EdgeCostJob,
    FitJob,
    SegmentCostJob,
    TraceJob,
)
from autotune.evaluators.pool import WorkerPool
from autotune.search.dispatcher import Dispatcher
from autotune.search.spending import Spending
from autotune.search.study_plan import StudyPlan
from autotune.search.within_budget import BudgetSpentError
from autotune.spaces.branch_tables import BranchTables
from autotune.spaces.column_fit import ColumnFit, FitTarget
from autotune.spaces.cost_model import CostModel
from autotune.spaces.edge_costs import EdgeCosts, replayed_calls
from autotune.spaces.errors import FitMemoryError
from autotune.spaces.evaluation import Measurement
from autotune.spaces.schedule import Schedule
from autotune.spaces.segment_costs import SegmentCosts
from autotune.spaces.trace import Trace
from autotune.spaces.traced_run import N_TRACED, TRACE_LEVELS
from autotune.storage.database import Database
from autotune.storage.study_costs import load_costs, save_costs

_LOG = logging.getLogger(__name__)

MAX_COST_SHARE = 0.125
"""At most this share of a study's time, network calls or evaluations goes into a cost model that is not asked for."""

COST_ROUNDS = (2, 3, 4)
"""On mini-sd, on a shared machine, one round is off by 1.6 % by its luck with the runs, two by 1.1, four by .8."""

MIN_TIMED = 4
"""A cost model is measured on batches of so many images at least, unless a whole one has fewer."""

MAX_RECORDING_SHARE = 0.25
"""At most this share of a study's time or network calls goes into what plans are made from."""

SLOWER = 1.5
"""So much longer than in a plain run a call takes whose features are recorded (mini-flux, one core)."""

MAX_FIT_SHARE = 0.25
"""At most this share of a study's time or network calls goes into one fit."""

GRADIENT_RUNS = 3
"""What a run with gradients counts as."""


class SearcherJobs:
    """Does these jobs for the searchers of one study, within its budget.

    All but fits, which adapt to what is left, raise `BudgetSpentError` where too few network calls are left, or too
    little time: `has_time` tells whether there is so much, in seconds.
    """

    def __init__(
        self,
        plan: StudyPlan,
        pool: WorkerPool,
        database: Database,
        dispatcher: Dispatcher,
        spending: Spending,
        has_time: Callable[[float], bool],
    ) -> None:
        self._plan, self._pool, self._database = plan, pool, database
        self._dispatcher, self._spending, self._has_time = dispatcher, spending, has_time
        self._costs: CostModel | None = None
        self._edges: EdgeCosts | None = None
        self._unfit: FitMemoryError | None = None
        self._image_s = 0.0

    def note_baseline(self, baseline: Measurement) -> None:
        """Learn what the default run takes, and from it what jobs may take."""
        self._image_s = statistics.median(baseline.baseline_latency_ms) / 1000.0

    def _spend(self, network_calls: int, what: str) -> None:
        expected_s = self._expected_s(network_calls)
        if expected_s > 0.0 and not self._has_time(expected_s):
            left_s = self._spending.left_s
            raise BudgetSpentError(
                f"{what} takes some {expected_s:.0f} s, and of the budget of time {left_s:.0f} s are left; "
                "raise --budget, or choose another family or objective"
            )
        if not self._spending.extend(network_calls):
            limit, spent = self._plan.budget.network_calls, self._spending.spent.network_calls
            raise BudgetSpentError(
                f"{what} takes {network_calls} network calls, and of the budget of {limit} there are {spent} used; "
                "raise --network-calls, or choose another family or objective"
            )

    def fit(self, schedule: Schedule, column: FitTarget, reserve_s: float, *, quick: bool = False) -> ColumnFit:
        """Fit a column on the calibration prompts, in the time that is left less a reserve; its calls count.

        It leaves as many network calls as it takes to score what comes of it, and takes at most `MAX_FIT_SHARE` of the
        budget. A gradient once begun is not interrupted, so that the time of one is kept back, too.

        Raises:
            ScheduleError: the column can't be fitted to this schedule, or too little of the budget is left.
            FitMemoryError: memory is too short. That is said once in the log, and nothing is fitted any more.
        """
        if self._unfit is not None:
            raise self._unfit
        calibration = self._plan.calibration
        runs = GRADIENT_RUNS * len(calibration.prompts) * schedule.n_steps / self._pool.condition.n_steps
        left_s = max(0.0, self._spending.left_s - reserve_s - runs * self._image_s)
        left_s = min(left_s, MAX_FIT_SHARE * self._spending.total_s)
        limit, spent = self._plan.budget.network_calls, self._spending.spent
        n_scored, calls = len(calibration.prompts), None
        if limit is not None:
            calls = int(min(limit - spent.network_calls - n_scored * schedule.n_steps, MAX_FIT_SHARE * limit))
        job = FitJob(
            schedule=schedule,
            column=column,
            fidelity=calibration,
            timeout_s=left_s if left_s < float("inf") else None,
            max_image_runs=None if calls is None else calls // schedule.n_steps,
            quick=quick,
        )
        try:
            fit = self._dispatcher.call(job)
        except FitMemoryError as error:
            self._unfit = error
            self._spending.note_calls(n_scored * schedule.n_steps)  # some were made
            _LOG.warning("nothing is fitted in this study: %s", error)
            raise
        assert isinstance(fit, ColumnFit)
        self._spending.note_calls(fit.network_calls)
        return fit

    def trace(self) -> Trace:
        """Trace a few calibration prompts; the network calls count."""
        n = min(N_TRACED, len(self._plan.calibration.prompts))
        self._spend(n * TRACE_LEVELS, "a trace")
        job = TraceJob(fidelity=self._plan.calibration, n_prompts=n, n_levels=TRACE_LEVELS)
        trace = self._dispatcher.call(job)
        assert isinstance(trace, Trace)
        return trace

    def _edge_calls(self, n_prompts: int) -> int:
        n_calls = len(self._pool.own_timesteps(self._pool.condition.n_steps))
        return n_prompts * n_calls * (1 + len(replayed_calls(n_calls)))

    def affords_edges(self, share: float = MAX_RECORDING_SHARE) -> bool:
        """Whether measuring edges takes at most a share of the budget of network calls, and of time."""
        return self._affords(self._edge_calls(N_TRACED), share)

    def edge_costs(self) -> EdgeCosts:
        """Measure edges once, on a few calibration prompts; the network calls count."""
        if self._edges is None:
            n = min(N_TRACED, len(self._plan.calibration.prompts))
            self._spend(self._edge_calls(n), "measuring what reuses cost")
            made = self._dispatcher.call(EdgeCostJob(fidelity=self._plan.calibration, n_prompts=n))
            assert isinstance(made, EdgeCosts)
            self._edges = made
        return self._edges

    def _recorded_calls(self, n_prompts: int) -> int:
        return n_prompts * len(self._pool.own_timesteps(self._pool.condition.n_steps))

    def affords_recording(self) -> bool:
        """Whether recording branches, or the cache point, takes a small part of the budget of calls, and of time."""
        return self._affords(self._recorded_calls(N_TRACED), MAX_RECORDING_SHARE)

    def _affords(self, network_calls: int, share: float) -> bool:
        limit = self._plan.budget.network_calls
        affords_calls = limit is None or network_calls <= share * limit
        return affords_calls and self._expected_s(network_calls) <= share * self._spending.total_s

    def _expected_s(self, network_calls: int) -> float:
        """Seconds of calls that are recorded; 0 before the default run was timed."""
        return SLOWER * self._image_s * network_calls / self._recorded_calls(1)

    def branch_tables(self) -> BranchTables:
        """Record branches in default runs of a few calibration prompts; the network calls count."""
        n = min(N_TRACED, len(self._plan.calibration.prompts))
        self._spend(self._recorded_calls(n), "recording branches")
        tables = self._dispatcher.call(BranchTablesJob(fidelity=self._plan.calibration, n_prompts=n))
        assert isinstance(tables, BranchTables)
        return tables

    def segment_costs(self) -> SegmentCosts:
        """Record the cache point in default runs of a few calibration prompts; the network calls count."""
        n = min(N_TRACED, len(self._plan.calibration.prompts))
        self._spend(self._recorded_calls(n), "recording the cache point")
        costs = self._dispatcher.call(SegmentCostJob(fidelity=self._plan.calibration, n_prompts=n))
        assert isinstance(costs, SegmentCosts)
        return costs

    def cost_model(self) -> CostModel:
        """The study's cost model, measured once on calibration prompts; the network calls count."""
        if self._costs is None:
            artifacts, name = self._database.artifacts, self._plan.name
            n, rounds = self._affordable_costs or (self._fewest, 1)
            self._spend(rounds * self._cost_calls(n), "a cost model")
            self._costs = load_costs(artifacts, name)
            if self._costs is None:
                made = self._dispatcher.call(CostModelJob(fidelity=self._plan.calibration.first(n), rounds=rounds))
                assert isinstance(made, CostModel)
                self._costs = replace(made, batch_size=self._n_timed)
                save_costs(artifacts, name, self._costs)
        return self._costs

    def affords_costs(self) -> bool:
        """Whether there is a cost model, or measuring it takes a small part of every budget."""
        return self._costs is not None or self._affordable_costs is not None

    @property
    def _affordable_costs(self) -> tuple[int, int] | None:
        """How many images a cost model may draw together, in how many rounds, as a small part of every budget.

        A batch, or a quarter of one; more rounds where all take half as much as one may.
        """
        budget = self._plan.budget
        for n in dict.fromkeys((self._n_timed, self._fewest)):
            costs = [
                (self._cost_calls(n), budget.network_calls),
                (COST_MODEL_RUNS, budget.evaluations),
                (COST_MODEL_RUNS * n * self._image_s, self._spending.total_s),
            ]
            share = max((cost / limit for cost, limit in costs if limit is not None), default=0.0)
            if share <= MAX_COST_SHARE:
                return n, max((r for r in COST_ROUNDS if r * share <= MAX_COST_SHARE / 2), default=1)
        return None

    @property
    def _n_timed(self) -> int:
        return min(self._pool.condition.batch_size, len(self._plan.calibration.prompts))

    @property
    def _fewest(self) -> int:
        return max(min(MIN_TIMED, self._n_timed), self._n_timed // 4)

    def _cost_calls(self, n_images: int) -> int:
        return COST_MODEL_RUNS * n_images * len(self._pool.own_timesteps(self._pool.condition.n_steps))
