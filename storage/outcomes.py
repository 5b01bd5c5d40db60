"""What came of evaluations, as rows and back."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, bindparam, insert, select, update

from autotune.spaces.errors import StorageError
from autotune.spaces.evaluation import TOLD_COUNTS, Evaluation, EvaluationState, Failure, FailureKind, Measurement
from autotune.storage.tables import EvaluationRow, MeasurementRow, PromptSetRow, TimingRow
from autotune.storage.values import intact, storable_text

COUNTS = ("macs", "baseline_macs", "network_calls", "peak_memory_bytes")
TIMED = {"schedule": "latency_ms", "baseline": "baseline_latency_ms"}
METERED = {"schedule_energy": "energy_j", "baseline_energy": "baseline_energy_j"}
RUNS = TIMED | METERED
"""Fields of a measurement with a value per timed run, by `TimingRow.run`; those of energy are often empty."""

CHUNK = 500
"""At most so many values in one IN list: databases limit the number of parameters."""

_FINISH = update(EvaluationRow).where(EvaluationRow.id == bindparam("row_id")).values(owner=None)
_INSERT_QUALITY, _INSERT_TIMINGS = insert(MeasurementRow), insert(TimingRow)

T = TypeVar("T")


def chunks(values: Iterable[T]) -> Iterator[list[T]]:
    """The values in lists of at most `CHUNK`."""
    iterator = iter(values)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def stored_form(outcome: Measurement | Failure, n_prompts: int) -> Measurement | Failure:
    """The outcome as the database gives it back.

    Minus zero becomes zero, since SQLite does not keep its sign, and the reason of a failure loses what a database
    can't hold.

    Raises:
        StorageError: a measurement misses a prompt, or holds a value that is not finite or no count.
    """
    if isinstance(outcome, Failure):
        return Failure(kind=FailureKind(outcome.kind), reason=storable_text(outcome.reason))
    made: dict[str, Any] = {name: _count(name, getattr(outcome, name)) for name in COUNTS}
    told = {name: getattr(outcome, name) for name in TOLD_COUNTS}
    made |= {name: value if value is None else _count(name, value) for name, value in told.items()}
    made |= {name: _finite(name, getattr(outcome, name)) for name in RUNS.values()}
    quality = {metric: _finite(metric, values) for metric, values in outcome.quality.items()}
    for metric, values in quality.items():
        if len(values) != n_prompts:
            raise StorageError(
                f"{_RULE}; got {len(values)} values of {metric} for {n_prompts} prompts: measure every prompt"
            )
    (wall_s,) = _finite("wall_s", (outcome.wall_s,))
    return Measurement(quality=quality, wall_s=wall_s, **made)


_RULE = "a measurement is stored only if it is whole and finite"


def _finite(name: str, values: Iterable[float]) -> tuple[float, ...]:
    made = tuple([float(value) + 0.0 for value in values])
    for i, value in enumerate(made):
        if not math.isfinite(value):
            raise StorageError(f"{_RULE}; got {name}[{i}] = {value}: store a Failure of kind 'nan', or cap the metric")
    return made


def _count(name: str, value: int) -> int:
    if not 0 <= value < 2**63:
        raise StorageError(f"{_RULE}; got {name} = {value}, which is not a count of 63 bits")
    return int(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """An outcome in its stored form, and the row of the running evaluation that it ends."""

    row_id: int
    outcome: Measurement | Failure
    finished: datetime
    wall_s: float


def write_finished(connection: Connection, ended: Sequence[Finished]) -> None:
    """Write outcomes; this transaction holds the rows, which are in the state `running`."""
    if not ended:
        return
    changes = [{"row_id": e.row_id, "finished": e.finished, "wall_s": e.wall_s, **_columns(e.outcome)} for e in ended]
    connection.execute(_FINISH, changes)
    measured = [(e.row_id, e.outcome) for e in ended if isinstance(e.outcome, Measurement)]
    quality = [
        {"evaluation_id": row_id, "metric": metric, "prompt_index": i, "value": value}
        for row_id, measurement in measured
        for metric, values in measurement.quality.items()
        for i, value in enumerate(values)
    ]
    timings = [
        {"evaluation_id": row_id, "run": run, "repeat": i, "latency_ms": value}
        for row_id, measurement in measured
        for run, name in RUNS.items()
        for i, value in enumerate(getattr(measurement, name))
    ]
    if quality:
        connection.execute(_INSERT_QUALITY, quality)
    if timings:
        connection.execute(_INSERT_TIMINGS, timings)


def _columns(outcome: Measurement | Failure) -> dict[str, object]:
    """The same columns whatever the outcome, so that many rows are one statement."""
    if isinstance(outcome, Failure):
        failed = {
            "failure_kind": str(outcome.kind),
            "failure_reason": outcome.reason,
            **dict.fromkeys((*COUNTS, *TOLD_COUNTS)),
        }
        return {"state": EvaluationState.FAILED, **failed}
    counts = {name: getattr(outcome, name) for name in (*COUNTS, *TOLD_COUNTS)}
    return {"state": EvaluationState.COMPLETE, "failure_kind": None, "failure_reason": None, **counts}


def find(connection: Connection, keys: Collection[str]) -> dict[str, Evaluation]:
    """The finished ones of these evaluations, by key."""
    found: dict[str, Evaluation] = {}
    for chunk in chunks(keys):
        found |= find_where(connection, EvaluationRow.key.in_(chunk))
    return found


def find_where(connection: Connection, chosen: ColumnElement[bool]) -> dict[str, Evaluation]:
    """The finished evaluations for which `chosen`, a condition on `EvaluationRow`, holds: by key, in three queries."""
    finished = chosen & (EvaluationRow.state != EvaluationState.RUNNING)
    columns = (*EvaluationRow.__table__.columns, PromptSetRow.name.label("fidelity"))
    rows = connection.execute(
        select(*columns).join(PromptSetRow, PromptSetRow.hash == EvaluationRow.prompt_set_hash).where(finished)
    ).all()
    if not rows:
        return {}
    ids = select(EvaluationRow.id).where(finished)
    quality = _by_evaluation(
        connection.execute(
            select(MeasurementRow.evaluation_id, MeasurementRow.metric, MeasurementRow.value)
            .where(MeasurementRow.evaluation_id.in_(ids))
            .order_by(MeasurementRow.evaluation_id, MeasurementRow.metric, MeasurementRow.prompt_index)
        )
    )
    timings = _by_evaluation(
        connection.execute(
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
                fidelity=row.fidelity,
                state=EvaluationState(row.state),
                outcome=_outcome(row, quality.get(row.id, {}), timings.get(row.id, {})),
            )
            for row in rows
        }


def _by_evaluation(rows: Iterable[tuple[int, str, float]]) -> dict[int, dict[str, list[float]]]:
    series: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for evaluation_id, name, value in rows:
        series[evaluation_id][name].append(value)
    return series


def _outcome(row: Any, quality: Mapping[str, list[float]], timings: Mapping[str, list[float]]) -> Measurement | Failure:
    if row.state == EvaluationState.FAILED:
        return Failure(kind=FailureKind(row.failure_kind or ""), reason=row.failure_reason or "")
    fields: dict[str, Any] = {name: getattr(row, name) for name in ("wall_s", *COUNTS, *TOLD_COUNTS)}
    fields |= {name: tuple(timings.get(run, ())) for run, name in RUNS.items()}
    return Measurement(quality={metric: tuple(values) for metric, values in quality.items()}, **fields)
