"""Measures a schedule once: what the database knows already is taken from there."""

from dataclasses import dataclass

from autotune.evaluators.evaluator import Evaluator
from autotune.search.clock import Clock
from autotune.spaces.evaluation import Evaluation, Failure, Fidelity, Measurement, evaluation_key
from autotune.spaces.schedule import Schedule
from autotune.storage.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A finished evaluation, whether it was stored before, and what it took now in seconds."""

    evaluation: Evaluation
    reused: bool
    cost_s: float

    @property
    def outcome(self) -> Measurement | Failure:
        """What came of it."""
        assert self.evaluation.outcome is not None  # `Measurer` gives finished evaluations only
        return self.evaluation.outcome


class Measurer:
    """Scores schedules with one evaluator and commits each result when it is made."""

    def __init__(self, evaluator: Evaluator, database: Database, clock: Clock) -> None:
        self._evaluator = evaluator
        self._database = database
        self._clock = clock

    def key(self, schedule_hash: str, fidelity: Fidelity) -> str:
        """The key of an evaluation of this schedule."""
        return evaluation_key(self._evaluator.condition.hash, schedule_hash, fidelity, self._evaluator.protocol)

    def is_stored(self, schedule_hash: str, fidelity: Fidelity) -> bool:
        """Whether measuring this schedule takes no time."""
        return self._database.find_evaluation(self.key(schedule_hash, fidelity)) is not None

    def measure(self, schedule: Schedule, schedule_hash: str, fidelity: Fidelity, *, repeats: int = 1) -> Measured:
        """The evaluation of a canonical schedule, from the database or made now.

        Raises:
            EvaluatorError: the evaluator is broken; the evaluation stays open and is made again on resume.
        """
        key = self.key(schedule_hash, fidelity)
        stored = self._database.find_evaluation(key)
        if stored is not None:
            return Measured(evaluation=stored, reused=True, cost_s=0.0)
        start = self._clock.now()
        self._database.start_evaluation(
            key,
            schedule=schedule,
            schedule_hash=schedule_hash,
            condition=self._evaluator.condition,
            fidelity=fidelity,
        )
        outcome = self._evaluator.score(schedule, fidelity, repeats=repeats)
        evaluation = self._database.finish_evaluation(key, outcome)
        return Measured(evaluation=evaluation, reused=False, cost_s=self._clock.now() - start)
