"""From a study's candidate to the schedule file that production applies."""

from collections.abc import Callable

from autotune.reports.tables import OF_PRECISION
from autotune.spaces.errors import StorageError, UsageError
from autotune.spaces.evaluation import Evaluation
from autotune.spaces.front import PICKS, pick, study_front
from autotune.spaces.pick_rule import parse_pick_rule, pick_by_rule
from autotune.spaces.schedule_file import ScheduleFile
from autotune.spaces.study_record import Candidate, StudyRecord
from autotune.spaces.table_files import table_name


def make_schedule_file(
    record: StudyRecord, candidate: Candidate, load_artifact: Callable[[str], bytes | None]
) -> ScheduleFile:
    """The schedule file of a candidate, with every raw figure that the study measured of it and where it came from.

    Raises:
        StorageError: a table that the schedule names is not among the artifacts.
    """
    tables = {}
    for column, digest in candidate.schedule.tables.items():
        data = load_artifact(table_name(record.condition.hash, digest))
        if data is None:
            raise StorageError(
                f"the table {digest[:12]} of the column {column} must be among the artifacts, and is not: restore it, "
                "or import the study again from a file that `autotune db export --artifacts` wrote"
            )
        tables[digest] = data
    measured = {"calibration": _figures(candidate.calibration)}
    if candidate.held_out is not None:
        measured["held_out"] = _figures(candidate.held_out)
    return ScheduleFile(
        schedule=candidate.schedule,
        condition=record.condition,
        measured=measured,
        provenance={
            "study": record.name,
            "created": record.created,
            "family": candidate.family,
            "label": candidate.label,
            "seed": record.settings.get("seed"),
            "machine": dict(record.provenance),
        },
        tables=tables,
    )


def _figures(evaluation: Evaluation) -> dict[str, object]:
    measurement = evaluation.measurement
    if measurement is None:
        return {"state": str(evaluation.state)}
    return {
        "speedup": 1.0 / measurement.relative_latency,
        "relative_macs": measurement.relative_macs,
        "network_calls": measurement.network_calls,
        "macs": measurement.macs,
        "peak_memory_bytes": measurement.peak_memory_bytes,
        **{name: value for name in OF_PRECISION if (value := getattr(measurement, name)) is not None},
        "quality_mean": {name: measurement.mean(name) for name in measurement.quality},
        "quality_per_prompt": {name: list(values) for name, values in measurement.quality.items()},
        "latency_ms": list(measurement.latency_ms),
        "baseline_latency_ms": list(measurement.baseline_latency_ms),
        **{name: list(runs) for name in ("energy_j", "baseline_energy_j") if (runs := getattr(measurement, name))},
    }


def find_candidate(record: StudyRecord, which: str) -> Candidate:
    """The candidate that a pick's name, a limit (see `PickRule`), or the start of a schedule hash stands for.

    Raises:
        UsageError: the study has no front yet, no candidate or more than one fits, or a limit is malformed.
    """
    if which in PICKS:
        picks = pick(study_front(record), record)
        if which not in picks:
            raise UsageError(f"study {record.name!r} has no feasible schedule yet, so no {which} pick; resume it first")
        return picks[which]
    if "=" in which or "<" in which or ">" in which:
        return pick_by_rule(parse_pick_rule(which), record)
    fitting = {c.schedule_hash: c for c in record.candidates if c.schedule_hash.startswith(which)}
    if len(fitting) != 1:
        raise UsageError(
            f"a pick is one of {', '.join(PICKS)}, a limit such as latency<=0.5x or psnr>=30, or the start of exactly "
            f"one schedule hash of the study; {which!r} fits {len(fitting)}: see `autotune front {record.name}`"
        )
    return next(iter(fitting.values()))
