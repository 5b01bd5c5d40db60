"""A schedule that a study is given to start from, and how it compares with what the study found."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from autotune.spaces.errors import StorageError
from autotune.spaces.front import (
    BASELINE,
    RIVAL,
    record_constraints,
    relative_cost,
)
from autotune.spaces.objective import total_violation
from autotune.spaces.schedule import Schedule, schedule_hash, schedule_to_json
from autotune.spaces.schedule_json import schedule_from_json
from autotune.spaces.study_record import Candidate, StudyRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenSchedule:
    """A canonical schedule of a file, re-timed for the study's run.

    `source` says what the file measured, JSON types only: model, n_steps, height, width, guidance_scale, and, if it was
    measured, latency_ms, speedup, deviation or success, and measured_on. `remarks` are sentences on what was left out.
    """

    label: str
    schedule: Schedule
    source: Mapping[str, object] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """A JSON object that `given_from_json` reads back."""
        return {
            "label": self.label,
            "schedule": schedule_to_json(self.schedule),
            "source": dict(self.source),
            "remarks": list(self.remarks),
        }


def given_from_json(data: Mapping[str, object]) -> GivenSchedule:
    """The schedule that `GivenSchedule.to_json` wrote.

    Raises:
        StorageError: the object is of another form.
        ScheduleError: its schedule is.
    """
    schedule, source, remarks = data.get("schedule"), data.get("source"), data.get("remarks")
    if not isinstance(schedule, Mapping) or not isinstance(source, Mapping) or not isinstance(remarks, list | tuple):
        raise StorageError("a given schedule of a study has schedule, source and remarks; the record was edited")
    return GivenSchedule(
        label=str(data.get("label")),
        schedule=schedule_from_json(schedule),
        source=source,
        remarks=tuple(str(remark) for remark in remarks),
    )


def record_given(record: StudyRecord) -> tuple[GivenSchedule, ...]:
    """The schedules that a study was given, from its settings."""
    given = record.settings.get("given") or ()
    assert isinstance(given, Sequence)
    return tuple(given_from_json(data) for data in given)


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenComparison:
    """A given schedule, and what there is at no more cost: the best that the search found, and the best plain rival.

    `refined` is the given schedule itself where nothing is better. Both are chosen by the error on the calibration
    prompts, among the candidates with held-out values if the given one has some.
    """

    given: Candidate
    refined: Candidate
    rival: Candidate | None


def compare_given(record: StudyRecord, hashes: Collection[str]) -> tuple[GivenComparison, ...]:
    """The comparison of each candidate with one of these schedule hashes that was measured, in order of number."""
    constraints = record_constraints(record)
    whole = [c for c in record.whole if (m := c.calibration.measurement) and total_violation(constraints, m) == 0.0]
    found = []
    for given in record.candidates:
        if given.schedule_hash not in hashes or given.calibration.measurement is None:
            continue
        verified = _is_verified(given)
        others = [
            c
            for c in whole
            if c.number != given.number
            and (not verified or _is_verified(c))
            and relative_cost(c, record) <= relative_cost(given, record)
        ]
        refined = [given, *(c for c in others if c.family not in (RIVAL, BASELINE))]
        rivals = [c for c in others if c.family == RIVAL]
        found.append(
            GivenComparison(
                given=given,
                refined=min(refined, key=_calibration_error),
                rival=min(rivals, key=_calibration_error, default=None),
            )
        )
    return tuple(found)


def given_hashes(given: Sequence[tuple[str, Schedule]]) -> frozenset[str]:
    """The hashes of labelled schedules."""
    return frozenset(schedule_hash(schedule) for _, schedule in given)


def _is_verified(candidate: Candidate) -> bool:
    return candidate.held_out is not None and candidate.held_out.measurement is not None


def _calibration_error(candidate: Candidate) -> float:
    measurement = candidate.calibration.measurement
    return float("inf") if measurement is None else measurement.error
