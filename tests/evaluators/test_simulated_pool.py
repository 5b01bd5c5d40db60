from collections.abc import Callable

import numpy as np
import pytest

from autotune.evaluators.job import Job, ScoreJob, SheetJob, TraceJob
from autotune.evaluators.pool import Done, WorkerPool
from autotune.evaluators.simulated_pool import SimulatedPool, seeded_pace
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.clock import SimulatedClock
from autotune.spaces.errors import EvaluatorError, ScheduleError
from autotune.spaces.evaluation import Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.schedule import Schedule

FIDELITY = Fidelity(name="calibration", prompts=("a cat", "a dog"), seeds=(0, 1))


def score(n_steps: int) -> ScoreJob:
    return ScoreJob(schedule=Schedule(n_steps=n_steps), fidelity=FIDELITY)


def sheet(n_images: int) -> SheetJob:
    return SheetJob(schedule=Schedule(n_steps=4), fidelity=FIDELITY, indices=tuple(range(n_images)))


def as_long_as_images(job: Job) -> float:
    return float(len(job.indices)) if isinstance(job, SheetJob) else 1.0


def images(done: list[Done]) -> list[int]:
    return [len(d.job.indices) for d in done if isinstance(d.job, SheetJob)]


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


def test_results_are_the_evaluators_and_come_after_what_they_took(clock: SimulatedClock) -> None:
    evaluator = TabulatedEvaluator()
    pool: WorkerPool = SimulatedPool(evaluator, clock, 3)
    assert (pool.condition, pool.inventory, pool.protocol) == (
        evaluator.condition,
        evaluator.inventory,
        evaluator.protocol,
    )
    assert pool.own_timesteps(5) == evaluator.own_timesteps(5)
    tickets = {pool.submit(score(n)): n for n in (20, 5, 10)}
    assert clock.now() == 0.0
    ends = {n: value.wall_s for n in (5, 10, 20) if isinstance(value := score(n).run(evaluator), Measurement)}
    for n in sorted(ends, key=lambda n: ends[n]):
        (done,) = pool.wait()
        assert tickets[done.ticket] == n
        assert done.value == score(n).run(evaluator)
        assert done.seconds == ends[n]
        assert clock.now() == pytest.approx(ends[n])
    assert pool.wait() == []


def test_workers_work_at_the_same_time(clock: SimulatedClock) -> None:
    pool = SimulatedPool(TabulatedEvaluator(), clock, 2, duration_s=as_long_as_images)
    waiting, ended = [sheet(n) for n in (4, 1, 2, 3, 2)], list[int]()
    while waiting or pool.n_free < 2:
        while waiting and pool.n_free:
            pool.submit(waiting.pop(0))
        ended += images(pool.wait())
    assert ended == [1, 2, 4, 3, 2]  # two workers: 4, then 2; and 1, 2, 3
    assert clock.now() == 6.0


def test_jobs_that_end_at_one_moment_come_together_in_the_order_of_submission(clock: SimulatedClock) -> None:
    pool = SimulatedPool(TabulatedEvaluator(), clock, 3)
    tickets = [pool.submit(sheet(n)) for n in (3, 1, 2)]
    assert [d.ticket for d in pool.wait()] == tickets


def test_granularity_gathers_what_ends_soon_after_the_first(clock: SimulatedClock) -> None:
    pool = SimulatedPool(TabulatedEvaluator(), clock, 4, duration_s=as_long_as_images, granularity_s=2.0)
    for n in (5, 3, 6, 4):
        pool.submit(sheet(n))
    assert images(pool.wait()) == [3, 4, 5]
    assert clock.now() == 5.0
    assert images(pool.wait(0.5)) == []
    assert images(pool.wait()) == [6]


def test_a_wait_ends_with_its_time(clock: SimulatedClock) -> None:
    pool = SimulatedPool(TabulatedEvaluator(), clock, 2, duration_s=as_long_as_images, granularity_s=10.0)
    pool.submit(sheet(4))
    pool.submit(sheet(6))
    assert pool.wait(1.5) == []
    assert clock.now() == 1.5
    assert images(pool.wait(2.5)) == [4]
    assert clock.now() == 4.0
    assert images(pool.wait(100.0)) == [6]
    assert clock.now() == 6.0
    assert pool.wait(5.0) == []
    assert clock.now() == 6.0


