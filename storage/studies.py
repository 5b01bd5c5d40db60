"""Studies and their candidates in the database."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from autotune.spaces.condition import Condition, condition_from_json
from autotune.spaces.errors import StorageError, StudyExistsError, UsageError
from autotune.spaces.evaluation import EvaluationState
from autotune.spaces.inventory import Inventory, inventory_from_json
from autotune.spaces.schedule import Schedule
from autotune.spaces.schedule_json import schedule_from_json
from autotune.spaces.study_record import Candidate, StudyRecord, StudyState
from autotune.storage import evaluations
from autotune.storage.tables import CandidateRow, ConditionRow, EvaluationRow, ModelRow, ScheduleRow, StudyRow
from autotune.storage.values import insert_once, intact, save_condition, save_schedule

MAX_NAME = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySummary:
    """One line of a list of studies.

    `created` is ISO 8601, UTC; `n_candidates` counts the candidates with a final evaluation.
    """

    name: str
    model: str
    family: str
    state: StudyState
    created: str
    n_candidates: int
    wall_s: float


def check_name(name: str) -> None:
    """Raise UsageError where a study can't have this name, which is also that of its folder and a word of commands."""
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise UsageError(f"a study name must have 1 to {MAX_NAME} printable characters; got {name!r}: choose another")
    if name[0] in "-." or "/" in name or "\\" in name:
        raise UsageError(f"a study name must not begin with - or . or hold a slash; got {name!r}: choose another")


def create(
    session: Session,
    name: str,
    *,
    settings: Mapping[str, object],
    provenance: Mapping[str, object],
    condition: Condition,
    inventory: Inventory,
) -> None:
    """Note a new, running study.

    Raises:
        StudyExistsError: the name is taken.
        UsageError: the name can't be one, or settings or provenance hold something that JSON does not know.
    """
    check_name(name)
    row = StudyRow(
        name=name,
        state=StudyState.RUNNING,
        created=datetime.now(UTC),
        wall_s=0.0,
        settings=_json_object("settings", settings),
        provenance=_json_object("provenance", provenance),
        condition_hash=save_condition(session, condition),
        inventory=inventory.to_json(),
    )
    if not insert_once(session, row, StudyRow.id, StudyRow.name == name):
        raise StudyExistsError(
            f"a study name must be new; {name!r} exists: continue it with `autotune resume {name}`, "
            "or choose another name"
        )


def _json_object(what: str, value: Mapping[str, object]) -> dict[str, Any]:
    try:
        made: dict[str, Any] = json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} of a study must hold JSON types and finite numbers only; {error}") from error
    return made


def add_candidate(
    session: Session,
    study: str,
    *,
    number: int,
    family: str,
    label: str,
    schedule: Schedule,
    schedule_hash: str,
    key: str,
) -> None:
    """Note a candidate of a study; an earlier one of this number is replaced unless its evaluation is final.

    Raises:
        StorageError: the number belongs to another schedule that has been evaluated.
    """
    study_id = _study_id(session, study)
    save_schedule(session, schedule, schedule_hash)
    same = (CandidateRow.study_id == study_id) & (CandidateRow.number == number)
    row = CandidateRow(
        study_id=study_id, number=number, family=family, label=label, schedule_hash=schedule_hash, evaluation_key=key
    )
    if insert_once(session, row, CandidateRow.id, same):
        return
    final = (EvaluationRow.key == CandidateRow.evaluation_key) & (EvaluationRow.state != EvaluationState.RUNNING)
    query = select(CandidateRow, EvaluationRow.id).outerjoin(EvaluationRow, final).where(same)
    present, final_id = session.execute(query).one()
    if final_id is not None:
        if present.schedule_hash != schedule_hash:
            raise StorageError(
                f"a candidate is noted once; number {number} of study {study!r} is schedule "
                f"{present.schedule_hash[:12]}, got {schedule_hash[:12]}: run one driver per study, "
                "and number new candidates from the stored ones on"
            )
        return
    # Left over from a killed process: nobody has seen it, so the searcher may ask for something else now.
    present.family, present.label = family, label
    present.schedule_hash, present.evaluation_key = schedule_hash, key


