import dataclasses

import pytest

from autotune.reports.finding import FamilyRow, beats, family_rows, sentences
from autotune.reports.growth import arrivals
from autotune.reports.point import Point, study_points, volume
from autotune.spaces.evaluation import Measurement
from autotune.spaces.front import RIVAL, study_front
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
    return "\n".join(sentences(families(record), points, members, "latency"))


def families(record: StudyRecord) -> tuple[FamilyRow, ...]:
    return family_rows(record, study_points(record), study_front(record), "latency", arrivals(record))


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
    assert "No fewer-steps run dominates the best schedule of family ecad." in texts(study)


def test_the_speed_of_quantized_schedules_is_said_to_be_no_kernels(record: StudyRecord) -> None:
    study = study_of(record, [("fewer-steps", 0.4, 0.05), ("cachequant", 0.3, 0.04)])
    assert "low-precision kernels" not in texts(study)
    plain, member = study.candidates
    schedule = dataclasses.replace(member.schedule, quantization="a" * 64)
    quantized = dataclasses.replace(member, schedule=schedule)
    assert "their latency is not that of low-precision kernels" in texts(
        dataclasses.replace(study, candidates=(plain, quantized))
    )


def test_the_calls_of_measuring_are_counted_by_family(record: StudyRecord) -> None:
    """Of all prompts, and none of a candidate that failed."""
    study = study_of(record, [("fewer-steps", 0.4, 0.05), ("ecad", 0.3, 0.04), ("ecad", 0.2, 0.04)])
    measured = study.candidates[1].calibration.measurement
    assert measured is not None
    failed = dataclasses.replace(study.candidates[2].calibration, outcome=None)
    candidates = (*study.candidates[:2], dataclasses.replace(study.candidates[2], calibration=failed))
    rows = {row.family: row for row in families(dataclasses.replace(study, candidates=candidates))}
    assert rows["ecad"].calls == measured.network_calls * len(measured.quality["deviation"])


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
        error=0.07,
    )
    assert beats(verified, mine, "latency")


def measured(point: Point) -> Measurement:
    assert point.candidate.calibration.measurement is not None
    return point.candidate.calibration.measurement


def test_family_table_counts_failures_and_front_members(record: StudyRecord) -> None:
    front = study_front(record)
    rows = {row.family: row for row in families(record)}
    assert "baseline" not in rows
    assert rows["ecad"].failed == 8
    assert rows["ecad"].tried == 34
    assert rows["fewer-steps"].beaten is None
    assert sum(row.on_front for row in rows.values()) == len(front)
    assert rows["cache-masks"].beaten == rows["cache-masks"].best == 3


def test_what_is_added_goes_to_who_came_first_and_sums_to_the_whole(record: StudyRecord) -> None:
    study = study_of(record, [("fewer-steps", 0.5, 0.1), ("ecad", 0.5, 0.1), ("ecad", 0.25, 0.1), ("s3", 0.9, 0.5)])
    rows = {row.family: row for row in families(study)}
    # Of the box of cost 1 and three decades: half of the cost and one decade, then a quarter more of the cost.
    assert rows["fewer-steps"].added == pytest.approx(0.5 / 3)
    assert rows["ecad"].added == pytest.approx(0.25 / 3)
    assert rows["s3"].added == 0.0
    assert [rows[name].share for name in ("fewer-steps", "ecad")] == pytest.approx([2 / 3, 1 / 3])


def test_arms_of_the_joint_search_are_told_by_their_labels(record: StudyRecord) -> None:
    study = study_of(record, [("fewer-steps", 0.6, 0.1), *[("joint", 0.5 - 0.1 * i, 0.1) for i in range(4)]])
    labels = ["ecad: evolved", "s3: stage 0", "ecad: planned, 3: all", "no arm"]
    candidates = [
        dataclasses.replace(c, label=label) if label else c
        for c, label in zip(study.candidates, ["", *labels], strict=True)
    ]
    rows = {row.family: row for row in families(dataclasses.replace(study, candidates=tuple(candidates)))}
    assert rows["fewer-steps"].arms == ()
    arms = {row.family: row for row in rows["joint"].arms}
    assert {name: arm.tried for name, arm in arms.items()} == {"ecad": 2, "s3": 1}
    assert arms["ecad"].added == pytest.approx(0.2 / 3)
    assert arms["s3"].on_front == 0
    assert rows["joint"].added == pytest.approx(0.4 / 3)
    assert rows["joint"].on_front == 1


def test_the_front_and_fewer_steps_are_measured_on_the_same_prompts(record: StudyRecord) -> None:
    """Where fewer steps were not all measured again, both stand at the values of the calibration prompts."""
    front, rivals = study_front(record), [c for c in record.whole if c.family == RIVAL]
    assert all(c.held_out is not None for c in front)
    assert any(c.held_out is None for c in rivals)
    measured = [[c.calibration.measurement for c in group] for group in (front, rivals)]
    total, alone = (volume([(m.relative_latency, m.error) for m in group if m is not None]) for group in measured)
    assert f"Hypervolume of calibration values: {total:.3f} for the whole front, {alone:.3f} for" in texts(record)
    again = [dataclasses.replace(c, held_out=c.held_out or c.calibration) for c in record.candidates]
    assert "Hypervolume: " in texts(dataclasses.replace(record, candidates=tuple(again)))
