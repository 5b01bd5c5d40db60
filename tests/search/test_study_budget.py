from dataclasses import replace
from typing import Any

import pytest

from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search import searcher_jobs
from autotune.search.budget import Budget
from autotune.search.clock import SimulatedClock
from autotune.search.progress import Phase
from autotune.search.searcher_jobs import MAX_FIT_SHARE
from autotune.spaces.column_fit import ColumnFit, FitColumn, FitTarget
from autotune.spaces.edge_costs import EdgeCosts, EdgeSource, replayed_calls
from autotune.spaces.errors import FitMemoryError, UsageError
from autotune.spaces.evaluation import Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.front import calibration_front, pick, study_front
from autotune.spaces.schedule import Schedule
from autotune.spaces.solvers import make_solver
from autotune.spaces.study_record import StudyState
from autotune.spaces.traced_run import TRACE_LEVELS

from .onlooker import MakePlan, Onlooker, OpenStudy, RunStudy, make_loop

FAILURE = Failure(kind=FailureKind.OUT_OF_MEMORY, reason="too large")


@pytest.mark.parametrize("wall_s", [2.0, 5.0, 12.0, 30.0])
@pytest.mark.parametrize("family", ["ecad", "fewer-steps"])
def test_a_wall_time_budget_is_kept_and_used(wall_s: float, family: str, open_study: OpenStudy, plan: MakePlan) -> None:
    clock = SimulatedClock()
    evaluator = TabulatedEvaluator(clock=clock, latency_noise=0.05)
    study = plan(Budget(wall_s=wall_s), family, objectives=("latency", "deviation"))
    database = open_study("timed", study, evaluator)
    assert make_loop(study, evaluator, database, clock).run() is StudyState.DONE
    record = database.load_study("s")
    assert clock.now() <= 1.005 * wall_s  # the last candidate may take longer than most
    assert record.wall_s == pytest.approx(clock.now())
    if wall_s >= 5.0:
        assert record.candidates[0].held_out is not None
    if wall_s >= 12.0:
        assert clock.now() >= 0.95 * wall_s
        verified = [c.held_out is not None for c in calibration_front(record)]
        assert sum(verified) >= 0.7 * min(12, len(verified))


class QuickVerification(TabulatedEvaluator):
    """Takes a fifth of its usual time on held-out prompts."""

    def __init__(self, clock: SimulatedClock) -> None:
        super().__init__(clock=self)
        self._real, self._pace = clock, 1.0

    def advance(self, seconds: float) -> None:
        self._real.advance(self._pace * seconds)

    def score(self, schedule: Schedule, fidelity: Fidelity, *, repeats: int = 1) -> Measurement | Failure:
        self._pace = 0.2 if fidelity.name == "held_out" else 1.0
        return super().score(schedule, fidelity, repeats=repeats)


def test_time_that_the_verification_leaves_goes_into_the_search(open_study: OpenStudy, plan: MakePlan) -> None:
    clock, onlooker = SimulatedClock(), Onlooker()
    evaluator = QuickVerification(clock)
    study = plan(Budget(wall_s=60.0), objectives=("latency", "deviation"))
    database = open_study("quick", study, evaluator)
    make_loop(study, evaluator, database, clock, progress=onlooker).run()
    first = onlooker.phases.index(Phase.VERIFICATION)
    assert onlooker.phases[first + 1 : first + 3] == [Phase.SEARCH, Phase.VERIFICATION]
    assert 0.95 * 60.0 <= clock.now() <= 60.0
    record = database.load_study("s")
    verified = [c.held_out is not None for c in calibration_front(record)]
    assert sum(verified) >= 0.7 * min(12, len(verified))


def test_time_too_short_to_verify_anything_goes_into_the_search(open_study: OpenStudy, plan: MakePlan) -> None:
    clock = SimulatedClock()
    evaluator = TabulatedEvaluator(clock=clock)
    study = plan(Budget(wall_s=2.0), objectives=("latency", "deviation"))
    database = open_study("short", study, evaluator)
    make_loop(study, evaluator, database, clock).run()
    assert len(database.load_study("s").candidates) >= 4
    assert clock.now() <= 2.0


