"""Commands on schedule files: validate, apply."""

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli import options
from autotune.cli.output import Format, print_rows
from autotune.cli.studies import PickOption, StorageOption, open_database


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(validate)
    app.command()(apply)


def validate(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE...", help="Schedule files.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of the format and exit.")] = False,
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TABLE,
) -> None:
    """Check schedule files and their tables: every key, length, number and hash; an error names the field."""
    from autotune.evaluators.applied_tables import AppliedTables
    from autotune.spaces.errors import UsageError
    from autotune.spaces.schedule import TABLE_COLUMNS, schedule_hash
    from autotune.spaces.schedule_file import SCHEMA_PATH, load_schedule_file

    if schema:
        print(SCHEMA_PATH.read_text(encoding="utf-8"), end="")
        return
    if not files:
        raise UsageError("`autotune validate` needs at least one schedule file, or --schema")
    rows = []
    for path in files:
        file = load_schedule_file(path)
        AppliedTables.of(file.schedule, file.condition, file.tables)
        names = ("time", "solver", "compensation", "cache", "unconditional_cache", "guidance", *TABLE_COLUMNS)
        columns = [name for name in names if getattr(file.schedule, name)]
        rows.append(
            {"file": str(path), "valid": True, "hash": schedule_hash(file.schedule)[:12], "model": file.condition.model,
             "steps": file.schedule.n_steps, "columns": columns or ["none"]}
        )  # fmt: skip
    print_rows(rows, {name: name for name in ("file", "valid", "hash", "model", "steps", "columns")}, form)


def apply(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Schedule file; with --pick the name of a study.")],
    pick: PickOption = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="Draw this prompt with the schedule; repeatable.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="PNG to write, the images side by side.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the first prompt; the next ones count up.")] = 0,
    device: options.Device = "auto",
    storage: StorageOption = None,
) -> None:
    """Print the line that applies a schedule file, or draw images with it, or with a pick of a study."""
    from autotune.reports.export import find_candidate, make_schedule_file
    from autotune.spaces.errors import UsageError
    from autotune.spaces.schedule_file import load_schedule_file

    if pick is None:
        content = load_schedule_file(file)
    else:
        with open_database(storage) as database:
            record = database.load_study(str(file))
            content = make_schedule_file(record, find_candidate(record, pick), database.artifacts.load)
    if not prompt:
        if pick is not None:
            raise UsageError(
                f"apply --pick draws with --prompt; for a file: autotune export {file} --pick {pick!r} -o FILE"
            )
        if output is not None:
            raise UsageError(f"--output {output} needs at least one --prompt to draw")
        print(f"autotune.apply(pipe, {str(file)!r})    # {content.condition.model}, {content.schedule.n_steps} steps")
        return
    if output is None:
        raise UsageError("--prompt needs --output FILE.png")
    if output.is_dir() or not output.parent.is_dir():  # said before the model loads
        raise UsageError(f"--output must be a file in a folder that exists; got {output}")
    from autotune.evaluators.drawing import draw_with_schedule
    from autotune.spaces.atomic_write import write_atomically

    write_atomically(output, draw_with_schedule(content, prompt, seed=seed, device=device))
    print(f"wrote {output}")
