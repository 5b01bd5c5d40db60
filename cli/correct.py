"""The command that corrects what a schedule's cache hands out: correct."""

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli import options


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(correct)


def correct(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Schedule file with a cache.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Schedule file to write, its table beside it.")],
    prompts: Annotated[Path | None, typer.Option("--prompts", help="Text file, a prompt per line, to fit on.")] = None,
    device: options.Device = "auto",
) -> None:
    """Correct what a schedule's cache hands out: a factor and a shift per channel, fitted on the schedule's own model.

    The last quarter of the prompts is held out, and tells what the correction brings.
    """
    from autotune.evaluators.presets import read_prompts
    from autotune.spaces.schedule_file import load_schedule_file, save_schedule_file

    content = load_schedule_file(file)
    chosen = None if prompts is None else read_prompts(prompts)
    from autotune.evaluators.correct_file import correct_file

    corrected, fit = correct_file(content, chosen, device=device)
    save_schedule_file(output, corrected)
    print(f"deviation on held-out prompts: {fit.before:.4f} before, {fit.after:.4f} after")
    print(f"wrote {output}; in production: autotune.apply(pipe, {str(output)!r})")
