"""Other studies made of one record: faster, better, or of another condition."""

import dataclasses
from collections.abc import Collection

from autotune.spaces.ablation import Removal
from autotune.spaces.evaluation import Evaluation, EvaluationState, Failure, FailureKind
from autotune.spaces.front import BASELINE
from autotune.spaces.study_record import Candidate, StudyRecord


def scaled(evaluation: Evaluation, cost: float, deviation: float) -> Evaluation:
    """The evaluation with its latency and its deviations times a factor."""
    old = evaluation.measurement
    if old is None:
        return evaluation
    quality = dict(old.quality) | {"deviation": tuple(deviation * d for d in old.quality["deviation"])}
    outcome = dataclasses.replace(old, quality=quality, latency_ms=tuple(cost * t for t in old.latency_ms))
    return dataclasses.replace(evaluation, outcome=outcome)


def twin(
    record: StudyRecord, name: str, *, cost: float = 1.0, deviation: float = 1.0, **condition: object
) -> StudyRecord:
    """The study under another name; all but the default run times these factors.

    Under another condition the evaluations have other keys.
    """

    def made(evaluation: Evaluation | None, candidate: Candidate) -> Evaluation | None:
        if evaluation is None:
            return None
        result = evaluation if candidate.family == BASELINE else scaled(evaluation, cost, deviation)
        return dataclasses.replace(result, key=result.key + name) if condition else result

    candidates = []
    for c in record.candidates:
        calibration = made(c.calibration, c)
        assert calibration is not None
        candidates.append(dataclasses.replace(c, calibration=calibration, held_out=made(c.held_out, c)))
    changed = dataclasses.replace(record.condition, **condition)  # type: ignore[arg-type]
    return dataclasses.replace(record, name=name, candidates=tuple(candidates), condition=changed)


def without_held_out(record: StudyRecord, numbers: Collection[int]) -> StudyRecord:
    """The study as if these candidates had not been measured again."""
    candidates = (dataclasses.replace(c, held_out=None) if c.number in numbers else c for c in record.candidates)
    return dataclasses.replace(record, candidates=tuple(candidates))


def removal(member: Candidate, column: str, *, cost: float = 1.0, deviation: float = 1.0) -> Removal:
    """A member without a column, measured at its own held-out values times these factors."""
    assert member.held_out is not None
    return Removal(
        member=member.schedule_hash, column=column, schedule_hash=f"less-{column}", key=f"{member.number}-{column}",
        evaluation=scaled(member.held_out, cost, deviation),
    )  # fmt: skip


def failed_removal(member: Candidate, column: str) -> Removal:
    """A member that can't run without a column."""
    made = removal(member, column)
    assert made.evaluation is not None
    outcome = Failure(kind=FailureKind.NAN, reason="the latents hold NaN")
    evaluation = dataclasses.replace(made.evaluation, state=EvaluationState.FAILED, outcome=outcome)
    return dataclasses.replace(made, evaluation=evaluation)
