"""A pool of workers that measure under one condition, and the one that needs no other process."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from autotune.evaluators.evaluator import Evaluator
from autotune.evaluators.job import Job, JobValue
from autotune.evaluators.spare_process import run_apart
from autotune.spaces.condition import Condition
from autotune.spaces.inventory import Inventory


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The end of a job: its value, the error that it raised, or why its worker was `lost`; one of the three.

    `ticket` is what `submit` gave, `seconds` what the job took on its worker.
    """

    ticket: int
    job: Job
    seconds: float
    value: JobValue | None = None
    error: Exception | None = None
    lost: str | None = None


class WorkerPool(Protocol):
    """Workers that do jobs, each job on one of them; all measure under one condition.

    `protocol`, `guided` and `converges` are the evaluator's. A pool belongs to one thread.
    """

    condition: Condition
    inventory: Inventory
    protocol: str
    guided: bool
    converges: bool

    def own_timesteps(self, n_steps: int) -> tuple[float, ...]:
        """The pipeline's own time grid at `n_steps` steps, one entry per network call."""
        ...

    @property
    def n_workers(self) -> int:
        """Workers that do jobs or could."""
        ...

    @property
    def n_free(self) -> int:
        """Jobs that can be submitted now and would begin at once."""
        ...

    def submit(self, job: Job, *, apart: bool = False) -> int:
        """Hand a job to a free worker, `apart` from this process whatever the pool; returns its ticket.

        Raises:
            RuntimeError: no worker is free.
        """
        ...

    def wait(self, timeout_s: float | None = None) -> list[Done]:
        """The jobs that have ended since the last call, in the order in which they ended.

        Waits for the first one, for at most `timeout_s` seconds; [] after that, or where no job is under way.

        Raises:
            EvaluatorError: there are no workers left, and there will be none.
        """
        ...

    def close(self) -> None:
        """End the workers; jobs under way are given up."""
        ...


class InProcessPool:
    """One worker, in this process: a job is done while its end is waited for.

    `make_spare` makes another evaluator, in another process, for jobs that shall be done apart. `now` tells seconds.
    """

    n_workers = 1

    def __init__(
        self,
        evaluator: Evaluator,
        now: Callable[[], float] = time.monotonic,
        make_spare: Callable[[], Evaluator] | None = None,
    ) -> None:
        self.condition, self.inventory = evaluator.condition, evaluator.inventory
        self.protocol = evaluator.protocol
        self.guided, self.converges = evaluator.guided, evaluator.converges
        self._evaluator, self._now, self._make_spare = evaluator, now, make_spare
        self._job: Job | None = None
        self._apart = False
        self._ticket = 0

    def own_timesteps(self, n_steps: int) -> tuple[float, ...]:
        """The pipeline's own time grid at `n_steps` steps, one entry per network call."""
        return self._evaluator.own_timesteps(n_steps)

    @property
    def n_free(self) -> int:
        """1, or 0 while a job waits to be done."""
        return 0 if self._job else 1

    def submit(self, job: Job, *, apart: bool = False) -> int:
        """Keep a job for `wait`; returns its ticket.

        Raises:
            RuntimeError: there is one already.
        """
        if self._job is not None:
            raise RuntimeError("the worker has a job; wait for its end first")
        self._job, self._apart = job, apart
        self._ticket += 1
        return self._ticket

    def wait(self, timeout_s: float | None = None) -> list[Done]:
        """Do the job, however long it takes; [] if there is none."""
        if self._job is None:
            return []
        job, self._job = self._job, None
        began = self._now()
        value, error, lost = None, None, ""
        if self._apart:
            value, error, lost = self._run_apart(job)
        else:
            try:
                value = job.run(self._evaluator)
            except Exception as raised:
                error = raised
        seconds = self._now() - began
        return [Done(ticket=self._ticket, job=job, seconds=seconds, value=value, error=error, lost=lost or None)]

    def _run_apart(self, job: Job) -> tuple[JobValue | None, Exception | None, str]:
        if self._make_spare is None:
            return None, None, "it can't be tried in another process, since the pipeline is the user's own"
        return run_apart(self._make_spare, job)

    def close(self) -> None:
        """Forget the job."""
        self._job = None
