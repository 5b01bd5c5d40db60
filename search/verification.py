"""The end of a study: its front is measured again, on prompts and seeds that the search never saw."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autotune.evaluators.evaluator import Evaluator
from autotune.search.measurer import Measured, Measurer
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.front import RIVAL, baseline_of, calibration_front, pick, study_front
from autotune.spaces.study_record import Candidate, StudyRecord
from autotune.storage.database import Database

N_SHEET_IMAGES = 8

REFERENCE_RUNS = 5.0
"""A converged reference is taken to cost as much as this many default runs where nothing is known of it."""

MARGIN = 1.1
"""Estimates of time are stretched by this, since timings vary."""


@dataclass(frozen=True, kw_only=True)
class VerificationSettings:
    """How many front members are measured again, and with how many interleaved timing repeats."""

    max_members: int = 12
    repeats: int = 3


@dataclass(frozen=True, kw_only=True)
class VerificationOrder:
    """Whom to measure again: `first` are the baseline and the picks, `others` more of the calibration front."""

    first: tuple[Candidate, ...]
    others: tuple[Candidate, ...]


def verification_order(record: StudyRecord, max_members: int) -> VerificationOrder:
    """The baseline and at most `max_members` of the front; a larger front is thinned evenly along its cost.

    Where places are left, the rest of the fewer-steps curve follows, so that the rival has held-out values too.
    """
    front = calibration_front(record)
    picks = list({c.number: c for c in pick(front, record, unverified=True).values()}.values())[:max_members]
    numbers = {c.number for c in picks}
    others = [c for c in front if c.number not in numbers]
    n_others = min(len(others), max_members - len(picks))
    kept = np.unique(np.round(np.linspace(0, len(others) - 1, n_others)).astype(int)).tolist() if n_others else []
    baseline = baseline_of(record)
    first = tuple({c.number: c for c in [*([baseline] if baseline else []), *picks]}.values())
    done = {c.number for c in first}
    members = [others[i] for i in kept if others[i].number not in done]
    on_front = {c.number for c in front} | done
    rivals = [c for c in calibration_front(record, RIVAL) if c.number not in on_front]
    n_left = max_members - len(picks) - len(members)
    return VerificationOrder(first=first, others=(*members, *rivals[: max(0, n_left)]))


class Verification:
    """Measures candidates on the held-out prompts, draws their sheets, and estimates what a measurement takes."""

    def __init__(
        self,
        study: str,
        *,
        measurer: Measurer,
        evaluator: Evaluator,
        database: Database,
        held_out: Fidelity,
        settings: VerificationSettings,
    ) -> None:
        self._study = study
        self._measurer = measurer
        self._evaluator = evaluator
        self._database = database
        self._held_out = held_out
        self._settings = settings
        self._slowdowns: list[float] = []
        self._reference_s = 0.0

    def note_baseline(self, baseline: Measurement, calibration: Measured, n_prompts: int) -> None:
        """Learn what a reference costs from the first measurement of the study, on `n_prompts` prompts.

        A measurement's own `wall_s` leaves out the reference run that its first use of a fidelity entails.
        """
        scale = len(self._held_out.prompts) / n_prompts
        if calibration.reused:
            self._reference_s = REFERENCE_RUNS * n_prompts * float(np.median(baseline.latency_ms)) / 1000.0 * scale
        else:
            self._reference_s = max(0.0, calibration.cost_s - baseline.wall_s) * scale

    def expected_s(self, members: Sequence[Measurement]) -> float:
        """Seconds that measuring candidates may take, from their calibration timings; the reference is in it."""
        members_s = sum(self._member_s(m) for m in members)
        # The first measurement may have made the reference, so it says nothing about a member.
        slowdown = max(self._slowdowns[1:], default=1.0)
        reference_s = self._reference_s if not self._slowdowns else 0.0
        return MARGIN * (reference_s + slowdown * members_s)

    def _member_s(self, member: Measurement) -> float:
        n_prompts = len(self._held_out.prompts)
        n_timed = self._settings.repeats * min(self._evaluator.condition.batch_size, n_prompts)
        own_ms, baseline_ms = float(np.median(member.latency_ms)), float(np.median(member.baseline_latency_ms))
        return (n_prompts * own_ms + n_timed * (own_ms + baseline_ms)) / 1000.0

    def is_stored(self, candidate: Candidate) -> bool:
        """Whether the candidate's held-out measurement is known, so that it takes no time."""
        return self._measurer.is_stored(candidate.schedule_hash, self._held_out)

    def measure(self, candidate: Candidate) -> Measured:
        """Measure one candidate on the held-out prompts and note it in the study."""
        measured = self._measurer.measure(
            candidate.schedule, candidate.schedule_hash, self._held_out, repeats=self._settings.repeats
        )
        if not measured.reused and candidate.calibration.measurement is not None:
            self._slowdowns.append(measured.cost_s / self._member_s(candidate.calibration.measurement))
        self._database.set_held_out(self._study, schedule_hash=candidate.schedule_hash, key=measured.evaluation.key)
        return measured

    def draw_sheets(self, record: StudyRecord, may_go_on: Callable[[], bool]) -> None:
        """Save the missing ones of the contact sheets of the baseline and the picks."""
        baseline = baseline_of(record)
        chosen: Sequence[Candidate] = [*([baseline] if baseline else []), *pick(study_front(record), record).values()]
        for candidate in {c.number: c for c in chosen}.values():
            name = f"sheet-{self._measurer.key(candidate.schedule_hash, self._held_out)}"
            if self._database.artifacts.load(name) is None:
                if not may_go_on():
                    return
                n_images = min(N_SHEET_IMAGES, len(self._held_out.prompts))
                data = self._evaluator.contact_sheet(candidate.schedule, self._held_out, n_images)
                self._database.artifacts.save(name, data, "image/png")
            self._database.set_image(self._study, schedule_hash=candidate.schedule_hash, artifact=name)
