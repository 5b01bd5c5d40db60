"""Reading a study: whole, some of its candidates, or page by page."""

from collections.abc import Collection, Iterable, Iterator
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, select

from autotune.spaces.condition import condition_from_json
from autotune.spaces.evaluation import Evaluation, EvaluationState
from autotune.spaces.inventory import inventory_from_json
from autotune.spaces.schedule import Schedule
from autotune.spaces.schedule_json import schedule_from_json
from autotune.spaces.study_record import Candidate, StudyRecord, StudyState
from autotune.storage.outcomes import chunks, find, find_where
from autotune.storage.sessions import Sessions
from autotune.storage.studies import find_study, shown_time
from autotune.storage.tables import CandidateRow, ConditionRow, EvaluationRow, ScheduleRow, StudyRow
from autotune.storage.values import intact

_FINAL = (EvaluationRow.key == CandidateRow.evaluation_key) & (EvaluationRow.state != EvaluationState.RUNNING)


def load(connection: Connection, study: str, numbers: Collection[int] | None) -> StudyRecord:
    """A study with all its candidates or those of some numbers; only those with a final evaluation, by number.

    Raises:
        StorageError: there is no such study, or a row can't be read.
    """
    study_id = find_study(connection, study)
    with intact(f"study {study!r}"):
        query = select(*StudyRow.__table__.columns, ConditionRow.data).join(ConditionRow).where(StudyRow.id == study_id)
        row = connection.execute(query).one()
        mine = CandidateRow.study_id == study_id
        if numbers is None:
            rows = _rows(connection, mine)
            candidates = _all_candidates(connection, mine, rows)
        else:
            rows = [r for chunk in chunks(sorted(set(numbers)))
                    for r in _rows(connection, mine & CandidateRow.number.in_(chunk))]  # fmt: skip
            candidates = _some_candidates(connection, rows)
        return StudyRecord(
            name=row.name,
            state=StudyState(row.state),
            created=shown_time(row.created),
            wall_s=row.wall_s,
            settings=row.settings,
            provenance=row.provenance,
            condition=condition_from_json(row.data),
            inventory=inventory_from_json(row.inventory),
            candidates=tuple(candidates),
            images={r.schedule_hash: r.image for r in rows if r.image is not None},
            device_s=row.device_s,
        )


def iterate(sessions: Sessions, study: str, page: int) -> Iterator[Candidate]:
    """The candidates with a final evaluation, by number, read `page` at a time, each page in its own transaction."""
    after: int | None = -1
    while after is not None:
        candidates, after = sessions.read(partial(_page, study=study, after=after, n=page))
        yield from candidates


def _page(connection: Connection, *, study: str, after: int, n: int) -> tuple[list[Candidate], int | None]:
    """The next `n` candidates whose number is above `after`, and the number to go on from unless these are the last."""
    with intact(f"study {study!r}"):
        mine = (CandidateRow.study_id == find_study(connection, study)) & (CandidateRow.number > after)
        query = select(*CandidateRow.__table__.columns).join(EvaluationRow, _FINAL).where(mine)
        rows = connection.execute(query.order_by(CandidateRow.number).limit(n)).all()
        return _some_candidates(connection, rows), rows[-1].number if len(rows) == n else None


def hashes(connection: Connection, study: str) -> list[tuple[int, str, str]]:
    """Number, family and schedule hash of the candidates with a final evaluation, by number."""
    query = (
        select(CandidateRow.number, CandidateRow.family, CandidateRow.schedule_hash)
        .join(EvaluationRow, _FINAL)
        .where(CandidateRow.study_id == find_study(connection, study))
        .order_by(CandidateRow.number)
    )
    return [(number, family, digest) for number, family, digest in connection.execute(query)]


def _rows(connection: Connection, chosen: ColumnElement[bool]) -> list[Row[Any]]:
    query = select(*CandidateRow.__table__.columns).where(chosen).order_by(CandidateRow.number)
    return list(connection.execute(query))


def _all_candidates(connection: Connection, chosen: ColumnElement[bool], rows: Iterable[Row[Any]]) -> list[Candidate]:
    """In a fixed number of queries."""
    keys = select(CandidateRow.evaluation_key).where(chosen).union(select(CandidateRow.held_out_key).where(chosen))
    found = find_where(connection, EvaluationRow.key.in_(keys))
    schedules = _schedules(connection, ScheduleRow.hash.in_(select(CandidateRow.schedule_hash).where(chosen)))
    return _candidates(rows, found, schedules)


def _some_candidates(connection: Connection, rows: Collection[Row[Any]]) -> list[Candidate]:
    keys = {row.evaluation_key for row in rows} | {row.held_out_key for row in rows if row.held_out_key is not None}
    schedules: dict[str, Schedule] = {}
    for chunk in chunks({row.schedule_hash for row in rows}):
        schedules |= _schedules(connection, ScheduleRow.hash.in_(chunk))
    return _candidates(rows, find(connection, keys), schedules)


def _schedules(connection: Connection, chosen: ColumnElement[bool]) -> dict[str, Schedule]:
    rows = connection.execute(select(ScheduleRow.hash, ScheduleRow.data).where(chosen))
    return {schedule_hash: schedule_from_json(data) for schedule_hash, data in rows}


def _candidates(
    rows: Iterable[Row[Any]], found: dict[str, Evaluation], schedules: dict[str, Schedule]
) -> list[Candidate]:
    return [
        Candidate(
            number=row.number,
            family=row.family,
            label=row.label,
            schedule=schedules[row.schedule_hash],
            schedule_hash=row.schedule_hash,
            calibration=found[row.evaluation_key],
            held_out=None if row.held_out_key is None else found.get(row.held_out_key),
        )
        for row in rows
        if row.evaluation_key in found
    ]
