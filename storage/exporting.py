"""Studies as the lines of an export: in a fixed order and page by page, so that memory does not grow with them."""

import base64
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, exists, or_, select, true

from autotune.spaces.evaluation import TOLD_COUNTS, EvaluationState, Failure, Measurement
from autotune.storage.database import Database
from autotune.storage.export_file import Write, writing
from autotune.storage.migrate import HEAD
from autotune.storage.outcomes import CHUNK, COUNTS, METERED, TIMED, find_where
from autotune.storage.studies import find_study
from autotune.storage.tables import (
    ArtifactRow,
    CandidateRow,
    ConditionRow,
    EvaluationRow,
    PromptSetRow,
    ScheduleRow,
    StudyRow,
)
from autotune.storage.values import intact

_FINISHED = EvaluationRow.state != EvaluationState.RUNNING
_IS_ITS_OWN = EvaluationRow.key == CandidateRow.evaluation_key
_HELD_OUT = select(EvaluationRow.key).where(EvaluationRow.key == CandidateRow.held_out_key, _FINISHED).scalar_subquery()
_EVALUATION, _CANDIDATE = EvaluationRow.__table__.columns, CandidateRow.__table__.columns

Read = Callable[[str], bytes | None]


def export(
    database: Database, path: Path, studies: Collection[str] | None = None, *, artifacts: bool = False
) -> dict[str, int]:
    """Write finished evaluations, studies and artifacts to a file that `import_file` reads, here or elsewhere.

    Args:
        database: where to read; running studies go on meanwhile.
        path: the file, made whole or not at all; compressed if its name ends in `.gz`.
        studies: the studies to write, with all that belongs to them; None for everything in the database.
        artifacts: also write the contents of artifacts, not only their names.

    Returns:
        How many lines of each kind the file has.

    Raises:
        StorageError: there is no such study, a row can't be read, or the file can't be written.
    """

    def work(connection: Connection) -> dict[str, int]:
        n_lines: Counter[str] = Counter()
        with writing(path, HEAD) as write:

            def count(line: Mapping[str, object]) -> None:
                n_lines[str(line["kind"])] += 1
                write(line)

            _write_all(connection, count, studies, database.artifacts.read if artifacts else None)
        return dict(n_lines)

    return database.sessions.read(work)


def _write_all(connection: Connection, write: Write, names: Collection[str] | None, read: Read | None) -> None:
    ids = None if names is None else [find_study(connection, name) for name in dict.fromkeys(names)]
    with intact("the database"):
        conditions = _write_values(connection, write, ids)
        _write_evaluations(connection, write, ids)
        images = _write_studies(connection, write, ids)
        artifacts = connection.execute(select(*ArtifactRow.__table__.columns)).all()
        for row in sorted(artifacts, key=lambda row: str(row.name)):
            if ids is None or row.name in images or conditions & set(row.name.split("/")):
                write(_artifact(row, read))


def _pages(
    connection: Connection, columns: Collection[Any], by: ColumnElement[Any], chosen: ColumnElement[bool]
) -> Iterator[Row[Any]]:
    """The rows for which `chosen` holds, in the order of the unique column `by`."""
    query = select(*columns, by.label("place")).where(chosen).order_by(by).limit(CHUNK)
    rows: Sequence[Any] = connection.execute(query).all()
    while rows:
        yield from rows
        rows = connection.execute(query.where(by > rows[-1].place)).all() if len(rows) == CHUNK else []


def _write_values(connection: Connection, write: Write, ids: list[int] | None) -> set[str]:
    """Write conditions, prompt sets and schedules; returns the hashes of the conditions."""
    of_condition: ColumnElement[bool] = true()
    of_prompt_set: ColumnElement[bool] = true()
    of_schedule: ColumnElement[bool] = exists().where(EvaluationRow.schedule_hash == ScheduleRow.hash, _FINISHED)
    if ids is not None:
        mine = CandidateRow.study_id.in_(ids)
        keys = select(CandidateRow.evaluation_key).where(mine).union(select(CandidateRow.held_out_key).where(mine))
        made = EvaluationRow.key.in_(keys)
        of_condition = or_(
            ConditionRow.hash.in_(select(StudyRow.condition_hash).where(StudyRow.id.in_(ids))),
            ConditionRow.hash.in_(select(EvaluationRow.condition_hash).where(made)),
        )
        of_prompt_set = PromptSetRow.hash.in_(select(EvaluationRow.prompt_set_hash).where(made))
        of_schedule = exists().where(CandidateRow.schedule_hash == ScheduleRow.hash, mine, _IS_ITS_OWN, _FINISHED)
    conditions = set()
    for row in _pages(connection, [ConditionRow.data], ConditionRow.__table__.columns.hash, of_condition):
        conditions.add(row.place)
        write({"kind": "condition", "hash": row.place, "data": row.data})
    columns = (PromptSetRow.name, PromptSetRow.prompts, PromptSetRow.seeds)
    for row in _pages(connection, columns, PromptSetRow.__table__.columns.hash, of_prompt_set):
        write({"kind": "prompt_set", "hash": row.place, "name": row.name, "prompts": row.prompts, "seeds": row.seeds})
    for row in _pages(connection, [ScheduleRow.data], ScheduleRow.__table__.columns.hash, of_schedule):
        write({"kind": "schedule", "hash": row.place, "data": row.data})
    return conditions


