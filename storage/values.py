"""Writing the hashed values that evaluations and studies refer to, each once, and reading what was written."""

import contextlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute, Session

from autotune.spaces.condition import Condition
from autotune.spaces.errors import StorageError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule import Schedule, schedule_to_json
from autotune.storage.tables import Base, ConditionRow, ModelRow, PromptSetRow, ScheduleRow


def save_condition(session: Session, condition: Condition) -> str:
    """Store a condition and its model; returns its hash."""
    is_model = (ModelRow.name == condition.model) & (ModelRow.revision == condition.revision)
    insert_once(session, ModelRow(name=condition.model, revision=condition.revision), ModelRow.id, is_model)
    model_id = session.scalars(select(ModelRow.id).where(is_model)).one()
    row = ConditionRow(hash=condition.hash, model_id=model_id, data=condition.to_json())
    insert_once(session, row, ConditionRow.hash, ConditionRow.hash == condition.hash)
    return condition.hash


def save_schedule(session: Session, schedule: Schedule, schedule_hash: str) -> None:
    """Store a schedule under the hash of its canonical form."""
    row = ScheduleRow(hash=schedule_hash, data=schedule_to_json(schedule))
    insert_once(session, row, ScheduleRow.hash, ScheduleRow.hash == schedule_hash)


def save_prompt_set(session: Session, fidelity: Fidelity) -> str:
    """Store a fidelity's prompts and seeds; returns their hash."""
    row = PromptSetRow(
        hash=fidelity.hash,
        name=fidelity.name,
        prompts=list(fidelity.prompts),
        seeds=[int(seed) for seed in fidelity.seeds],
    )
    insert_once(session, row, PromptSetRow.hash, PromptSetRow.hash == fidelity.hash)
    return fidelity.hash


def insert_once(session: Session, row: Base, column: InstrumentedAttribute[Any], same: ColumnElement[bool]) -> bool:
    """Insert a row unless there is one for which `same` holds; returns whether it was inserted.

    `column` is any column of the row's table. Written without `ON CONFLICT`, which every database spells differently:
    a row that another process commits between the look and the insert is found by its broken unique constraint.
    """
    present = select(column).where(same).limit(1)
    if session.execute(present).first() is not None:
        return False
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        if session.execute(present).first() is None:
            raise
        return False
    return True


@contextlib.contextmanager
def intact(what: str) -> Iterator[None]:
    """Turn the errors of reading a damaged row into a `StorageError`."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(
            f"the rows of {what} must be as autotune wrote them; one can't be read ({type(error).__name__}: {error}): "
            "restore a backup of the database"
        ) from error
