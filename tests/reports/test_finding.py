import dataclasses

from autotune.reports.finding import beats, family_rows, sentences
from autotune.reports.point import Point, study_points
from autotune.spaces.evaluation import Measurement
from autotune.spaces.front import study_front
from autotune.spaces.study_record import Candidate, StudyRecord


def made(candidate: Candidate, number: int, family: str, cost: float, deviation: float) -> Candidate:
    """The candidate again, with other figures and as if it were another schedule."""
    old = candidate.calibration.measurement
    assert old is not None
    outcome = dataclasses.replace(
        old, quality={"deviation": (deviation,) * 4}, latency_ms=(cost,) * 3, baseline_latency_ms=(1.0,) * 3
    )
    evaluation = dataclasses.replace(candidate.calibration, outcome=outcome)
    return dataclasses.replace(
        candidate, number=number, family=family, schedule_hash=f"{number:064x}", calibration=evaluation, held_out=None
    )


def study_of(record: StudyRecord, figures: list[tuple[str, float, float]]) -> StudyRecord:
    base = record.candidates[0]
    candidates = [made(base, i, family, cost, deviation) for i, (family, cost, deviation) in enumerate(figures)]
    return dataclasses.replace(record, candidates=tuple(candidates), images={})


def texts(record: StudyRecord) -> str:
    points, front = study_points(record), study_front(record)
    members = [p for p in points if p.candidate in front]
    return "\n".join(sentences(family_rows(record, points, front, "latency"), points, members))


def test_a_family_that_fewer_steps_beat_everywhere_is_said_not_to_pay(record: StudyRecord) -> None:
    study = study_of(record, [("fewer-steps", 0.4, 0.05), ("ecad", 0.5, 0.06), ("ecad", 0.45, 0.07)])
    assert "Family ecad does not pay here: its best 2 schedules are all dominated by taking fewer steps." in texts(
        study
    )


def test_a_family_with_one_schedule_beyond_fewer_steps_is_counted(record: StudyRecord) -> None:
    study = study_of(record, [("fewer-steps", 0.4, 0.05), ("ecad", 0.5, 0.06), ("ecad", 0.6, 0.01)])
    assert "Fewer steps dominate 1 of the best 2 schedules of family ecad." in texts(study)


def test_a_family_that_fewer_steps_never_beat_is_said_so(record: StudyRecord) -> None:
    study = study_of(record, [("fewer-steps", 0.4, 0.05), ("ecad", 0.3, 0.04)])
    assert "No fewer-steps run dominates any of the best 1 schedule of family ecad." in texts(study)


def test_a_study_without_fewer_steps_says_that_the_rival_is_missing(record: StudyRecord) -> None:
    assert "No fewer-steps run was measured" in texts(study_of(record, [("ecad", 0.3, 0.04)]))


def test_calibration_and_held_out_values_are_never_compared(record: StudyRecord) -> None:
    rival, mine = study_points(study_of(record, [("fewer-steps", 0.4, 0.05), ("ecad", 0.4, 0.06)]))
    assert beats(rival, mine, "latency")
    worse = dataclasses.replace(measured(rival), quality={"deviation": (0.07,) * 4})
    held_out = dataclasses.replace(rival.candidate.calibration, outcome=worse)
    verified = dataclasses.replace(
        rival,
        candidate=dataclasses.replace(rival.candidate, held_out=held_out),
        source="held_out",
        measurement=worse,
        deviation=0.07,
    )
    assert beats(verified, mine, "latency")


def measured(point: Point) -> Measurement:
    assert point.candidate.calibration.measurement is not None
    return point.candidate.calibration.measurement


def test_family_table_counts_failures_and_front_members(record: StudyRecord) -> None:
    front = study_front(record)
    rows = {row.family: row for row in family_rows(record, study_points(record), front, "latency")}
    assert "baseline" not in rows
    assert rows["ecad"].failed == 8
    assert rows["ecad"].tried == 34
    assert rows["fewer-steps"].beaten is None
    assert sum(row.on_front for row in rows.values()) == len(front)
    assert rows["cache-masks"].beaten == rows["cache-masks"].best == 3
