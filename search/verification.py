"""The end of a study: its front is measured again, on prompts and seeds that the search never saw."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from autotune.search.dispatcher import Measured, Request
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.front import RIVAL, baseline_of, calibration_front, pick, record_objectives
from autotune.spaces.front_plane import FrontPlane, Point
from autotune.spaces.given_schedule import compare_given
from autotune.spaces.study_record import Candidate, StudyRecord
from autotune.spaces.worst_prompts import N_SHOWN

REFERENCE_RUNS = 5.0
"""A converged reference is taken to cost as much as this many default runs where nothing is known of it."""

MARGIN = 1.1
"""Estimates of time are stretched by this, since timings vary."""

N_SHEETS = 4
"""The baseline's and those of the picks."""


@dataclass(frozen=True, kw_only=True)
class VerificationSettings:
    """How many front members are measured again, and with how many interleaved timing repeats."""

    max_members: int = 12
    repeats: int = 3


@dataclass(frozen=True, kw_only=True)
class VerificationOrder:
    """Whom to measure again: `first` are the baseline, the picks and what given schedules are compared with.

    `others` are what the picks are to be held against, and more of the calibration front.
    """

    first: tuple[Candidate, ...]
    others: tuple[Candidate, ...]


def verification_order(
    record: StudyRecord, max_members: int, given: Collection[str] = frozenset()
) -> VerificationOrder:
    """The baseline and at most `max_members` of the front, those with the most hypervolume first.

    Each pick comes with the best of fewer steps at no more cost, and where places are left, the rest of that curve
    follows, so that the rival has held-out values too. The candidates with the schedule hashes `given` come on top,
    each with the best candidate and rival at no more cost.
    """
    front = calibration_front(record)
    picks = list({c.number: c for c in pick(front, record, unverified=True).values()}.values())[:max_members]
    numbers = {c.number for c in picks}
    others = [c for c in front if c.number not in numbers]
    kept = _most_volume(picks, others, max_members - len(picks), record)
    baseline = baseline_of(record)
    compared = [c for e in compare_given(record, given) for c in (e.given, e.refined, e.rival) if c is not None]
    first = tuple({c.number: c for c in [*([baseline] if baseline else []), *picks, *compared]}.values())
    done = {c.number for c in first}
    searched = {c.schedule_hash for c in picks if c.family != RIVAL}
    beside = [e.rival for e in compare_given(record, searched) if e.rival is not None]
    members = [c for c in kept if c.number not in done]
    seen = {c.number for c in front} | done | {c.number for c in beside}
    rivals = [c for c in calibration_front(record, RIVAL) if c.number not in seen]
    others = [*beside, *members, *rivals[: max(0, max_members - len(picks) - len(members))]]
    return VerificationOrder(first=first, others=tuple({c.number: c for c in others if c.number not in done}.values()))


def _most_volume(
    picks: Sequence[Candidate], others: Sequence[Candidate], n: int, record: StudyRecord
) -> list[Candidate]:
    """Up to `n` others, each the one that adds most to the hypervolume of the picks and of those before it."""
    plane = FrontPlane(record_objectives(record))

    def point(candidate: Candidate) -> Point:
        measurement = candidate.calibration.measurement
        assert measurement is not None  # it stands on the front
        return plane.point(measurement)

    points, left = [point(c) for c in picks], list(others)
    kept: list[Candidate] = []
    while left and len(kept) < n:
        best = left.pop(int(np.argmax(plane.volumes([[*points, point(c)] for c in left]))))
        kept.append(best)
        points.append(point(best))
    return kept


class Verification:
    """What to measure on the held-out prompts, and an estimate of the time that it takes."""

    def __init__(self, held_out: Fidelity, settings: VerificationSettings, batch_size: int) -> None:
        self._held_out = held_out
        self._settings = settings
        self._batch_size = batch_size
        self._slowdowns: list[float] = []
        self._reference_s = 0.0

    def note_baseline(self, measured: Measured) -> None:
        """Learn what a reference costs from the first measurement of the study.

        A measurement's own `wall_s` leaves out the reference run that its first use of a fidelity entails.
        """
        baseline = measured.outcome
        assert isinstance(baseline, Measurement)  # a study whose baseline fails has ended
        scale = len(self._held_out.prompts) / baseline.n_prompts
        if measured.reused:
            runs_s = baseline.n_prompts * median(baseline.latency_ms) / 1000.0
            self._reference_s = REFERENCE_RUNS * runs_s * scale
        else:
            self._reference_s = max(0.0, measured.cost_s - baseline.wall_s) * scale

    def request(self, candidate: Candidate) -> Request:
        """The held-out measurement of a candidate."""
        return Request(
            schedule=candidate.schedule,
            schedule_hash=candidate.schedule_hash,
            fidelity=self._held_out,
            repeats=self._settings.repeats,
        )

    def note(self, candidate: Candidate, measured: Measured) -> None:
        """Learn from a measurement how much longer it took than expected."""
        if not measured.reused and candidate.calibration.measurement is not None:
            self._slowdowns.append(measured.cost_s / self._member_s(candidate.calibration.measurement))

    def expected_s(self, members: Sequence[Measurement], n_workers: int = 1) -> float:
        """Seconds that measuring candidates may take, from their calibration timings; the reference is in it.

        The first one comes alone, since it makes the reference; the others share the workers.
        """
        first_s, *others_s = [self._member_s(m) for m in members] or [0.0]
        # The first measurement may have made the reference, so it says nothing about a member.
        slowdown = max(self._slowdowns[1:], default=1.0)
        reference_s = self._reference_s if not self._slowdowns else 0.0
        return MARGIN * (reference_s + slowdown * (first_s + sum(others_s) / n_workers))

    def sheet_s(self, member: Measurement, n_workers: int) -> float:
        """Seconds that a contact sheet may take; a single worker still has the images from measuring the member."""
        n_images = min(N_SHOWN, len(self._held_out.prompts))
        return 0.0 if n_workers == 1 else MARGIN * n_images * median(member.latency_ms) / 1000.0

    def _member_s(self, member: Measurement) -> float:
        n_prompts = len(self._held_out.prompts)
        n_batch = min(self._batch_size, n_prompts)
        n_own, n_baseline = n_prompts + self._settings.repeats * n_batch, self._settings.repeats * n_batch
        return (n_own * median(member.latency_ms) + n_baseline * median(member.baseline_latency_ms)) / 1000.0
