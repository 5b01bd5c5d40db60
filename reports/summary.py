"""A study in one row of facts."""

from collections import Counter

from autotune.spaces.evaluation import Failure
from autotune.spaces.front import front_support, reported_measurement, study_front
from autotune.spaces.pareto import front_hypervolume
from autotune.spaces.study_record import StudyRecord


def summarise(record: StudyRecord) -> dict[str, object]:
    """Plain facts of a study by name: settings, progress, front size, hypervolume, failures by kind.

    `held_up` counts the members of the calibration front by what the held-out values say of them.
    """
    front = [m for c in study_front(record) if (m := reported_measurement(c)) is not None]
    families = Counter(candidate.family for candidate in record.candidates)
    failures = Counter(
        str(c.calibration.outcome.kind) for c in record.candidates if isinstance(c.calibration.outcome, Failure)
    )
    return {
        "study": record.name,
        "state": str(record.state),
        "created": record.created,
        "model": record.condition.model,
        "family": record.settings.get("family"),
        "objectives": record.settings.get("objectives"),
        "constraints": record.settings.get("constraints"),
        "seed": record.settings.get("seed"),
        "wall_s": round(record.wall_s, 1),
        "candidates": len(record.candidates),
        "candidates_by_family": dict(families),
        "stopped_early": len(record.candidates) - len(record.whole) - failures.total(),
        "failures": dict(failures),
        "front_members": len(front),
        "held_up": dict(Counter(str(mark) for mark in front_support(record).values())),
        "hypervolume": front_hypervolume([m.relative_latency for m in front], [m.error for m in front]),
        "device": record.condition.device,
    }
