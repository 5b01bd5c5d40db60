"""Commands that read a study: list, show, front, export, report."""

import contextlib
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from autotune.cli.foreign import print_warnings
from autotune.cli.output import Format, cell, print_rows, print_table
from autotune.spaces.errors import UsageError

if TYPE_CHECKING:
    from autotune.spaces.study_record import StudyRecord
    from autotune.storage.database import Database

StorageOption = Annotated[
    str | None, typer.Option("--storage", help="Database URL or SQLite file; the user's data folder by default.")
]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print.")]
StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="Name of a study; see `autotune list studies`.")]

PICK_HELP = 'quality, balanced, fast; a limit such as "latency<=0.5x" or "psnr>=30"; or the start of a schedule hash.'
PickOption = Annotated[str | None, typer.Option("--pick", help=PICK_HELP)]

FRONT_COLUMNS = {
    "schedule_hash": "schedule",
    "label": "what",
    "picks": "pick",
    "network_calls": "calls",
    "latency_ms": "ms/image",
    "speedup": "speed-up",
    "relative_macs": "MACs",
    "deviation": "deviation",
    "psnr": "PSNR",
    "alignment": "alignment",
    "source": "measured on",
    "support": "held up",
    "overfit": "over-fit",
}

OPTIONAL_FRONT_COLUMNS = ("source", "overfit", "alignment", "relative_macs", "psnr", "latency_ms")


class ExportFormat(StrEnum):
    """Whose file `export` writes."""

    AUTOTUNE = "autotune"
    CACHE_DIT = "cache-dit"
    SMOOTHCACHE = "smoothcache"
    DIFFUSERS = "diffusers"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("list")(list_things)
    app.command()(show)
    app.command()(front)
    app.command()(export)
    app.command()(report)


def list_things(
    what: Annotated[str, typer.Argument(metavar="models|families|metrics|studies", help="What to list.")],
    storage: StorageOption = None,
    form: FormatOption = Format.TABLE,
) -> None:
    """List the models and whether each can run here, the families of searches, the extra metrics, or the studies."""
    if what == "models":
        from autotune.evaluators.availability import can_run_here
        from autotune.evaluators.presets import PRESETS

        rows = []
        for preset in PRESETS.values():
            runs, why = can_run_here(preset)
            rows.append(
                {"model": preset.name, "runs here": runs, "why": why, "steps": preset.n_steps,
                 "guidance": preset.guidance_scale, "size": f"{preset.width}x{preset.height}",
                 "source": preset.name if preset.is_local else str(preset.source), "what": preset.description}
            )  # fmt: skip
        columns = ["model", "runs here", "steps", "guidance", "size", "why", "what"]
        print_rows(rows, {name: name for name in columns}, form)
    elif what == "families":
        from autotune.search.families import FAMILIES

        rows = [{"family": f.name, "decides": list(f.columns), "method": f.method} for f in FAMILIES.values()]
        print_rows(rows, {name: name for name in ("family", "decides", "method")}, form)
    elif what == "metrics":
        from autotune.evaluators.rewards import metric_rows

        print_rows(metric_rows(), {name: name for name in ("metric", "available", "what", "source")}, form)
    elif what == "studies":
        with open_database(storage) as database:
            studies = database.list_studies()
        rows = [
            {"study": s.name, "model": s.model, "family": s.family, "state": str(s.state), "candidates": s.n_candidates,
             "minutes": s.wall_s / 60, "created": s.created}
            for s in studies
        ]  # fmt: skip
        print_rows(
            rows,
            {name: name for name in ("study", "model", "family", "state", "candidates", "minutes", "created")},
            form,
        )
    else:
        raise UsageError(f"`autotune list` lists `models`, `families`, `metrics` or `studies`; got {what!r}")


def show(
    study: StudyArgument, pick: PickOption = None, storage: StorageOption = None, form: FormatOption = Format.TABLE
) -> None:
    """Show a study: what was asked, how far it got, its picks and its failures; with --pick one schedule of it."""
    from autotune.reports.summary import summarise

    record = load_record(study, storage)
    if pick is not None:
        _show_pick(record, pick, form)
        return
    summary = summarise(record)
    if form is Format.TABLE:
        print_table([{"field": k, "value": v} for k, v in summary.items()], {"field": "field", "value": "value"})
        print_front(record, Format.TABLE)
        print_given(record)
    else:
        print_rows([summary], {}, form)


