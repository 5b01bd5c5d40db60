"""Evaluations in the database: started once, finished once, found by key."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, insert, select, update
from sqlalchemy.orm import Session

from autotune.spaces.condition import Condition
from autotune.spaces.errors import StorageError
from autotune.spaces.evaluation import Evaluation, EvaluationState, Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.schedule import Schedule
from autotune.storage.tables import EvaluationRow, MeasurementRow, PromptSetRow, TimingRow
from autotune.storage.values import insert_once, intact, save_condition, save_prompt_set, save_schedule

_COUNTS = ("macs", "baseline_macs", "network_calls", "peak_memory_bytes")
_RUNS = {"schedule": "latency_ms", "baseline": "baseline_latency_ms"}


def start(
    session: Session, key: str, *, schedule: Schedule, schedule_hash: str, condition: Condition, fidelity: Fidelity
) -> None:
    """Note that an evaluation is under way; a running one starts anew, a finished one stays as it is."""
    save_schedule(session, schedule, schedule_hash)
    now = datetime.now(UTC)
    row = EvaluationRow(
        key=key,
        state=EvaluationState.RUNNING,
        condition_hash=save_condition(session, condition),
        schedule_hash=schedule_hash,
        prompt_set_hash=save_prompt_set(session, fidelity),
        started=now,
    )
    if not insert_once(session, row, EvaluationRow.id, EvaluationRow.key == key):
        running = (EvaluationRow.key == key) & (EvaluationRow.state == EvaluationState.RUNNING)
        session.execute(update(EvaluationRow).where(running).values(started=now))


def finish(session: Session, key: str, outcome: Measurement | Failure) -> None:
    """Store the outcome of a running evaluation; one that is finished already keeps its first outcome.

    Raises:
        StorageError: the evaluation was never started, or the measurement breaks a rule.
    """
    query = select(EvaluationRow.id, EvaluationRow.started, PromptSetRow.prompts).join(PromptSetRow)
    row = session.execute(query.where(EvaluationRow.key == key)).one_or_none()
    if row is None:
        raise StorageError(f"an evaluation must be started before it is finished; got the unknown key {key!r}")
    now = datetime.now(UTC)
    if isinstance(outcome, Measurement):
        _check(outcome, len(row.prompts))
        changes = _complete(outcome)
    else:
        changes = _failed(outcome) | {"wall_s": max(0.0, (now - row.started).total_seconds())}
    # The condition on the state decides between two processes that finish one key: the database runs them in turn.
    running = (EvaluationRow.id == row.id) & (EvaluationRow.state == EvaluationState.RUNNING)
    result = session.execute(update(EvaluationRow).where(running).values(finished=now, **changes))
    assert isinstance(result, CursorResult)
    if result.rowcount == 1 and isinstance(outcome, Measurement):
        _insert_values(session, row.id, outcome)


def _check(measurement: Measurement, n_prompts: int) -> None:
    rule = "a measurement is stored only if it is whole and finite"
    for metric, values in measurement.quality.items():
        if len(values) != n_prompts:
            raise StorageError(
                f"{rule}; got {len(values)} values of {metric} for {n_prompts} prompts: measure every prompt"
            )
    series = {**measurement.quality, **{name: getattr(measurement, name) for name in _RUNS.values()}}
    series["wall_s"] = (measurement.wall_s,)
    for name, values in series.items():
        for i, value in enumerate(values):
            if not math.isfinite(value):
                raise StorageError(
                    f"{rule}; got {name}[{i}] = {value}: store a Failure of kind 'nan', or cap the metric"
                )
    for name in _COUNTS:
        if not 0 <= getattr(measurement, name) < 2**63:
            raise StorageError(f"{rule}; got {name} = {getattr(measurement, name)}, which is not a count of 63 bits")


def _complete(measurement: Measurement) -> dict[str, object]:
    counts = {name: int(getattr(measurement, name)) for name in _COUNTS}
    return {"state": EvaluationState.COMPLETE, "wall_s": _float(measurement.wall_s), **counts}


def _failed(failure: Failure) -> dict[str, object]:
    # The text of an exception may hold what a database can't: lone surrogates and, on PostgreSQL, NUL.
    reason = failure.reason.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    return {"state": EvaluationState.FAILED, "failure_kind": str(failure.kind), "failure_reason": reason}


def _insert_values(session: Session, evaluation_id: int, measurement: Measurement) -> None:
    quality = [
        {"evaluation_id": evaluation_id, "metric": metric, "prompt_index": i, "value": _float(value)}
        for metric, values in measurement.quality.items()
        for i, value in enumerate(values)
    ]
    timings = [
        {"evaluation_id": evaluation_id, "run": run, "repeat": i, "latency_ms": _float(value)}
        for run, name in _RUNS.items()
        for i, value in enumerate(getattr(measurement, name))
    ]
    if quality:
        session.execute(insert(MeasurementRow), quality)
    if timings:
        session.execute(insert(TimingRow), timings)


def _float(value: float) -> float:
    return float(value) + 0.0  # minus zero becomes zero: SQLite does not keep its sign


def find(session: Session, chosen: ColumnElement[bool]) -> dict[str, Evaluation]:
    """The finished evaluations for which `chosen`, a condition on `EvaluationRow`, holds: by key, in three queries."""
    finished = chosen & (EvaluationRow.state != EvaluationState.RUNNING)
    rows = session.execute(select(EvaluationRow, PromptSetRow.name).join(PromptSetRow).where(finished)).all()
    ids = select(EvaluationRow.id).where(finished)
    quality = _by_evaluation(
        session.execute(
            select(MeasurementRow.evaluation_id, MeasurementRow.metric, MeasurementRow.value)
            .where(MeasurementRow.evaluation_id.in_(ids))
            .order_by(MeasurementRow.evaluation_id, MeasurementRow.metric, MeasurementRow.prompt_index)
        )
    )
    timings = _by_evaluation(
        session.execute(
            select(TimingRow.evaluation_id, TimingRow.run, TimingRow.latency_ms)
            .where(TimingRow.evaluation_id.in_(ids))
            .order_by(TimingRow.evaluation_id, TimingRow.run, TimingRow.repeat)
        )
    )
    with intact("an evaluation"):
        return {
            row.key: Evaluation(
                key=row.key,
                schedule_hash=row.schedule_hash,
                fidelity=fidelity,
                state=EvaluationState(row.state),
                outcome=_outcome(row, quality.get(row.id, {}), timings.get(row.id, {})),
            )
            for row, fidelity in rows
        }


def _by_evaluation(rows: Iterable[tuple[int, str, float]]) -> dict[int, dict[str, list[float]]]:
    series: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for evaluation_id, name, value in rows:
        series[evaluation_id][name].append(value)
    return series


def _outcome(
    row: EvaluationRow, quality: Mapping[str, list[float]], timings: Mapping[str, list[float]]
) -> Measurement | Failure:
    if row.state == EvaluationState.FAILED:
        return Failure(kind=FailureKind(row.failure_kind or ""), reason=row.failure_reason or "")
    fields: dict[str, Any] = {name: getattr(row, name) for name in ("wall_s", *_COUNTS)}
    fields |= {name: tuple(timings.get(run, ())) for run, name in _RUNS.items()}
    return Measurement(quality={metric: tuple(values) for metric, values in quality.items()}, **fields)