def test_time_too_short_for_another_verification_is_searched_with(open_study: OpenStudy, plan: MakePlan) -> None:
    clock, onlooker = SimulatedClock(), Onlooker()
    evaluator = TabulatedEvaluator(clock=clock, latency_noise=0.05)
    study = plan(Budget(wall_s=12.0), "random", objectives=("latency", "deviation"))
    database = open_study("late", study, evaluator)
    make_loop(study, evaluator, database, clock, progress=onlooker).run()
    assert onlooker.phases[-2:] == [Phase.IMAGES, Phase.SEARCH]
    late = onlooker.events[-1].number
    record = database.load_study("s")
    assert late == record.candidates[-1].number
    assert record.candidates[late].held_out is None
    picks = pick(study_front(record), record).values()
    assert all(c.held_out is not None and c.schedule_hash in record.images for c in picks)


def test_a_budget_of_network_calls_is_kept(plan: MakePlan, undisturbed: RunStudy) -> None:
    record = undisturbed(plan(Budget(network_calls=600)))
    calls = [2 * m.network_calls for c in record.candidates if (m := c.calibration.measurement) is not None]
    assert 600 - max(calls) < sum(calls) <= 600


def test_the_network_calls_of_a_trace_count(open_study: OpenStudy, plan: MakePlan) -> None:
    study = plan()
    evaluator = TabulatedEvaluator()
    loop = make_loop(study, evaluator, open_study("traced", study, evaluator), SimulatedClock())
    trace = loop._jobs.trace()
    assert loop._spending.spent.network_calls == trace.n_calls * trace.n_samples == 2 * TRACE_LEVELS


class GreedyEvaluator(TabulatedEvaluator):
    """Its fits take all the runs that they may."""

    def fit(self, schedule: Schedule, column: FitTarget, fidelity: Fidelity, **limits: Any) -> ColumnFit:
        made = super().fit(schedule, column, fidelity)
        return replace(made, image_runs=limits["max_image_runs"])


class ShortOfMemory(TabulatedEvaluator):
    """Has no memory for gradients."""

    n_asked = 0

    def fit(self, schedule: Schedule, column: FitTarget, fidelity: Fidelity, **limits: Any) -> ColumnFit:
        self.n_asked += 1
        raise FitMemoryError("the compensation of a schedule can't be fitted: out of memory")


def four_steps(evaluator: TabulatedEvaluator) -> Schedule:
    noise = evaluator.condition.noise_schedule
    return Schedule(n_steps=4, time=(1000.0, 800.0, 600.0, 300.0), solver=make_solver("dpmpp-2m", 4, noise))