def _show_pick(record: "StudyRecord", pick: str, form: Format) -> None:
    from autotune.reports.export import find_candidate
    from autotune.reports.tables import row_of

    row = row_of(record, find_candidate(record, pick))
    if form is Format.TABLE:
        print_table([{"field": k, "value": cell(v)} for k, v in row.items()], {"field": "field", "value": "value"})
    else:
        print_rows([row], {}, form)


def front(study: StudyArgument, storage: StorageOption = None, form: FormatOption = Format.TABLE) -> None:
    """Print the front of a study, fastest first, and below it what the held-out prompts took off it."""
    print_front(load_record(study, storage), form)


def export(
    study: StudyArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.")],
    pick: Annotated[str, typer.Option("--pick", help=PICK_HELP)] = "balanced",
    form: Annotated[
        ExportFormat,
        typer.Option("--format", help="A schedule file, or a file for another tool; what that can't say is a warning."),
    ] = ExportFormat.AUTOTUNE,
    storage: StorageOption = None,
) -> None:
    """Write a schedule of a study as a file that `autotune.apply(pipe, FILE)` reads, or one for another tool.

    cache-dit gets YAML with a mask of whole steps, SmoothCache JSON with a list per type of component, diffusers a
    Python file that applies the cache plan without this package.
    """
    from autotune.reports.export import find_candidate, make_schedule_file
    from autotune.spaces.schedule_file import save_schedule_file

    with open_database(storage) as database:
        record = database.load_study(study)
        candidate = find_candidate(record, pick)
        if form is not ExportFormat.AUTOTUNE:
            from autotune.reports.foreign_export import write_for

            print_warnings(write_for(form, candidate.schedule, record.inventory, output))
            print(f"wrote {output}")
            return
        save_schedule_file(output, make_schedule_file(record, candidate, database.artifacts.load))
    print(f"wrote {output}; in production: autotune.apply(pipe, {str(output)!r})")


def report(
    study: StudyArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder to write into, made if missing; autotune-out/STUDY if left out."),
    ] = None,
    storage: StorageOption = None,
) -> None:
    """Write the report of a study: one HTML file, the same as Markdown, its figures as PNG, its table as CSV."""
    from autotune.cli.runs import DEFAULT_OUT
    from autotune.reports.report import write_report

    with open_database(storage) as database:
        folder = DEFAULT_OUT / study if output is None else output
        path = write_report(database.load_study(study), database.artifacts.load, folder, storage)
    print(f"wrote {path}")


def print_front(record: "StudyRecord", form: Format) -> None:
    """Print a record's front, and below it the members that the held-out values took off it."""
    from autotune.reports.figure_text import number_text
    from autotune.reports.tables import front_rows, quality_columns, refuted_rows
    from autotune.reports.wording import wording
    from autotune.spaces.error_scale import error_scale

    rows = [*front_rows(record), *refuted_rows(record)]
    run = wording(error_scale(record)).run
    columns = quality_columns(rows, FRONT_COLUMNS | {"latency_ms": f"ms/{run}"})
    if form is not Format.TABLE:
        print_rows(rows, columns, form)
        return
    rows = [
        {**row, "schedule_hash": str(row["schedule_hash"])[:8], "overfit": number_text("overfit", row["overfit"])}
        | {name: number_text(name, row[name]) for name in ("success",) if name in row}
        for row in rows
    ]
    print_table(rows, columns, optional=OPTIONAL_FRONT_COLUMNS)


def print_given(record: "StudyRecord") -> None:
    """Print what became of the schedules that a study was given; nothing if there were none."""
    from autotune.reports.given_table import given_columns, given_rows

    rows = given_rows(record)
    if rows:
        print_table(rows, given_columns(record))
        print_warnings(str(remark) for row in rows for remark in cast("list[str]", row.get("remarks", [])))


@contextlib.contextmanager
def open_database(storage: str | None) -> Iterator["Database"]:
    """The database, which a storage that is named must hold already."""
    from autotune.storage.database import Database

    with Database.open(storage, must_exist=storage is not None) as database:
        yield database


def load_record(study: str, storage: str | None) -> "StudyRecord":
    """A study of the database."""
    with open_database(storage) as database:
        return database.load_study(study)
