"""The command that writes what a study measured as a table: export-table."""

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.studies import StorageOption, StudyArgument


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("export-table")(export_table)


def export_table(
    study: StudyArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Table to write, such as flux.table.gz.")],
    storage: StorageOption = None,
) -> None:
    """Write all that a study measured as one file, on which searches can be replayed without the model.

    In Python: autotune.evaluators.recorded.RecordedEvaluator(read_table(FILE)).
    """
    from autotune.reports.table_export import write_table
    from autotune.storage.database import Database

    with Database.open(storage, must_exist=storage is not None) as database:
        n_rows = write_table(database.load_study(study), output)
    print(f"wrote {output}, {n_rows} schedules")
