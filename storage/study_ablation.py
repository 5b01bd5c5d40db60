"""What a study measured of its front members less one column each."""

import json
from collections.abc import Sequence
from dataclasses import replace

from autotune.spaces.ablation import Removal, removal_from_json
from autotune.spaces.study_record import StudyRecord
from autotune.storage.database import Database


def save_removals(database: Database, record: StudyRecord, removals: Sequence[Removal]) -> None:
    """Note which removals are, or will be, measured for a study, in place of those noted before."""
    data = json.dumps([removal.to_json() for removal in removals], separators=(",", ":"))
    database.artifacts.save(_name(record), data.encode(), "ablation")


def load_removals(database: Database, record: StudyRecord) -> tuple[Removal, ...]:
    """The removals that are noted for a study, those that were measured with their evaluations; () if there are none.

    Raises:
        StorageError: another version wrote the note in another form.
    """
    data = database.artifacts.load(_name(record))
    if data is None:
        return ()
    removals = [removal_from_json(item) for item in json.loads(data)]
    found = database.find_evaluations([r.key for r in removals if r.key is not None])
    return tuple(replace(r, evaluation=None if r.key is None else found.get(r.key)) for r in removals)


def _name(record: StudyRecord) -> str:
    """With the condition, since a study that is imported under another name leaves this one behind."""
    return f"study-ablation/{record.condition.hash}/{record.name}"
