"""A pool of simulated workers: results come from an evaluator at once, their ends from a clock that is moved."""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from autotune.evaluators.evaluator import Evaluator
from autotune.evaluators.job import Job
from autotune.evaluators.pool import Done
from autotune.spaces.errors import EvaluatorError
from autotune.spaces.evaluation import Measurement


class MovableClock(Protocol):
    """A clock that tells the time and can be moved, both in seconds."""

    def now(self) -> float:
        """The time."""
        ...

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        ...


@dataclass(frozen=True, slots=True, order=True)
class _Running:
    """A job under way, ordered by its end."""

    end_s: float
    ticket: int
    worker: int = field(compare=False)
    done: Done = field(compare=False)


def seeded_pace(spread: float, seed: int = 0) -> Callable[[int], float]:
    """Workers whose pace is log-normal around 1, with a standard deviation of `spread` in the logarithm."""
    return lambda worker: float(np.exp(spread * np.random.default_rng((seed, worker)).standard_normal()))


class SimulatedPool:
    """Many workers on a clock that moves while an end is waited for; all else takes no time on it.

    The evaluator must not move the clock itself. A job takes the `wall_s` of its measurement, or `duration_s` where
    there is none, times the `pace` of its worker. `loses` may say why a worker vanishes over a job, when that would
    have ended; with `replaces` another one takes its place. A free worker with the lowest number takes the next job, so
    that a run repeats exactly.

    `wait` returns all jobs that end within `granularity_s` seconds of the first, so that the results of many workers
    come in batches.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        clock: MovableClock,
        n_workers: int,
        *,
        duration_s: Callable[[Job], float] = lambda job: 1.0,
        pace: Callable[[int], float] = lambda worker: 1.0,
        loses: Callable[[Job, int], str | None] = lambda job, worker: None,
        replaces: bool = False,
        granularity_s: float = 0.0,
    ) -> None:
        if n_workers < 1:
            raise ValueError(f"a pool needs at least one worker; got {n_workers}")
        if not granularity_s >= 0.0:
            raise ValueError(f"granularity_s must not be negative; got {granularity_s}")
        self.condition, self.inventory = evaluator.condition, evaluator.inventory
        self.protocol = evaluator.protocol
        self.guided, self.converges = evaluator.guided, evaluator.converges
        self._evaluator, self._clock = evaluator, clock
        self._duration_s, self._granularity_s = duration_s, granularity_s
        self._loses, self._replaces = loses, replaces
        self._pace = [pace(worker) for worker in range(n_workers)]
        self._free = list(range(n_workers))  # a heap
        self._running: list[_Running] = []  # a heap
        self._tickets = itertools.count(1)

    def own_timesteps(self, n_steps: int) -> tuple[float, ...]:
        """The pipeline's own time grid at `n_steps` steps, one entry per network call."""
        return self._evaluator.own_timesteps(n_steps)

    @property
    def n_workers(self) -> int:
        """Workers that were not lost."""
        return len(self._free) + len(self._running)

    @property
    def n_free(self) -> int:
        """Workers without a job."""
        return len(self._free)

    def submit(self, job: Job, *, apart: bool = False) -> int:
        """Hand a job to a free worker; returns its ticket.

        Raises:
            RuntimeError: no worker is free.
        """
        if not self._free:
            raise RuntimeError("no worker is free; wait for the end of a job first")
        worker, ticket = heapq.heappop(self._free), next(self._tickets)
        done = self._done(job, worker, ticket)
        heapq.heappush(self._running, _Running(self._clock.now() + done.seconds, ticket, worker, done))
        return ticket

    def wait(self, timeout_s: float | None = None) -> list[Done]:
        """The jobs that end next, after moving the clock to the end of the last of them.

        Where none ends within `timeout_s` seconds, the clock moves by these; [] then, or where no job is under way.

        Raises:
            EvaluatorError: all workers were lost.
        """
        if not self._running:
            if not self._free:
                raise EvaluatorError("all simulated workers were lost; give the pool more of them")
            return []
        now = self._clock.now()
        latest_s = float("inf") if timeout_s is None else now + timeout_s
        until_s = min(self._running[0].end_s + self._granularity_s, latest_s)
        ended: list[_Running] = []
        while self._running and self._running[0].end_s <= until_s:
            ended.append(heapq.heappop(self._running))
        self._clock.advance(max(0.0, (ended[-1].end_s if ended else latest_s) - now))
        for running in ended:
            if running.done.lost is None or self._replaces:
                heapq.heappush(self._free, running.worker)
        return [running.done for running in ended]

    def close(self) -> None:
        """End the workers; jobs under way are given up."""
        self._running.clear()
        self._free.clear()

    def _done(self, job: Job, worker: int, ticket: int) -> Done:
        """What will have come of a job."""
        seconds = self._pace[worker] * self._duration_s(job)
        lost = self._loses(job, worker)
        if lost is not None:
            return Done(ticket=ticket, job=job, seconds=seconds, lost=lost)
        try:
            value = job.run(self._evaluator)
        except Exception as error:
            return Done(ticket=ticket, job=job, seconds=seconds, error=error)
        if isinstance(value, Measurement):
            seconds = self._pace[worker] * value.wall_s
        return Done(ticket=ticket, job=job, seconds=seconds, value=value)