def _write_evaluations(connection: Connection, write: Write, ids: list[int] | None) -> None:
    if ids is None:
        _write_evaluations_where(connection, write, true(), set())
        return
    mine = CandidateRow.study_id.in_(ids)
    # Few, and asked for by a column without an index: first, and once.
    keys = connection.scalars(select(CandidateRow.held_out_key).where(mine))
    held_out = {key for key in keys if key is not None}
    for key in sorted(held_out):
        _write_evaluations_where(connection, write, EvaluationRow.key == key, set())
    _write_evaluations_where(connection, write, exists().where(_IS_ITS_OWN, mine), held_out)


def _write_evaluations_where(connection: Connection, write: Write, chosen: ColumnElement[bool], but: set[str]) -> None:
    page: list[Row[Any]] = []
    for row in _pages(connection, list(_EVALUATION), _EVALUATION.id, chosen & _FINISHED):
        page.append(row)
        if len(page) == CHUNK:
            _write_page(connection, write, page, but)
            page = []
    _write_page(connection, write, page, but)


def _write_page(connection: Connection, write: Write, page: list[Row[Any]], but: set[str]) -> None:
    found = find_where(connection, EvaluationRow.id.in_([row.id for row in page]))
    for row in page:
        if row.key in but:
            continue
        outcome = found[row.key].outcome
        line: dict[str, object] = {
            "kind": "evaluation",
            "key": row.key,
            "condition": row.condition_hash,
            "schedule": row.schedule_hash,
            "prompt_set": row.prompt_set_hash,
            "started": row.started.isoformat(),
            "finished": row.finished.isoformat(),
            "wall_s": row.wall_s,
            "n_lost": row.n_lost,
            "lost_reason": row.lost_reason,
        }
        if isinstance(outcome, Failure):
            line["failure"] = {"kind": str(outcome.kind), "reason": outcome.reason}
        else:
            assert isinstance(outcome, Measurement)  # unfinished ones are left out
            counts = {name: getattr(outcome, name) for name in COUNTS}
            counts |= {name: told for name in TOLD_COUNTS if (told := getattr(outcome, name)) is not None}
            timings = {name: getattr(outcome, name) for name in TIMED.values()}
            timings |= {name: runs for name in METERED.values() if (runs := getattr(outcome, name))}
            line["measurement"] = {"quality": dict(outcome.quality), **timings, **counts}
        write(line)


def _write_studies(connection: Connection, write: Write, ids: list[int] | None) -> set[str]:
    """Write studies, each with its finished candidates; returns the names of their images."""
    images = set()
    chosen = true() if ids is None else StudyRow.id.in_(ids)
    query = select(*StudyRow.__table__.columns).where(chosen).order_by(StudyRow.created, StudyRow.name)
    for row in connection.execute(query).all():
        write(
            {"kind": "study", "name": row.name, "state": row.state, "created": row.created.isoformat(),
             "wall_s": row.wall_s, "device_s": row.device_s, "settings": row.settings, "provenance": row.provenance,
             "condition": row.condition_hash, "inventory": row.inventory}
        )  # fmt: skip
        final = (CandidateRow.study_id == row.id) & exists().where(_IS_ITS_OWN, _FINISHED)
        for candidate in _pages(connection, [*_CANDIDATE, _HELD_OUT.label("held_out")], _CANDIDATE.number, final):
            images.add(candidate.image)
            write(
                {"kind": "candidate", "study": row.name, "number": candidate.number, "family": candidate.family,
                 "label": candidate.label, "schedule": candidate.schedule_hash, "key": candidate.evaluation_key,
                 "held_out": candidate.held_out, "image": candidate.image}
            )  # fmt: skip
    return images


def _artifact(row: Row[Any], read: Read | None) -> dict[str, object]:
    line: dict[str, object] = {
        "kind": "artifact",
        "name": row.name,
        "sha256": row.sha256,
        "content_kind": row.kind,
        "n_bytes": row.n_bytes,
        "created": row.created.isoformat(),
    }
    data = None if read is None else read(row.sha256)
    return line if data is None else line | {"content": base64.b64encode(data).decode()}
