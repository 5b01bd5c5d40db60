"""What a running study tells its onlooker."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from autotune.search.searcher import Proposal
from autotune.spaces.evaluation import Failure, Measurement


class Phase(StrEnum):
    """What a study is busy with."""

    BASELINE = "baseline"
    GIVEN = "given schedules"
    FEWER_STEPS = "fewer steps"
    POLICIES = "policies"
    SEARCH = "search"
    VERIFICATION = "verification"
    IMAGES = "images"


@dataclass(frozen=True, kw_only=True)
class CandidateEvent:
    """One candidate was measured, or its stored measurement found (`reused`).

    `elapsed_s` and `used_fraction` are those of the study's budget, all sessions together. `front_size` and
    `hypervolume` describe the calibration front so far.
    """

    phase: Phase
    number: int
    proposal: Proposal
    outcome: Measurement | Failure
    reused: bool
    on_front: bool
    elapsed_s: float
    used_fraction: float
    front_size: int
    hypervolume: float


class Progress(Protocol):
    """An onlooker; it must not raise."""

    def on_phase(self, phase: Phase, total: int | None = None) -> None:
        """A phase begins; `total` candidates are known to lie ahead in it, None if that is open."""
        ...

    def on_candidate(self, event: CandidateEvent) -> None:
        """A candidate is done."""
        ...

    def on_fewer_prompts(self, n_calibration: int, n_held_out: int) -> None:
        """The budget affords only so many prompts to search with, and so many to hold out."""
        ...

    def on_exhausted(self) -> None:
        """The search ends well before its budget, since it has no schedule that was not tried."""
        ...


class SilentProgress:
    """Says nothing."""

    def on_phase(self, phase: Phase, total: int | None = None) -> None:
        """Say nothing."""

    def on_candidate(self, event: CandidateEvent) -> None:
        """Say nothing."""

    def on_fewer_prompts(self, n_calibration: int, n_held_out: int) -> None:
        """Say nothing."""

    def on_exhausted(self) -> None:
        """Say nothing."""
