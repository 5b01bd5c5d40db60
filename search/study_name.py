"""The name of a new study."""

import datetime
from pathlib import Path

from autotune.spaces.errors import StudyExistsError
from autotune.storage.database import Database
from autotune.storage.studies import check_name


def free_name(database: Database, wanted: str | None, model: str) -> str:
    """The name that a user wants for a study of `model`, or one made up of model and time, without one.

    Raises:
        UsageError: `wanted` is no name.
        StudyExistsError: it is taken.
    """
    if wanted is not None:
        check_name(wanted)
    taken = {study.name for study in database.list_studies()}
    if wanted in taken:  # said before the model loads
        raise StudyExistsError(f"a study named {wanted!r} exists; resume it, or choose another name with --study")
    if wanted is not None:
        return wanted
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    name = f"{Path(model).name}-{stamp}"
    return next(n for i in range(len(taken) + 1) if (n := name if i == 0 else f"{name}-{i + 1}") not in taken)
