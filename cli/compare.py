"""Commands that say what is better, and by what: compare, ablate."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.output import Format, print_rows, print_tables
from autotune.cli.runs import EXIT_INTERRUPTED
from autotune.cli.studies import FormatOption, StorageOption, StudyArgument


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(compare)
    app.command()(ablate)


def compare(
    studies: Annotated[
        list[str], typer.Argument(metavar="STUDY...", help="Studies; the families of one that is given alone.")
    ],
    storage: StorageOption = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for a page, figures, Markdown; made if missing.")
    ] = None,
    absolute: Annotated[
        bool,
        typer.Option(
            "--absolute/--no-absolute", help="Tables in milliseconds instead of speed-ups over the default run."
        ),
    ] = False,
    form: FormatOption = Format.TABLE,
) -> None:
    """Compare the fronts of studies, or the families of one: hypervolume, speed at equal quality, and the reverse.

    JSON holds every table, CSV one row per member. What `autotune ablate` measured is shown too.
    """
    from autotune.reports.comparison import compare as compare_fronts
    from autotune.storage.database import Database
    from autotune.storage.study_ablation import load_removals

    with Database.open(storage, must_exist=storage is not None) as database:
        records = [database.load_study(name) for name in studies]
        comparison = compare_fronts(records)
        removals = {record.name: load_removals(database, record) for record in records}
    if output is not None:
        from autotune.reports.compare_report import write_comparison

        print(f"wrote {write_comparison(comparison, removals, output, absolute=absolute)}")
        return
    from autotune.reports.compare_notes import notes
    from autotune.reports.compare_tables import comparison_json, comparison_tables, members_csv

    if form is Format.JSON:
        print(json.dumps(comparison_json(comparison, removals), indent=1))
        return
    if form is Format.CSV:
        print(members_csv(comparison), end="")
        return
    for note in notes(comparison):
        print(note)
    print_tables(comparison_tables(comparison, removals, absolute=absolute))


def ablate(
    study: StudyArgument,
    members: Annotated[
        int | None, typer.Option("--members", help="Front members to replay, the picks first; 6 unless given.")
    ] = None,
    storage: StorageOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """Measure front members again without one column at a time, on held-out prompts: what each column is worth.

    Nothing is measured twice, and `autotune compare` shows the result. In Python: autotune.ablate(STUDY).
    """
    from autotune import api
    from autotune.reports.column_table import column_table, pick_table
    from autotune.storage.database import Database
    from autotune.storage.study_ablation import load_removals

    def tell(done: int, total: int, what: str) -> None:
        print(f"{done} of {total}: {what}", file=sys.stderr)

    try:
        rows = api.ablate(study, members=members, storage=storage, on_removal=tell)
    except KeyboardInterrupt:
        print("stopped; what was measured is kept, and the same command goes on", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if form is not Format.TABLE:
        print_rows(rows, {}, form)
        return
    with Database.open(storage, must_exist=storage is not None) as database:
        record = database.load_study(study)
        removals = load_removals(database, record)
    tables = (column_table(record, removals), pick_table(record, removals))
    print_tables([table for table in tables if table is not None])
