"""Evaluations go to the workers, each once, and what comes back is committed before anybody hears of it."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from autotune.evaluators.job import Job, JobValue, ScoreJob
from autotune.evaluators.pool import Done, WorkerPool
from autotune.search.ladder import merged
from autotune.spaces.cost_model import CostModel, default_completed
from autotune.spaces.errors import EvaluatorError
from autotune.spaces.evaluation import Evaluation, Failure, FailureKind, Fidelity, Measurement, evaluation_key
from autotune.spaces.evaluation_request import EvaluationRequest
from autotune.spaces.schedule import Schedule
from autotune.storage.database import Database

MAX_LOST = 3
"""A schedule whose evaluation was lost so often is a failure, and is left alone, if it was seen to take a worker along.

What was lost with the whole process of a study may have been killed by anybody: the next one tries it apart.
"""

POLL_S = 0.5
"""How often to look whether another process has finished, or given up, what is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A canonical schedule to score on a fidelity, with `repeats` timed runs.

    `lower` is what is known of the first prompts already: only the others are run.
    """

    schedule: Schedule
    schedule_hash: str
    fidelity: Fidelity
    repeats: int = 1
    lower: Measurement | None = None

    @property
    def job(self) -> ScoreJob:
        """What a worker is to do for it."""
        n_known = 0 if self.lower is None else self.lower.n_prompts
        fidelity = self.fidelity.after(n_known) if n_known else self.fidelity
        return ScoreJob(schedule=self.schedule, fidelity=fidelity, repeats=self.repeats)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What came of a request; whether it was stored before, and what it took now, in seconds of a worker."""

    request: Request
    key: str
    outcome: Measurement | Failure
    reused: bool
    cost_s: float


