"""A pool of workers in processes of their own, on this machine or on many, through Ray (Moritz et al. 2018)."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autotune.evaluators.evaluator import Evaluator
from autotune.evaluators.job import Job
from autotune.evaluators.pool import Done
from autotune.evaluators.ray_actor import Description, RayActor, Report
from autotune.evaluators.ray_cluster import RayCluster
from autotune.spaces.errors import AutotuneError, EvaluatorError, UsageError

TICK_S = 1.0
BEAT_S = 5.0
"""How often a worker is asked whether it is there."""

SILENCE_S = 30.0
"""A worker that does not answer for so long has lost its job."""

HANG_S = 600.0
HANG_FACTOR = 10.0
"""A job that takes longer than `HANG_S`, and longer than so many times the longest one so far, hangs."""

MAX_DEATHS = 3
"""So many workers that end in a row, without a single job between them, are not replaced any more."""

_LOG = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Member:
    """One worker: what it does now (a setup, a job or nothing), and when it was last heard of."""

    actor: Any
    setup: Any
    description: Description | None = None
    job: Job | None = None
    ticket: int = 0
    answer: Any = None
    began: float = 0.0
    beat: Any = None
    asked: float = 0.0


class RayPool:
    """Workers as Ray actors, each with one warm model; implements `autotune.evaluators.pool.WorkerPool`.

    The first worker does the first job, which tells how much memory one needs; then the others start, each only where
    its device has that much free. A worker that ends, falls silent or hangs loses its job and is replaced.
    """

    def __init__(
        self,
        make_evaluator: Callable[[], Evaluator],
        n_workers: int,
        *,
        address: str | None = None,
        silence_s: float = SILENCE_S,
        hang_s: float = HANG_S,
    ) -> None:
        """Start the first worker.

        Args:
            make_evaluator: called in each worker; sent by name, with its arguments by value.
            n_workers: how many workers there shall be.
            address: of a running cluster, HOST:PORT; None takes the one that this process is connected to, or starts
                one on this machine, reachable from it only.
            silence_s: seconds without an answer after which a worker counts as gone.
            hang_s: seconds that a job may take at least.

        Raises:
            UsageError: Ray is not installed, or there is no cluster at the address.
            AutotuneError: what `make_evaluator` raised.
        """
        if n_workers < 1:
            raise UsageError(f"the number of workers must be at least 1; got {n_workers}")
        self.n_workers = n_workers
        self._make, self._silence_s, self._hang_s = make_evaluator, silence_s, hang_s
        self._cluster = RayCluster(n_workers, address)
        self._n_deaths = self._ticket = 0
        self._longest_s = 0.0
        self._need_bytes: int | None = None
        self._checked = time.monotonic()
        self._grids: dict[int, tuple[float, ...]] = {}
        try:
            self._members = [self._start()]
            first = self._await_first()
        except BaseException:
            self._cluster.close()
            raise
        self.condition, self.inventory, self.protocol = first.condition, first.inventory, first.protocol
        self.guided, self.converges = first.guided, first.converges

    def own_timesteps(self, n_steps: int) -> tuple[float, ...]:
        """The pipeline's own time grid at `n_steps` steps, one entry per network call."""
        if n_steps not in self._grids:
            ready = next(m for m in self._members if m.description is not None)
            self._grids[n_steps] = self._cluster.get(ready.actor.own_timesteps.remote(n_steps))
        return self._grids[n_steps]

    @property
    def n_free(self) -> int:
        """Workers that are ready and have no job."""
        return sum(m.description is not None and m.job is None for m in self._members)

    def submit(self, job: Job, *, apart: bool = False) -> int:
        """Hand a job to a free worker, which is always apart from this process; returns its ticket.

        Raises:
            RuntimeError: no worker is free.
        """
        member = next((m for m in self._members if m.description is not None and m.job is None), None)
        if member is None:
            raise RuntimeError("no worker is free; wait for the end of a job first")
        self._ticket += 1
        member.job, member.ticket, member.began = job, self._ticket, time.monotonic()
        member.answer = member.actor.run.remote(job)
        return self._ticket

    def wait(self, timeout_s: float | None = None) -> list[Done]:
        """The jobs that have ended, or whose worker has; [] after `timeout_s`, or when a worker became ready.

        Raises:
            EvaluatorError: the workers end as soon as they start, or the cluster is gone.
        """
        end = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            pending = [m.setup for m in self._members if m.description is None]
            waited = [m.answer for m in self._members if m.job is not None] + pending
            if not waited:
                return []
            ready = self._cluster.wait(waited, max(0.0, min(TICK_S, end - time.monotonic())))
            done = [self._end_job(m) for m in self._members if m.job is not None and m.answer in ready]
            is_larger = self._end_setups(ready)
            done += self._look_after()
            self._fill_up()
            if done or is_larger or time.monotonic() >= end:
                return done

    def close(self) -> None:
        """End the workers; jobs under way are given up."""
        for member in self._members:
            self._cluster.kill(member.actor, member.description)
        self._members = []
        self._cluster.close()

    def _start(self) -> _Member:
        actor = self._cluster.start(RayActor, self._make)
        return _Member(actor=actor, setup=actor.setup.remote(self._need_bytes, self._cluster.workers_per_device))

    def _await_first(self) -> Description:
        member = self._members[0]
        while not self._cluster.wait([member.setup], TICK_S):
            self._cluster.check()
        try:
            description = self._cluster.get(member.setup)
        except self._cluster.lost_errors as error:
            raise EvaluatorError(f"the first worker ended while it loaded its model: {_reason(error)}") from error
        assert isinstance(description, Description)
        member.description = description
        return description

    def _end_job(self, member: _Member) -> Done:
        ticket, job, member.job = member.ticket, member.job, None
        assert job is not None
        try:
            report = self._cluster.get(member.answer)
        except self._cluster.lost_errors as error:
            seconds = time.monotonic() - member.began
            return Done(ticket=ticket, job=job, seconds=seconds, lost=self._bury(member, _reason(error)))
        assert isinstance(report, Report)
        self._n_deaths, self._longest_s = 0, max(self._longest_s, report.seconds)
        self._need_bytes = max(self._need_bytes or 0, report.peak_bytes)
        return Done(ticket=ticket, job=job, seconds=report.seconds, value=report.value, error=report.error)

    def _end_setups(self, ready: list[Any]) -> bool:
        """Take in workers that are ready; whether there are any."""
        is_larger = False
        for member in [m for m in self._members if m.description is None and m.setup in ready]:
            try:
                description = self._cluster.get(member.setup)
            except self._cluster.lost_errors as error:
                self._bury(member, _reason(error))
                continue
            except AutotuneError as error:
                self._members.remove(member)
                if not self._members:
                    raise
                _LOG.warning("a worker was not started, the others go on: %s", error)
                self.n_workers = len(self._members)
                continue
            assert isinstance(description, Description)
            difference = description.differs(self.condition, self.protocol)
            if difference:
                raise EvaluatorError(f"workers must measure under one condition; on {description.host} {difference}")
            member.description, is_larger = description, True
        return is_larger

    def _look_after(self) -> list[Done]:
        """Ask the workers whether they are there; the jobs of those that are not, or that hang, are lost."""
        now, lost = time.monotonic(), []
        if now - self._checked >= BEAT_S:
            self._checked = now
            self._cluster.check()
        limit = max(self._hang_s, HANG_FACTOR * self._longest_s)
        for member in [m for m in self._members if m.description is not None]:
            reason = ""
            if member.beat is not None and self._cluster.wait([member.beat], 0.0):
                member.beat = None
            if member.beat is None and now - member.asked >= min(BEAT_S, self._silence_s / 3.0):
                member.beat, member.asked = member.actor.beat.remote(), now
            elif member.beat is not None and now - member.asked > self._silence_s:
                reason = f"it was silent for {self._silence_s:.0f} s"
            if member.job is not None and now - member.began > limit:
                reason = f"it hung: no answer after {limit:.0f} s"
            if reason:
                job, ticket, began = member.job, member.ticket, member.began
                reason = self._bury(member, reason)
                if job is not None:
                    lost.append(Done(ticket=ticket, job=job, seconds=now - began, lost=reason))
        return lost

    def _bury(self, member: _Member, reason: str) -> str:
        where = "a worker" if member.description is None else f"worker {member.description.shown}"
        _LOG.warning("%s is gone: %s", where, reason)
        self._cluster.kill(member.actor, member.description)
        self._members.remove(member)
        self._n_deaths += 1
        if self._n_deaths >= MAX_DEATHS * self.n_workers:
            raise EvaluatorError(f"the workers end before they finish a job, {self._n_deaths} in a row: {reason}")
        return f"{where}: {reason}"

    def _fill_up(self) -> None:
        if not self._members or self._need_bytes is not None:
            while len(self._members) < self.n_workers:
                self._members.append(self._start())


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "exit" in line.lower()), lines[0] if lines else type(error).__name__)[:300]