def test_a_fit_takes_a_share_and_leaves_the_calls_that_score_it(open_study: OpenStudy, plan: MakePlan) -> None:
    study, evaluator = plan(Budget(network_calls=1000), "fewer-steps"), GreedyEvaluator()
    loop = make_loop(study, evaluator, open_study("greedy", study, evaluator), SimulatedClock())
    runs = [loop._jobs.fit(four_steps(evaluator), FitColumn.COMPENSATION, 0.0).image_runs for _ in range(4)]
    share = int(MAX_FIT_SHARE * 1000) // 4
    assert runs == [share, share, share, 1000 // 4 - 2 - 3 * share]  # two calibration prompts
    assert loop._spending.spent.network_calls == 1000 - 2 * 4


def test_a_fit_takes_a_share_of_the_time(open_study: OpenStudy, plan: MakePlan) -> None:
    seen: list[float] = []

    class Timed(TabulatedEvaluator):
        def fit(self, schedule: Schedule, column: FitTarget, fidelity: Fidelity, **limits: Any) -> ColumnFit:
            seen.append(limits["timeout_s"])
            return super().fit(schedule, column, fidelity)

    study, evaluator = plan(Budget(wall_s=100.0), "fewer-steps"), Timed()
    loop = make_loop(study, evaluator, open_study("timed", study, evaluator), SimulatedClock())
    loop._jobs.fit(four_steps(evaluator), FitColumn.COMPENSATION, 0.0)
    assert seen == [pytest.approx(MAX_FIT_SHARE * 100.0)]


def test_memory_too_short_for_fits_is_said_once_and_counted(
    open_study: OpenStudy, plan: MakePlan, caplog: pytest.LogCaptureFixture
) -> None:
    study, evaluator = plan(Budget(network_calls=1000), "fewer-steps"), ShortOfMemory()
    loop = make_loop(study, evaluator, open_study("short", study, evaluator), SimulatedClock())
    for _ in range(3):
        with pytest.raises(FitMemoryError, match="out of memory"):
            loop._jobs.fit(four_steps(evaluator), FitColumn.COMPENSATION, 0.0)
    assert evaluator.n_asked == 1
    assert [record.getMessage() for record in caplog.records] == [
        "nothing is fitted in this study: the compensation of a schedule can't be fitted: out of memory"
    ]
    assert loop._spending.spent.network_calls == 2 * 4


@pytest.mark.parametrize(
    ("tight", "limit"), [("evaluations", 9), ("network_calls", 250), ("wall_s", 12.0), ("cost", 0.012)]
)
def test_of_several_limits_all_hold_and_the_tightest_is_used(
    tight: str, limit: float, open_study: OpenStudy, plan: MakePlan
) -> None:
    limits: dict[str, Any] = {"evaluations": 500, "network_calls": 9_000, "wall_s": 400.0, "cost": 0.4, tight: limit}
    clock = SimulatedClock()
    evaluator = TabulatedEvaluator(clock=clock)
    study = plan(Budget(**limits, price_per_hour=3.6), objectives=("latency", "deviation"))
    loop = make_loop(study, evaluator, open_study("several", study, evaluator), clock)
    assert loop.run() is StudyState.DONE
    spent = loop._spending.spent
    used = {
        "evaluations": spent.evaluations / limits["evaluations"],
        "network_calls": spent.network_calls / limits["network_calls"],
        "wall_s": clock.now() / limits["wall_s"],
        "cost": clock.now() * 3.6 / 3600.0 / limits["cost"],
    }
    assert used[tight] == max(used.values())
    assert 0.85 <= used[tight] <= 1.0
    assert tight != "evaluations" or used[tight] == 1.0


@pytest.mark.parametrize("family", ["s3", "joint", "ecad", "evo", "cachequant"])
@pytest.mark.parametrize("limit", [41, 100, 170, 300, 800])
def test_jobs_of_searchers_keep_a_budget_of_network_calls(
    limit: int, family: str, open_study: OpenStudy, plan: MakePlan
) -> None:
    study, evaluator = plan(Budget(network_calls=limit), family), TabulatedEvaluator()
    loop = make_loop(study, evaluator, open_study("kept", study, evaluator), SimulatedClock())
    assert loop.run() is StudyState.DONE
    assert loop._spending.spent.network_calls <= limit


class SlowRecording(TabulatedEvaluator):
    """Measuring edges takes its time, as on a real model."""

    n_recordings = 0

    def edge_costs(self, fidelity: Fidelity, n_prompts: int, source: EdgeSource = "hybrid") -> EdgeCosts:
        assert self._clock is not None
        self.n_recordings += 1
        runs = n_prompts * (1 + len(replayed_calls(self.condition.n_steps)))
        self._clock.advance(searcher_jobs.SLOWER * runs * self.default_ms(fidelity) / 1000.0)
        return super().edge_costs(fidelity, n_prompts, source)


@pytest.mark.parametrize("family", ["joint", "ecad"])
@pytest.mark.parametrize(("wall_s", "n_recordings"), [(12.0, 0), (60.0, 1)])
def test_a_recording_that_would_end_after_the_budget_is_not_begun(
    wall_s: float,
    n_recordings: int,
    family: str,
    open_study: OpenStudy,
    plan: MakePlan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes less than the whole budget, but more than the rival leaves of the shorter one."""
    monkeypatch.setattr(searcher_jobs, "MAX_RECORDING_SHARE", 1.0)
    clock = SimulatedClock()
    evaluator = SlowRecording(clock=clock)
    study = plan(Budget(wall_s=wall_s), family, objectives=("latency", "deviation"))
    make_loop(study, evaluator, open_study("late", study, evaluator), clock).run()
    assert clock.now() <= 1.01 * wall_s  # the last candidate may take longer than most
    assert evaluator.n_recordings == n_recordings


def test_a_cost_model_that_a_budget_has_no_room_for_is_refused(open_study: OpenStudy, plan: MakePlan) -> None:
    study = plan(Budget(network_calls=100), objectives=("modelled-latency", "deviation"))
    evaluator = TabulatedEvaluator()
    loop = make_loop(study, evaluator, open_study("dear", study, evaluator), SimulatedClock())
    with pytest.raises(UsageError, match=r"a cost model takes \d+ network calls, .* budget of 100 .* --network"):
        loop.run()
