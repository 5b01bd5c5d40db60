"""The commands that fit a table to a schedule file: correct and quantize."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli import options

if TYPE_CHECKING:
    from autotune.spaces.column_fit import FitTarget

Source = Annotated[Path, typer.Argument(metavar="FILE", help="Schedule file.")]
Target = Annotated[Path, typer.Option("-o", "--output", help="Schedule file to write, its table beside it.")]
Prompts = Annotated[Path | None, typer.Option("--prompts", help="Text file, a prompt per line, to fit on.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(correct)
    app.command()(quantize)


def correct(
    file: Source,
    output: Target,
    history: Annotated[
        bool,
        typer.Option("--history/--no-history", help="Whether earlier values may enter, or CacheQuant's lines alone."),
    ] = True,
    prompts: Prompts = None,
    device: options.Device = "auto",
) -> None:
    """Correct what a schedule's cache hands out, per channel, fitted on the schedule's own model.

    CacheQuant's correction is a factor and a shift; the one with history also takes shares of the latents and of
    earlier outputs. The better is kept, or none. The last quarter of the prompts is held out, and tells what it brings.
    """
    from autotune.spaces.column_fit import FitColumn

    _fit(FitColumn.CACHE_CORRECTION if history else FitColumn.DEC, file, output, prompts, device)


def quantize(
    file: Source,
    output: Target,
    precision: Annotated[
        str,
        typer.Option(
            help="Bits of weights in blocks and of activations: w8a8, w4a8, or on average between, as w6.25a8."
        ),
    ] = "w8a8",
    layer_corrections: Annotated[
        bool,
        typer.Option(
            "--layer-corrections/--no-layer-corrections",
            help="Whether a factor and a shift per output channel may make up for some of the rounding.",
        ),
    ] = True,
    prompts: Prompts = None,
    device: options.Device = "auto",
) -> None:
    """Quantize the model under a schedule: bits and grids of each layer, fitted in runs of the schedule.

    `autotune.apply` shows on any device what that does to quality; it computes in floating point, so nothing gets
    faster: for that see `autotune bench --kernels`. The last quarter of the prompts is held out, and tells what this
    costs.
    """
    from autotune.spaces.column_fit import precision_of

    _fit(precision_of(precision), file, output, prompts, device, layer_corrections)


def _fit(
    column: "FitTarget", file: Path, output: Path, prompts: Path | None, device: str, layer_corrections: bool = True
) -> None:
    from autotune.evaluators.presets import read_prompts
    from autotune.spaces.schedule_file import load_schedule_file, save_schedule_file

    content = load_schedule_file(file)
    chosen = None if prompts is None else read_prompts(prompts)
    from autotune.evaluators.table_file import fit_file
    from autotune.evaluators.table_fit import MIN_SPLIT

    fitted, fit = fit_file(content, column, chosen, device=device, layer_corrections=layer_corrections)
    save_schedule_file(output, fitted)
    told = "held-out prompts" if chosen is None or len(chosen) >= MIN_SPLIT else "the prompts that it was fitted on"
    print(f"deviation on {told}: {fit.before:.4f} before, {fit.after:.4f} after")
    print(f"wrote {output}; in production: autotune.apply(pipe, {str(output)!r})")
