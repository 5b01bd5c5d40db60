"""Lines of an export that studies rest on: conditions, prompt sets, schedules and evaluations.

Each function takes lines of one kind, checks them as a user's input, stores what is new and returns how many that were.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, select
from sqlalchemy.orm import InstrumentedAttribute

from autotune.spaces.condition import Condition, condition_from_json
from autotune.spaces.evaluation import TOLD_COUNTS, EvaluationState, Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.schedule import Schedule, schedule_hash
from autotune.spaces.schedule_json import schedule_from_json
from autotune.storage.evaluations import lock
from autotune.storage.export_line import Line
from autotune.storage.insert import insert_missing
from autotune.storage.outcomes import COUNTS, METERED, TIMED, Finished, chunks, stored_form, write_finished
from autotune.storage.tables import WORD, ConditionRow, EvaluationRow, PromptSetRow, ScheduleRow
from autotune.storage.values import save_conditions, save_prompt_sets, save_schedules

T = TypeVar("T")


def import_conditions(connection: Connection, lines: Iterable[Line]) -> int:
    """Store conditions."""
    return save_conditions(connection, _hashed(lines, _condition, lambda condition: condition.hash))


def import_prompt_sets(connection: Connection, lines: Iterable[Line]) -> int:
    """Store prompt sets."""
    return save_prompt_sets(connection, _hashed(lines, _fidelity, lambda fidelity: fidelity.hash))


def import_schedules(connection: Connection, lines: Iterable[Line]) -> int:
    """Store schedules."""
    return save_schedules(connection, _hashed(lines, _schedule, schedule_hash))


def _condition(line: Line) -> Condition:
    return condition_from_json(line.mapping("data"))


def _schedule(line: Line) -> Schedule:
    return schedule_from_json(line.mapping("data"))


def _fidelity(line: Line) -> Fidelity:
    return Fidelity(
        name=line.text("name", longest=WORD.length),
        prompts=line.sequence("prompts", str),
        seeds=line.sequence("seeds", int),
    )


def _hashed(lines: Iterable[Line], parse: Callable[[Line], T], hash_of: Callable[[T], str]) -> dict[str, T]:
    """The values of lines by their hashes, which are made again and compared."""
    made: dict[str, T] = {}
    for line in lines:
        given = line.digest("hash")
        with line.explained():
            value = parse(line)
            found = hash_of(value)
        if found != given:
            raise line.error(f"hash must be that of the value, {found}; got {given}: the line was changed")
        line.end()
        made[given] = value
    return made


def import_evaluations(connection: Connection, lines: Sequence[Line]) -> int:
    """Store finished evaluations; one that is finished here keeps its outcome, one that runs here ends with this."""
    parsed: dict[str, tuple[Line, _Evaluation]] = {}
    for line in lines:
        evaluation = _evaluation(line)
        parsed.setdefault(evaluation.key, (line, evaluation))
    given = list(parsed.values())
    require(connection, ConditionRow.hash, [(line, "condition", e.condition_hash) for line, e in given])
    require(connection, ScheduleRow.hash, [(line, "schedule", e.schedule_hash) for line, e in given])
    require(connection, PromptSetRow.hash, [(line, "prompt_set", e.prompt_set_hash) for line, e in given])
    n_prompts = _count_prompts(connection, {e.prompt_set_hash for _, e in given})
    rows = [
        {
            "key": e.key,
            "state": EvaluationState.RUNNING,
            "condition_hash": e.condition_hash,
            "schedule_hash": e.schedule_hash,
            "prompt_set_hash": e.prompt_set_hash,
            "started": e.started,
            "n_lost": e.n_lost,
            "lost_reason": e.lost_reason,
        }
        for _, e in given
    ]
    insert_missing(connection, EvaluationRow, rows)
    here = {row.key: row for row in lock(connection, parsed)}
    ended: list[Finished] = []
    for line, e in given:
        row = here[e.key]
        for name in ("condition", "schedule", "prompt_set"):
            if getattr(row, f"{name}_hash") != getattr(e, f"{name}_hash"):
                raise line.error(
                    f"{name} must be that of evaluation {e.key[:12]} here, {getattr(row, f'{name}_hash')[:12]}"
                )
        with line.explained():
            outcome = stored_form(e.outcome, n_prompts[e.prompt_set_hash])
        if row.state == EvaluationState.RUNNING:
            ended.append(Finished(row_id=row.id, outcome=outcome, finished=e.finished, wall_s=e.wall_s))
    write_finished(connection, ended)
    return len(ended)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evaluation:
    key: str
    condition_hash: str
    schedule_hash: str
    prompt_set_hash: str
    started: datetime
    finished: datetime
    wall_s: float
    n_lost: int
    lost_reason: str | None
    outcome: Measurement | Failure


def _evaluation(line: Line) -> _Evaluation:
    wall_s = line.number_of("wall_s")
    made = _Evaluation(
        key=line.digest("key"),
        condition_hash=line.digest("condition"),
        schedule_hash=line.digest("schedule"),
        prompt_set_hash=line.digest("prompt_set"),
        started=line.moment("started"),
        finished=line.moment("finished"),
        wall_s=wall_s,
        n_lost=line.count("n_lost", bits=31),
        lost_reason=line.text_or_none("lost_reason"),
        outcome=_failure(line) if line.has("failure") else _measurement(line, wall_s),
    )
    line.end()
    return made


def _failure(line: Line) -> Failure:
    inner = line.inner("failure")
    kind = inner.text("kind")
    if kind not in list(FailureKind):
        raise line.error(f"failure.kind must be one of {', '.join(FailureKind)}; got {kind!r}")
    made = Failure(kind=FailureKind(kind), reason=inner.text("reason"))
    inner.end()
    return made


def _measurement(line: Line, wall_s: float) -> Measurement:
    inner = line.inner("measurement")
    quality = inner.inner("quality")
    metrics = quality.names
    for metric in metrics:
        if WORD.length is not None and len(metric) > WORD.length:
            raise line.error(f"a metric must have at most {WORD.length} characters; got {metric!r}")
    fields: dict[str, Any] = {name: inner.sequence(name, int, float) for name in TIMED.values()}
    fields |= {name: inner.sequence(name, int, float) for name in METERED.values() if inner.has(name)}
    fields |= {name: inner.count(name) for name in COUNTS}
    fields |= {name: inner.count(name) for name in TOLD_COUNTS if inner.has(name)}
    inner.end()
    values = {metric: quality.sequence(metric, int, float) for metric in metrics}
    return Measurement(quality=values, wall_s=wall_s, **fields)


def _count_prompts(connection: Connection, hashes: Iterable[str]) -> Mapping[str, int]:
    query = select(PromptSetRow.hash, PromptSetRow.prompts)
    rows = [row for chunk in chunks(hashes) for row in connection.execute(query.where(PromptSetRow.hash.in_(chunk)))]
    return {digest: len(prompts) for digest, prompts in rows}


def require(
    connection: Connection, column: InstrumentedAttribute[str], references: Sequence[tuple[Line, str, str | None]]
) -> None:
    """Raise where a line refers, by a field, to something that is not in the database; None refers to nothing.

    Args:
        connection: the transaction that imports.
        column: where what is referred to is named.
        references: line, field and the name that the field gives.
    """
    wanted = {given for _, _, given in references if given is not None}
    known = {name for chunk in chunks(wanted) for name in connection.scalars(select(column).where(column.in_(chunk)))}
    for line, field, given in references:
        if given is not None and given not in known:
            raise line.error(f"{field} must name what stands before it or in the database; there is no {given!r}")