class Dispatcher:
    """Keeps the workers of a pool busy with evaluations under leases of the database.

    What the database knows is taken from there; what another process is at is waited for. An evaluation that is lost
    with its worker is begun again, until it has been lost `MAX_LOST` times, over all processes and studies.
    """

    def __init__(self, pool: WorkerPool, database: Database, now: Callable[[], float] = time.monotonic) -> None:
        self._pool, self._database, self._now = pool, database, now
        self._ready: deque[Measured] = deque()
        self._running: dict[int, Request] = {}
        self._waiting: deque[Request] = deque()
        self._losses: dict[str, tuple[int, str]] = {}
        self._elsewhere: dict[str, Request] = {}
        self._calls: set[int] = set()
        self._answers: dict[int, Done] = {}
        self.cost_model: CostModel | None = None
        """What completes the measurements that are collected, if the study asks for it."""

    def key(self, schedule_hash: str, fidelity: Fidelity) -> str:
        """The key of an evaluation of this schedule."""
        return evaluation_key(self._pool.condition.hash, schedule_hash, fidelity, self._pool.protocol)

    @property
    def n_free(self) -> int:
        """Requests that would begin at once."""
        return max(0, self._pool.n_free - len(self._waiting))

    @property
    def n_open(self) -> int:
        """Requests that were submitted and not collected."""
        return len(self._ready) + len(self._running) + len(self._waiting) + len(self._elsewhere)

    def find(self, keys: Sequence[str]) -> Mapping[str, Evaluation]:
        """The finished ones of these evaluations."""
        return self._database.find_evaluations(keys)

    def submit(self, requests: Sequence[Request]) -> None:
        """Begin evaluations; what is stored is ready to be collected, and what finds no worker free waits for one."""
        if requests:
            self._start({self.key(r.schedule_hash, r.fidelity): r for r in requests})

    def collect(self, timeout_s: float | None = None) -> list[Measured]:
        """What has ended since the last call, in that order; waits for the first one, at most `timeout_s` seconds.

        [] after that, or where nothing is open.

        Raises:
            EvaluatorError: an evaluator is broken, or there are no workers left; the evaluation stays open in the
                database and is made again on resume.
        """
        end = None if timeout_s is None else self._now() + timeout_s
        while self.n_open and not self._ready:
            self._take_in(None if end is None else max(0.0, end - self._now()))
            if end is not None and self._now() >= end:
                break
        ended = [self._completed(measured) for measured in self._ready]
        self._ready.clear()
        return ended

    def _completed(self, measured: Measured) -> Measured:
        schedule, outcome = measured.request.schedule, measured.outcome
        if not isinstance(outcome, Measurement):
            return measured
        if self.cost_model is not None:
            return replace(measured, outcome=self.cost_model.completed(schedule, outcome))
        is_default = schedule == Schedule(n_steps=self._pool.condition.n_steps)
        return replace(measured, outcome=default_completed(outcome)) if is_default else measured

    def await_worker(self) -> None:
        """Wait until a worker is free; at times all of them are being replaced."""
        while self.n_free == 0:
            self._take_in(None)

    def call(self, job: Job) -> JobValue:
        """Do another job, and wait for it; evaluations that end meanwhile are kept for `collect`.

        Raises:
            EvaluatorError: its workers were lost, again and again.
        """
        reason = ""
        for _ in range(MAX_LOST):
            self.await_worker()
            ticket = self._pool.submit(job)
            self._calls.add(ticket)
            while ticket not in self._answers:
                self._take_in(None)
            self._calls.discard(ticket)
            done = self._answers.pop(ticket)
            if done.error is not None:
                raise done.error
            if done.value is not None:
                return done.value
            reason = done.lost or "it gave nothing back"
        raise EvaluatorError(f"{type(job).__name__} was lost {MAX_LOST} times with its worker; at last: {reason}")

    def abandon(self) -> None:
        """Give up all that is open; a worker that still answers is not listened to."""
        waited = [*self._running.values(), *self._waiting]
        self._database.return_evaluations([self.key(r.schedule_hash, r.fidelity) for r in waited])
        for requests in (self._running, self._waiting, self._elsewhere, self._ready):
            requests.clear()

    def _start(self, requests: dict[str, Request]) -> None:
        claims = self._database.start_evaluations(
            [
                EvaluationRequest(
                    key=key,
                    schedule=r.schedule,
                    schedule_hash=r.schedule_hash,
                    condition=self._pool.condition,
                    fidelity=r.fidelity,
                )
                for key, r in requests.items()
            ]
        )
        for key, request in requests.items():
            claim = claims[key]
            if claim.evaluation is not None and claim.evaluation.outcome is not None:
                self._ready.append(
                    Measured(request=request, key=key, outcome=claim.evaluation.outcome, reused=True, cost_s=0.0)
                )
            elif claim.holder is not None:
                self._elsewhere[key] = request
            else:
                if not self._pool.n_free:
                    self._database.return_evaluations([key])
                    self._waiting.append(request)
                    continue
                self._losses[key] = (claim.n_lost, claim.lost_reason)
                self._running[self._pool.submit(request.job, apart=claim.n_lost >= MAX_LOST)] = request

    def _take_in(self, timeout_s: float | None) -> None:
        """Wait for whatever comes next, and put it where it belongs."""
        while self._waiting and self._pool.n_free:
            request = self._waiting.popleft()
            self._start({self.key(request.schedule_hash, request.fidelity): request})
        if self._elsewhere:
            timeout_s = POLL_S if timeout_s is None else min(POLL_S, timeout_s)
            if not self._running and not self._calls:
                time.sleep(timeout_s)
        self._settle(self._pool.wait(timeout_s))
        self._look_elsewhere()

    def _settle(self, ended: Sequence[Done]) -> None:
        finished: dict[str, tuple[Request, Measurement | Failure, float]] = {}
        errors: list[Exception] = []
        for done in ended:
            if done.ticket in self._calls:
                self._answers[done.ticket] = done
            request = self._running.pop(done.ticket, None)
            if request is None:
                continue
            key = self.key(request.schedule_hash, request.fidelity)
            n_before, reasons = self._losses.pop(key)
            if isinstance(done.value, Measurement) and done.value.not_finite:
                reason = f"a measurement must be finite; got {', '.join(done.value.not_finite[:3])}"
                finished[key] = (request, Failure(kind=FailureKind.NAN, reason=reason), done.seconds)
            elif isinstance(done.value, Measurement) and request.lower is not None:
                finished[key] = (
                    request,
                    merged(request.lower, done.value, adaptive=request.schedule.policy is not None),
                    done.seconds,
                )
            elif isinstance(done.value, Measurement | Failure):
                finished[key] = (request, done.value, done.seconds)
            elif done.error is not None:
                self._database.return_evaluations([key])
                errors.append(done.error)
            else:
                lost = done.lost or "its worker gave nothing back"
                self._database.return_evaluations([key], lost)
                if n_before + 1 >= MAX_LOST:
                    reason = f"lost {n_before + 1} times with its worker: {'; '.join([*reasons.splitlines(), lost])}"
                    finished[key] = (request, Failure(kind=FailureKind.LOST, reason=reason), done.seconds)
                else:
                    self._waiting.append(request)
        self._finish(finished)
        if errors:
            raise errors[0]

    def _finish(self, finished: dict[str, tuple[Request, Measurement | Failure, float]]) -> None:
        if not finished:
            return
        stored = self._database.finish_evaluations({key: outcome for key, (_, outcome, _) in finished.items()})
        for key, (request, _, seconds) in finished.items():
            outcome = stored[key].outcome
            assert outcome is not None  # it has just been finished
            self._ready.append(Measured(request=request, key=key, outcome=outcome, reused=False, cost_s=seconds))

    def _look_elsewhere(self) -> None:
        """Take over what another process has finished, or left."""
        if self._elsewhere and self.n_free:
            requests = dict(list(self._elsewhere.items())[: self.n_free])
            for key in requests:
                del self._elsewhere[key]
            self._start(requests)
