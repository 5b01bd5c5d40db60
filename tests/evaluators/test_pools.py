"""What every pool of workers must do; each test runs on all of them."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from autotune.evaluators.job import DefaultTimeJob, FitJob, ScoreJob, SheetJob, TraceJob
from autotune.evaluators.pool import Done, InProcessPool, WorkerPool
from autotune.evaluators.ray_pool import RayPool
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.spaces.column_fit import FitColumn
from autotune.spaces.errors import EvaluatorError, ScheduleError, UsageError
from autotune.spaces.evaluation import Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.schedule import Schedule

FIDELITY = Fidelity(name="calibration", prompts=("a cat", "a dog"), seeds=(0, 1))

MakePool = Callable[[Callable[[], TabulatedEvaluator]], WorkerPool]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One cluster for all tests of this file."""
    ray = pytest.importorskip("ray")
    ray.init(address="local", resources={"autotune": 8}, include_dashboard=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture(params=["in process", "ray"])
def make_pool(request: pytest.FixtureRequest) -> Iterator[MakePool]:
    """A function that makes a pool of two workers, or of the one that there is."""
    made: list[WorkerPool] = []

    def make(make_evaluator: Callable[[], TabulatedEvaluator]) -> WorkerPool:
        if request.param == "ray":
            request.getfixturevalue("cluster")
            made.append(RayPool(make_evaluator, 2))
        else:
            made.append(InProcessPool(make_evaluator()))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def job(n_steps: int) -> ScoreJob:
    return ScoreJob(schedule=Schedule(n_steps=n_steps), fidelity=FIDELITY)


def fill(pool: WorkerPool, jobs: list[ScoreJob]) -> list[Done]:
    """Do all jobs, as many at a time as there are free workers."""
    done: list[Done] = []
    waiting = list(jobs)
    while len(done) < len(jobs):
        while waiting and pool.n_free:
            pool.submit(waiting.pop(0))
        done += pool.wait(60.0)
    return done


def test_every_job_ends_once_with_what_the_evaluator_says(make_pool: MakePool) -> None:
    pool, evaluator = make_pool(TabulatedEvaluator), TabulatedEvaluator()
    assert pool.condition == evaluator.condition
    assert pool.inventory == evaluator.inventory
    assert pool.protocol == evaluator.protocol
    assert pool.own_timesteps(7) == evaluator.own_timesteps(7)
    jobs = [job(n) for n in range(1, 21)]
    done = fill(pool, jobs)
    assert len({d.ticket for d in done}) == len(jobs)
    assert {d.job for d in done} == set(jobs)
    for d in done:
        assert isinstance(d.job, ScoreJob)
        assert d.value == evaluator.score(d.job.schedule, FIDELITY)
        assert (d.error, d.lost) == (None, None)
        assert 0.0 <= d.seconds < 10.0


def test_all_kinds_of_jobs(make_pool: MakePool) -> None:
    pool, evaluator = make_pool(TabulatedEvaluator), TabulatedEvaluator()
    from autotune.spaces.solvers import make_solver

    noise = evaluator.condition.noise_schedule
    schedule = Schedule(n_steps=4, time=(1000.0, 800.0, 600.0, 300.0), solver=make_solver("dpmpp-2m", 4, noise))
    for some in (
        FitJob(schedule=schedule, column=FitColumn.COMPENSATION, fidelity=FIDELITY),
        TraceJob(fidelity=FIDELITY, n_prompts=1, n_levels=5),
        DefaultTimeJob(fidelity=FIDELITY),
        SheetJob(schedule=schedule, fidelity=FIDELITY, indices=(1,)),
    ):
        pool.submit(some)
        (done,) = pool.wait(60.0)
        expected = some.run(evaluator)
        if isinstance(some, TraceJob):
            assert done.value.states.tolist() == expected.states.tolist()  # type: ignore[union-attr]
        else:
            assert done.value == expected


def test_a_free_worker_is_needed(make_pool: MakePool) -> None:
    pool = make_pool(TabulatedEvaluator)
    assert pool.wait(0.0) == []
    for _ in range(pool.n_free):
        pool.submit(job(3))
    with pytest.raises(RuntimeError, match="wait"):
        pool.submit(job(4))


class Broken(TabulatedEvaluator):
    """Breaks at odd step counts; can't measure four steps."""

    def score(self, schedule: Schedule, fidelity: Fidelity, *, repeats: int = 1) -> Measurement | Failure:
        if schedule.n_steps % 2:
            raise ScheduleError(f"odd: {schedule.n_steps}")
        if schedule.n_steps == 4:
            return Failure(kind=FailureKind.NAN, reason="four")
        return super().score(schedule, fidelity, repeats=repeats)


def test_errors_and_failures_come_back_as_they_are(make_pool: MakePool) -> None:
    pool = make_pool(Broken)
    done = {d.job.schedule.n_steps: d for d in fill(pool, [job(n) for n in (2, 3, 4, 5)])}  # type: ignore[union-attr]
    assert isinstance(done[2].value, Measurement)
    assert done[4].value == Failure(kind=FailureKind.NAN, reason="four")
    for n in (3, 5):
        assert isinstance(done[n].error, ScheduleError)
        assert str(done[n].error) == f"odd: {n}"


class Mortal(TabulatedEvaluator):
    """Its process ends in one way or another at certain step counts."""

    def score(self, schedule: Schedule, fidelity: Fidelity, *, repeats: int = 1) -> Measurement | Failure:
        if schedule.n_steps == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        if schedule.n_steps == 8:
            os.kill(os.getpid(), signal.SIGSTOP)
        if schedule.n_steps == 9:
            time.sleep(600.0)
        return super().score(schedule, fidelity, repeats=repeats)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_worker_that_ends_falls_silent_or_hangs_is_replaced() -> None:
    pool = RayPool(Mortal, 2, silence_s=2.0, hang_s=6.0)
    try:
        done = {d.job.schedule.n_steps: d for d in fill(pool, [job(n) for n in range(1, 15)])}  # type: ignore[union-attr]
        assert all(done[n].value is not None for n in range(1, 15) if n not in (7, 8, 9))
        assert "exit" in (done[7].lost or "")
        assert "silent" in (done[8].lost or "")
        assert "hung" in (done[9].lost or "")
        assert pool.n_workers == 2
    finally:
        pool.close()


def refuse(reason: str) -> TabulatedEvaluator:
    raise UsageError(reason)


def doomed() -> TabulatedEvaluator:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_pool_whose_workers_can_not_start_says_why() -> None:
    with pytest.raises(UsageError, match="no such model"):
        RayPool(partial(refuse, "no such model"), 2)
    with pytest.raises(EvaluatorError, match="ended"):
        RayPool(doomed, 2)
    with pytest.raises(UsageError, match="at least 1"):
        RayPool(TabulatedEvaluator, 0)