def set_on_candidate(session: Session, study: str, schedule_hash: str, **values: str) -> None:
    """Set columns of a study's candidates with this schedule.

    Raises:
        StorageError: the study has none.
    """
    chosen = (CandidateRow.study_id == _study_id(session, study)) & (CandidateRow.schedule_hash == schedule_hash)
    if session.execute(select(CandidateRow.id).where(chosen).limit(1)).first() is None:
        raise StorageError(f"study {study!r} must have a candidate with schedule {schedule_hash[:12]}; add it first")
    session.execute(update(CandidateRow).where(chosen).values(**values))


def update_state(session: Session, study: str, state: StudyState, wall_s: float) -> None:
    """Set a study's state and the wall time used so far, in seconds."""
    values = {"state": StudyState(state), "wall_s": float(wall_s)}
    session.execute(update(StudyRow).where(StudyRow.id == _study_id(session, study)).values(**values))


def load(session: Session, study: str) -> StudyRecord:
    """The whole study, in a fixed number of queries; candidates with a final evaluation only, by number.

    Raises:
        StorageError: there is no such study, or a row can't be read.
    """
    study_id = _study_id(session, study)
    with intact(f"study {study!r}"):
        query = select(StudyRow, ConditionRow.data).join(ConditionRow).where(StudyRow.id == study_id)
        row, condition = session.execute(query).one()
        mine = CandidateRow.study_id == study_id
        keys = select(CandidateRow.evaluation_key).where(mine).union(select(CandidateRow.held_out_key).where(mine))
        found = evaluations.find(session, EvaluationRow.key.in_(keys))
        schedules = _schedules(session, mine)
        candidates = session.scalars(select(CandidateRow).where(mine).order_by(CandidateRow.number)).all()
        return StudyRecord(
            name=row.name,
            state=StudyState(row.state),
            created=_iso(row.created),
            wall_s=row.wall_s,
            settings=row.settings,
            provenance=row.provenance,
            condition=condition_from_json(condition),
            inventory=inventory_from_json(row.inventory),
            candidates=tuple(
                Candidate(
                    number=c.number,
                    family=c.family,
                    label=c.label,
                    schedule=schedules[c.schedule_hash],
                    schedule_hash=c.schedule_hash,
                    calibration=found[c.evaluation_key],
                    held_out=None if c.held_out_key is None else found.get(c.held_out_key),
                )
                for c in candidates
                if c.evaluation_key in found
            ),
            images={c.schedule_hash: c.image for c in candidates if c.image is not None},
        )


def _schedules(session: Session, chosen: ColumnElement[bool]) -> dict[str, Schedule]:
    hashes = select(CandidateRow.schedule_hash).where(chosen)
    rows = session.execute(select(ScheduleRow.hash, ScheduleRow.data).where(ScheduleRow.hash.in_(hashes)))
    return {schedule_hash: schedule_from_json(data) for schedule_hash, data in rows}


def summaries(session: Session) -> tuple[StudySummary, ...]:
    """All studies, oldest first."""
    final = (EvaluationRow.key == CandidateRow.evaluation_key) & (EvaluationRow.state != EvaluationState.RUNNING)
    n_candidates = (
        select(func.count()).select_from(CandidateRow).join(EvaluationRow, final)
        .where(CandidateRow.study_id == StudyRow.id).correlate(StudyRow).scalar_subquery()
    )  # fmt: skip
    query = (
        select(StudyRow, ModelRow.name, n_candidates)
        .join(ConditionRow, ConditionRow.hash == StudyRow.condition_hash)
        .join(ModelRow)
        .order_by(StudyRow.created, StudyRow.id)
    )  # fmt: skip
    return tuple(
        StudySummary(
            name=row.name,
            model=model,
            family=_family(row.settings),
            state=StudyState(row.state),
            created=_iso(row.created),
            n_candidates=n,
            wall_s=row.wall_s,
        )
        for row, model, n in session.execute(query)
    )


def _family(settings: Mapping[str, object]) -> str:
    family = settings.get("family", "")
    return ", ".join(map(str, family)) if isinstance(family, list) else str(family)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _study_id(session: Session, name: str) -> int:
    found = session.scalars(select(StudyRow.id).where(StudyRow.name == name)).one_or_none()
    if found is None:
        near = difflib.get_close_matches(name, session.scalars(select(StudyRow.name)).all(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise StorageError(f"a study must exist; there is none named {name!r}: {hint}`autotune list studies` shows all")
    return found