def test_a_free_worker_is_needed(clock: SimulatedClock) -> None:
    pool = SimulatedPool(TabulatedEvaluator(), clock, 1)
    assert (pool.n_workers, pool.n_free) == (1, 1)
    pool.submit(sheet(1))
    assert (pool.n_workers, pool.n_free) == (1, 0)
    with pytest.raises(RuntimeError, match="wait"):
        pool.submit(sheet(2))


class Broken(TabulatedEvaluator):
    """Breaks at three steps, fails at four."""

    def score(self, schedule: Schedule, fidelity: Fidelity, *, repeats: int = 1) -> Measurement | Failure:
        if schedule.n_steps == 3:
            raise ScheduleError("three")
        if schedule.n_steps == 4:
            return Failure(kind=FailureKind.NAN, reason="four")
        return super().score(schedule, fidelity, repeats=repeats)


def test_errors_failures_and_other_jobs_take_what_the_function_says(clock: SimulatedClock) -> None:
    pool = SimulatedPool(Broken(), clock, 3, duration_s=lambda job: 7.0)
    trace = TraceJob(fidelity=FIDELITY, n_prompts=1, n_levels=4)
    for job in (score(3), score(4), trace):
        pool.submit(job)
    error, failure, traced = pool.wait()
    assert clock.now() == 7.0
    assert isinstance(error.error, ScheduleError)
    assert failure.value == Failure(kind=FailureKind.NAN, reason="four")
    assert traced.job is trace
    assert traced.value is not None


def test_lost_workers_do_not_come_back(clock: SimulatedClock) -> None:
    lost_jobs: list[tuple[Job, int]] = []

    def loses(job: Job, worker: int) -> str | None:
        lost_jobs.append((job, worker))
        return "gone" if isinstance(job, SheetJob) and len(job.indices) >= 8 else None

    pool = SimulatedPool(TabulatedEvaluator(), clock, 3, duration_s=as_long_as_images, loses=loses)
    for n in (9, 2, 8):
        pool.submit(sheet(n))
    assert lost_jobs == [(sheet(9), 0), (sheet(2), 1), (sheet(8), 2)]
    assert [d.lost for d in pool.wait()] == [None]
    (done,) = pool.wait()
    assert (done.lost, done.value, done.error, done.seconds) == ("gone", None, None, 8.0)
    assert (pool.n_workers, pool.n_free) == (2, 1)
    pool.submit(sheet(8))
    assert images(pool.wait()) == [9]
    assert pool.n_workers == 1
    assert images(pool.wait()) == [8]
    assert pool.n_workers == 0
    with pytest.raises(EvaluatorError, match="all simulated workers were lost"):
        pool.wait()


def test_workers_differ_as_the_seed_says_and_a_run_repeats(clock: SimulatedClock) -> None:
    def run(pace: Callable[[int], float]) -> list[tuple[int, float]]:
        pool = SimulatedPool(TabulatedEvaluator(), SimulatedClock(), 50, pace=pace)
        for n in range(50):
            pool.submit(sheet(n + 1))
        done: list[Done] = []
        while ended := pool.wait():
            done += ended
        return [(d.ticket, d.seconds) for d in done]

    first = run(seeded_pace(0.3, seed=1))
    assert run(seeded_pace(0.3, seed=1)) == first
    assert run(seeded_pace(0.3, seed=2)) != first
    logs = np.log([seconds for _, seconds in first])
    assert 0.2 < logs.std() < 0.4
    assert abs(logs.mean()) < 0.15
    assert [seconds for _, seconds in first] == sorted(seconds for _, seconds in first)


def test_a_closed_pool_has_no_workers(clock: SimulatedClock) -> None:
    pool = SimulatedPool(TabulatedEvaluator(), clock, 2)
    pool.submit(sheet(1))
    pool.close()
    assert (pool.n_workers, pool.n_free) == (0, 0)


@pytest.mark.parametrize(("n_workers", "granularity_s"), [(0, 0.0), (2, -1.0), (2, float("nan"))])
def test_impossible_pools_are_refused(clock: SimulatedClock, n_workers: int, granularity_s: float) -> None:
    with pytest.raises(ValueError, match="got"):
        SimulatedPool(TabulatedEvaluator(), clock, n_workers, granularity_s=granularity_s)
