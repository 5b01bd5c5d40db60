"""The command that makes a schedule file of another tool's: import."""

import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli import options


class ImportFormat(StrEnum):
    """Whose file it is."""

    ECAD = "ecad"
    SMOOTHCACHE = "smoothcache"
    STEPS = "steps"


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("import")(import_file)


def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The other tool's file.")],
    form: Annotated[
        ImportFormat,
        typer.Option("--as", help="What the file is; steps is a list of 0 and 1 (compute), or of computed steps."),
    ],
    model: options.Model,
    output: Annotated[Path, typer.Option("-o", "--output", help="Schedule file to write.")],
    steps: Annotated[int | None, typer.Option("--steps", help="Steps, where the file does not say how many.")] = None,
    resolution: options.Resolution = None,
    guidance: options.Guidance = None,
) -> None:
    """Make a schedule file of a cache schedule that ECAD, SmoothCache or a planner of whole steps wrote.

    It is made for the model's default run here, at the file's own size and guidance if it has some. No weights are
    loaded, and nothing is measured.
    """
    from autotune.evaluators.import_schedule import import_schedule
    from autotune.spaces.schedule_file import save_schedule_file

    content, remarks = import_schedule(file, form, model, n_steps=steps, resolution=resolution, guidance_scale=guidance)
    save_schedule_file(output, content)
    print_warnings(remarks)
    print(f"wrote {output}, of which nothing is measured; to use it: autotune.apply(pipe, {str(output)!r})")


def print_warnings(sentences: Iterable[str]) -> None:
    """Print one line each, on standard error."""
    for sentence in sentences:
        print(f"warning: {sentence}", file=sys.stderr)
