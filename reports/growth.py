"""How the front grew: what each candidate added to the hypervolume, in the order in which they were tried."""

from dataclasses import dataclass

from autotune.reports.point import cost_and_error, cost_name
from autotune.spaces.pareto import BoxVolume
from autotune.spaces.study_record import Candidate, StudyRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One candidate in the order of trying, by its values on the calibration prompts.

    `added` is what it added to the hypervolume of those before it, `hypervolume` that of all so far. `measured_s` is
    the time of measuring all so far, which leaves out failures, references and the search's own work.
    """

    candidate: Candidate
    added: float
    hypervolume: float
    measured_s: float


def arrivals(record: StudyRecord) -> tuple[Arrival, ...]:
    """All candidates by number; those that failed or were stopped early added nothing."""
    cost = cost_name(record)
    whole = {candidate.number for candidate in record.whole}
    box, seconds, found = BoxVolume(), 0.0, []
    for candidate in sorted(record.candidates, key=lambda c: c.number):
        before, measurement = box.fraction, candidate.calibration.measurement
        place = cost_and_error(measurement, cost) if candidate.number in whole else None
        if place is not None:
            box.add(*place)
        if measurement is not None:
            seconds += measurement.wall_s
        found.append(
            Arrival(
                candidate=candidate, added=box.fraction - before, hypervolume=box.fraction, measured_s=seconds
            )
        )  # fmt: skip
    return tuple(found)
