"""What the study tests pass around: a progress reporter that remembers, and the types of the fixtures."""

from collections.abc import Callable

from autotune.evaluators.evaluator import Evaluator
from autotune.search.progress import CandidateEvent, Phase
from autotune.search.study_plan import StudyPlan
from autotune.spaces.study_record import StudyRecord
from autotune.storage.database import Database

OpenStudy = Callable[[str, StudyPlan, Evaluator], Database]
MakePlan = Callable[..., StudyPlan]
RunStudy = Callable[..., StudyRecord]
Expected = Callable[[str], StudyRecord]


class Onlooker:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []
        self.events: list[CandidateEvent] = []

    def on_phase(self, phase: Phase, total: int | None = None) -> None:
        self.phases.append(phase)

    def on_candidate(self, event: CandidateEvent) -> None:
        self.events.append(event)
