"""The command that says whether this machine can run a study."""

from typing import Annotated

import typer

from autotune.cli.output import Format, print_rows


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(doctor)


def doctor(
    storage: Annotated[str | None, typer.Option("--storage", help="Database URL or SQLite file to check.")] = None,
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TABLE,
) -> None:
    """Check libraries, device, database and reference models; exit 1 if a study could not run here."""
    from autotune.cli.checks import run_checks

    rows = run_checks(storage)
    print_rows(rows, {"check": "check", "ok": "ok", "found": "found"}, form)
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)
