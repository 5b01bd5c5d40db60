"""From a study to a table of what it measured, on which searches can be replayed."""

from pathlib import Path

from autotune.spaces.errors import UsageError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.recorded_table import RecordedRow, RecordedTable, save_table
from autotune.spaces.study_record import StudyRecord


def make_table(record: StudyRecord) -> RecordedTable:
    """All finished candidates of a study with their calibration results, in its order.

    The seeds of the calibration prompts count from 0, as in every study that the settings describe.

    Raises:
        UsageError: the settings do not hold the calibration prompts, or no candidate is finished.
    """
    prompts = record.settings.get("calibration")
    if not isinstance(prompts, list | tuple) or not prompts:
        raise UsageError(f"a table needs the calibration prompts, and the settings of {record.name!r} hold none")
    rows = tuple(
        RecordedRow(family=c.family, label=c.label, schedule=c.schedule, outcome=c.calibration.outcome)
        for c in record.candidates
        if c.calibration.outcome is not None
    )
    if not rows:
        raise UsageError(f"a table needs at least one finished candidate; {record.name!r} has none: resume it first")
    fidelity = Fidelity(name="calibration", prompts=tuple(map(str, prompts)), seeds=tuple(range(len(prompts))))
    return RecordedTable(condition=record.condition, inventory=record.inventory, fidelity=fidelity, rows=rows)


def write_table(record: StudyRecord, path: Path) -> int:
    """Write the table of a study to a file; returns its number of rows.

    Raises:
        UsageError: see `make_table`.
        StorageError: the file can't be written; nothing is changed then.
    """
    table = make_table(record)
    save_table(table, path)
    return len(table.rows)
