"""What a study measured of its front members less one column each."""

import json
from collections.abc import Sequence
from dataclasses import replace

from autotune.spaces.ablation import Removal, removal_from_json
from autotune.spaces.errors import StorageError
from autotune.storage.database import Database


def save_removals(database: Database, study: str, removals: Sequence[Removal]) -> None:
    """Note which removals are, or will be, measured for a study, in place of those noted before."""
    data = json.dumps([removal.to_json() for removal in removals], separators=(",", ":"))
    database.artifacts.save(_name(study), data.encode(), "ablation")


def load_removals(database: Database, study: str) -> tuple[Removal, ...]:
    """The removals that are noted for a study, those that were measured with their evaluations; () if there are none.

    Raises:
        StorageError: the note is of another form.
    """
    data = database.artifacts.load(_name(study))
    if data is None:
        return ()
    try:
        items = json.loads(data)
    except ValueError as error:
        raise StorageError(
            f"the removals of study {study!r} are no JSON: {error}; run `autotune ablate` again"
        ) from error
    removals = [removal_from_json(item) for item in items]
    found = database.find_evaluations([r.key for r in removals if r.key is not None])
    return tuple(replace(r, evaluation=None if r.key is None else found.get(r.key)) for r in removals)


def _name(study: str) -> str:
    return f"study-ablation/{study}"
