"""The command that takes a schedule over to another step count, resolution or checkpoint: transfer."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli import options
from autotune.cli.output import Format
from autotune.cli.runs import DEFAULT_OUT, run
from autotune.cli.studies import FormatOption, StorageOption
from autotune.spaces.errors import UsageError

if TYPE_CHECKING:
    from autotune.spaces.condition import Condition

REFINEMENT = 60
"""Candidates to try where no budget is given."""


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(transfer)


def transfer(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Schedule file.")],
    model: options.Model,
    budget: options.Budget = None,
    evaluations: options.Evaluations = None,
    network_calls: options.NetworkCalls = None,
    family: options.Family = "joint",
    objective: options.Objective = None,
    constraint: options.Constraints = None,
    metric: options.Metrics = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    resolution: options.Resolution = None,
    prompts: options.Prompts = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    study: options.NewStudy = None,
    storage: StorageOption = None,
    out: options.Out = DEFAULT_OUT,
    form: FormatOption = Format.TABLE,
    quiet: options.Quiet = False,
) -> None:
    """Re-time a schedule for another step count, resolution or checkpoint, refine it, and tell the loss.

    Steps, size and guidance that are not given are those of the file. Without a budget, 60 candidates are tried. It is
    `autotune run --start FILE` under that condition; what the study is given more time for, `autotune resume` adds.
    """
    from autotune.spaces.schedule_file import load_schedule_file

    condition = load_schedule_file(file).condition
    if all(limit is None for limit in (budget, evaluations, network_calls)):
        evaluations = REFINEMENT
    if resolution is None:
        resolution = _resolution(condition, model)
    run(
        model,
        budget=budget,
        evaluations=evaluations,
        network_calls=network_calls,
        family=family,
        start=[file],
        objective=objective,
        constraint=constraint,
        metric=metric,
        steps=condition.n_steps if steps is None else steps,
        guidance=condition.guidance_scale if guidance is None else guidance,
        resolution=resolution,
        prompts=prompts,
        seed=seed,
        device=device,
        dtype=dtype,
        study=study,
        storage=storage,
        out=out,
        form=form,
        quiet=quiet,
    )


def _resolution(condition: "Condition", model: str) -> int | None:
    """The side of the file's square; None for the model's own size.

    Raises:
        UsageError: the file is for a size that is neither.
    """
    from autotune.evaluators.resolve import resolve_model

    if condition.height == condition.width:
        return condition.height
    preset = resolve_model(model)
    if (condition.height, condition.width) == (preset.height, preset.width):
        return None
    raise UsageError(
        f"a study's size is a square, or {preset.width} x {preset.height}, which {model} has by default; the file is "
        f"for {condition.width} x {condition.height}: give --resolution"
    )
