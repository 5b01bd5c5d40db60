"""Writing the hashed values that evaluations and studies refer to, each once, and reading what was written."""

import contextlib
from collections.abc import Iterator, Mapping

from sqlalchemy import Connection, select

from autotune.spaces.condition import Condition
from autotune.spaces.errors import StorageError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule import Schedule, schedule_to_json
from autotune.storage.insert import insert_missing
from autotune.storage.tables import ConditionRow, ModelRow, PromptSetRow, ScheduleRow


def save_conditions(connection: Connection, conditions: Mapping[str, Condition]) -> int:
    """Store conditions, given by their hash, and their models; returns how many are new."""
    n_new = 0
    for condition_hash, condition in sorted(conditions.items()):
        insert_missing(connection, ModelRow, [{"name": condition.model, "revision": condition.revision}])
        is_model = (ModelRow.name == condition.model) & (ModelRow.revision == condition.revision)
        model_id = connection.execute(select(ModelRow.id).where(is_model)).scalar_one()
        row = {"hash": condition_hash, "model_id": model_id, "data": condition.to_json()}
        n_new += insert_missing(connection, ConditionRow, [row])
    return n_new


def save_schedules(connection: Connection, schedules: Mapping[str, Schedule]) -> int:
    """Store schedules, given by the hash of their canonical form; returns how many are new."""
    rows = [{"hash": digest, "data": schedule_to_json(schedule)} for digest, schedule in sorted(schedules.items())]
    return insert_missing(connection, ScheduleRow, rows)


def save_prompt_sets(connection: Connection, fidelities: Mapping[str, Fidelity]) -> int:
    """Store the prompts and seeds of fidelities, given by their hash; returns how many are new."""
    rows = [
        {
            "hash": digest,
            "name": fidelity.name,
            "prompts": list(fidelity.prompts),
            "seeds": [int(seed) for seed in fidelity.seeds],
        }
        for digest, fidelity in sorted(fidelities.items())
    ]
    return insert_missing(connection, PromptSetRow, rows)


def storable_text(text: str) -> str:
    """The text without what a database can't hold: lone surrogates and, on PostgreSQL, NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


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
