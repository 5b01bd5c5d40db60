"""Studies in the database: made once, driven by one process at a time."""

import difflib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from autotune.spaces.condition import Condition
from autotune.spaces.errors import StorageError, StudyBusyError, StudyExistsError, UsageError
from autotune.spaces.evaluation import EvaluationState
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule
from autotune.spaces.study_record import StudyState
from autotune.storage.insert import insert_missing
from autotune.storage.leases import LEASE_S, Leases, parse_owner
from autotune.storage.outcomes import chunks
from autotune.storage.sessions import Sessions
from autotune.storage.tables import CandidateRow, ConditionRow, EvaluationRow, ModelRow, ScheduleRow, StudyRow
from autotune.storage.values import save_conditions, save_schedules

MAX_NAME = 200

_WATCH_EVERY_S = 0.5

_FIND = select(StudyRow.id, StudyRow.owner).where(StudyRow.name == bindparam("name"))
_KNOWN_SCHEDULES = select(ScheduleRow.hash).where(ScheduleRow.hash.in_(bindparam("hashes", expanding=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySummary:
    """One line of a list of studies.

    `created` is ISO 8601, UTC; `n_candidates` counts the candidates with a final evaluation. `wall_s` is the wall time
    used so far, `device_s` the seconds of workers.
    """

    name: str
    model: str
    family: str
    state: StudyState
    created: str
    n_candidates: int
    wall_s: float
    device_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateEntry:
    """A candidate of a study to note; `key` is that of its evaluation, whether or not that is made."""

    number: int
    family: str
    label: str
    schedule: Schedule
    schedule_hash: str
    key: str


def check_name(name: str) -> None:
    """Raise UsageError where a study can't have this name, which is also that of its folder and a word of commands."""
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise UsageError(f"a study name must have 1 to {MAX_NAME} printable characters; got {name!r}: choose another")
    if name[0] in "-." or "/" in name or "\\" in name:
        raise UsageError(f"a study name must not begin with - or . or hold a slash; got {name!r}: choose another")


def create(
    connection: Connection,
    name: str,
    *,
    settings: Mapping[str, object],
    provenance: Mapping[str, object],
    condition: Condition,
    inventory: Inventory,
    created: datetime,
    owner: str,
) -> None:
    """Note a new, running study that `owner` drives; again with the same owner and moment changes nothing.

    Raises:
        StudyExistsError: the name is taken.
        UsageError: the name can't be one, or settings or provenance hold something that JSON does not know.
    """
    check_name(name)
    row = {
        "name": name,
        "state": StudyState.RUNNING,
        "created": created,
        "wall_s": 0.0,
        "settings": _json_object("settings", settings),
        "provenance": _json_object("provenance", provenance),
        "condition_hash": condition.hash,
        "inventory": inventory.to_json(),
        "owner": owner,
    }
    save_conditions(connection, {condition.hash: condition})
    if insert_missing(connection, StudyRow, [row]) == 1:
        return
    present = connection.execute(select(StudyRow.owner, StudyRow.created).where(StudyRow.name == name)).one()
    if (present.owner, present.created) != (owner, created):
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


def claim(sessions: Sessions, study: str, leases: Leases) -> None:
    """Become the driver of a study; watches the lease of another driver until it is known whether that one lives.

    Raises:
        StudyBusyError: another process drives it, and lives.
        StorageError: there is no such study.
    """
    deadline = leases.now() + LEASE_S + 2 * _WATCH_EVERY_S
    while (holder := sessions.write(partial(_try_to_claim, study=study, leases=leases))) is not None:
        if leases.is_alive(holder) or leases.now() > deadline:
            raise _busy(study, holder)
        time.sleep(_WATCH_EVERY_S)


def _try_to_claim(connection: Connection, *, study: str, leases: Leases) -> str | None:
    """Become the driver of a study, unless another drives it that is not known to be dead; returns that owner."""
    study_id = find_study(connection, study)
    # Held until the commit, so that of two processes one sees the other's claim.
    query = select(StudyRow.owner).where(StudyRow.id == study_id).with_for_update()
    holder: str | None = connection.execute(query).scalar_one()
    if holder not in (None, leases.owner) and not leases.deaths(connection, [holder]):
        return holder
    connection.execute(update(StudyRow).where(StudyRow.id == study_id).values(owner=leases.owner))
    return None


def release(connection: Connection, owner: str) -> None:
    """Drive no study any more."""
    connection.execute(update(StudyRow).where(StudyRow.owner == owner).values(owner=None))


def _busy(study: str, holder: str) -> StudyBusyError:
    """What to tell whoever wants to drive a study that another drives."""
    return StudyBusyError(
        f"a study has one driver; {study!r} is driven by {parse_owner(holder).shown}, and two drivers on one study "
        f"are refused: wait for that one or end it, then `autotune resume {study}`"
    )


def add_candidates(connection: Connection, study: str, entries: Sequence[CandidateEntry], leases: Leases) -> None:
    """Note candidates of a study; an earlier one of a number is replaced unless its evaluation is final.

    Raises:
        StorageError: a number belongs to another schedule that has been evaluated.
        StudyBusyError: another process drives the study.
    """
    study_id = find_study(connection, study, writer=leases)
    schedules = {entry.schedule_hash: entry.schedule for entry in entries}
    known: set[str] = set()
    for chunk in chunks(schedules):
        known.update(connection.scalars(_KNOWN_SCHEDULES, {"hashes": chunk}))
    save_schedules(connection, {digest: made for digest, made in schedules.items() if digest not in known})
    rows = [{"study_id": study_id, "number": entry.number, **_values(entry)} for entry in entries]
    if insert_missing(connection, CandidateRow, rows) < len(rows):
        for entry in entries:
            _replace_unfinished(connection, study, study_id, entry)


def _values(entry: CandidateEntry) -> dict[str, object]:
    return {
        "family": entry.family,
        "label": entry.label,
        "schedule_hash": entry.schedule_hash,
        "evaluation_key": entry.key,
    }


def _replace_unfinished(connection: Connection, study: str, study_id: int, entry: CandidateEntry) -> None:
    same = (CandidateRow.study_id == study_id) & (CandidateRow.number == entry.number)
    final = (EvaluationRow.key == CandidateRow.evaluation_key) & (EvaluationRow.state != EvaluationState.RUNNING)
    query = select(CandidateRow.schedule_hash, EvaluationRow.id).outerjoin(EvaluationRow, final).where(same)
    schedule_hash, final_id = connection.execute(query).one()
    if final_id is None:
        # Left over from a killed process: nobody has seen it, so the searcher may ask for something else now.
        connection.execute(update(CandidateRow).where(same).values(_values(entry)))
    elif schedule_hash != entry.schedule_hash:
        raise StorageError(
            f"a candidate is noted once; number {entry.number} of study {study!r} is schedule "
            f"{schedule_hash[:12]}, got {entry.schedule_hash[:12]}: run one driver per study, "
            "and number new candidates from the stored ones on"
        )


def set_on_candidate(connection: Connection, study: str, schedule_hash: str, leases: Leases, **values: str) -> None:
    """Set columns of a study's candidates with this schedule.

    Raises:
        StorageError: the study has none.
        StudyBusyError: another process drives the study.
    """
    study_id = find_study(connection, study, writer=leases)
    chosen = (CandidateRow.study_id == study_id) & (CandidateRow.schedule_hash == schedule_hash)
    if connection.execute(update(CandidateRow).where(chosen).values(**values)).rowcount == 0:
        raise StorageError(f"study {study!r} must have a candidate with schedule {schedule_hash[:12]}; add it first")


def update_state(
    connection: Connection, study: str, leases: Leases, *, state: StudyState, wall_s: float, device_s: float | None
) -> None:
    """Set a study's state, the wall time used so far and, unless None, the seconds of workers."""
    values: dict[str, Any] = {"state": StudyState(state), "wall_s": float(wall_s)}
    if device_s is not None:
        values["device_s"] = float(device_s)
    study_id = find_study(connection, study, writer=leases)
    connection.execute(update(StudyRow).where(StudyRow.id == study_id).values(values))


def summaries(connection: Connection) -> tuple[StudySummary, ...]:
    """All studies, oldest first."""
    final = (EvaluationRow.key == CandidateRow.evaluation_key) & (EvaluationRow.state != EvaluationState.RUNNING)
    n_candidates = (
        select(func.count()).select_from(CandidateRow).join(EvaluationRow, final)
        .where(CandidateRow.study_id == StudyRow.id).correlate(StudyRow).scalar_subquery()
    )  # fmt: skip
    query = (
        select(*StudyRow.__table__.columns, ModelRow.name.label("model"), n_candidates.label("n_candidates"))
        .join(ConditionRow, ConditionRow.hash == StudyRow.condition_hash)
        .join(ModelRow, ModelRow.id == ConditionRow.model_id)
        .order_by(StudyRow.created, StudyRow.id)
    )  # fmt: skip
    return tuple(
        StudySummary(
            name=row.name,
            model=row.model,
            family=_family(row.settings),
            state=StudyState(row.state),
            created=shown_time(row.created),
            n_candidates=row.n_candidates,
            wall_s=row.wall_s,
            device_s=row.device_s,
        )
        for row in connection.execute(query)
    )


def _family(settings: Mapping[str, object]) -> str:
    family = settings.get("family", "")
    return ", ".join(map(str, family)) if isinstance(family, list) else str(family)


def shown_time(moment: datetime) -> str:
    """A moment as ISO 8601, to the second."""
    return moment.isoformat(timespec="seconds")


def find_study(connection: Connection, name: str, *, writer: Leases | None = None) -> int:
    """The id of a study.

    Raises:
        StorageError: there is none; the message names near ones.
        StudyBusyError: `writer` wants to change it, and another process drives it.
    """
    found = connection.execute(_FIND, {"name": name}).one_or_none()
    if found is None:
        near = difflib.get_close_matches(name, connection.scalars(select(StudyRow.name)).all(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise StorageError(f"a study must exist; there is none named {name!r}: {hint}`autotune list studies` shows all")
    study_id, owner = found
    if writer is not None and owner not in (None, writer.owner) and not writer.deaths(connection, [owner]):
        raise _busy(name, owner)
    return study_id
