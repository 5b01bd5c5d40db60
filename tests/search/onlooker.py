"""What the study tests pass around: a study loop, a progress reporter that remembers, and the types of the fixtures."""

from collections.abc import Callable
from typing import Any

from autotune.evaluators.evaluator import Evaluator
from autotune.evaluators.pool import InProcessPool
from autotune.search.clock import Clock
from autotune.search.progress import CandidateEvent, Phase
from autotune.search.study import StudyLoop
from autotune.search.study_plan import StudyPlan
from autotune.spaces.study_record import StudyRecord
from autotune.storage.database import Database

OpenStudy = Callable[[str, StudyPlan, Evaluator], Database]
MakePlan = Callable[..., StudyPlan]
RunStudy = Callable[..., StudyRecord]
Expected = Callable[[str], StudyRecord]


def make_loop(plan: StudyPlan, evaluator: Evaluator, database: Database, clock: Clock, **options: Any) -> StudyLoop:
    """The loop of a study with one worker in this process, whose jobs take the time of the clock."""
    return StudyLoop(plan, InProcessPool(evaluator, clock.now), database, clock, **options)


class Onlooker:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []
        self.events: list[CandidateEvent] = []
        self.is_exhausted = False

    def on_phase(self, phase: Phase, total: int | None = None) -> None:
        self.phases.append(phase)

    def on_fewer_prompts(self, n_calibration: int, n_held_out: int) -> None:
        raise AssertionError("a study loop is given its prompts")

    def on_exhausted(self) -> None:
        self.is_exhausted = True

    def on_candidate(self, event: CandidateEvent) -> None:
        self.events.append(event)
