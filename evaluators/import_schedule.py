"""Another tool's cache schedule as a schedule file for a model of ours."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from autotune.evaluators.run_numbers import check_run_numbers
from autotune.evaluators.weightless import describe_model
from autotune.spaces.ecad_json import parse_ecad
from autotune.spaces.errors import ScheduleError, UsageError
from autotune.spaces.imported_plan import ImportedPlan
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule_file import ScheduleFile
from autotune.spaces.smoothcache_json import parse_smoothcache
from autotune.spaces.step_list import parse_step_list

Reader = Callable[[str, Inventory, int | None], ImportedPlan]

READERS: Mapping[str, Reader] = {
    "ecad": lambda text, inventory, n_steps: parse_ecad(text, inventory),
    "smoothcache": lambda text, inventory, n_steps: parse_smoothcache(text, inventory),
    "steps": lambda text, inventory, n_steps: parse_step_list(text, inventory, n_steps=n_steps),
}
"""By the name that `autotune import --as` takes: file's text, sites and number of steps if given -> plan."""


def import_schedule(
    path: Path,
    form: str,
    model: str,
    *,
    n_steps: int | None = None,
    resolution: int | None = None,
    guidance_scale: float | None = None,
) -> tuple[ScheduleFile, tuple[str, ...]]:
    """The schedule file, and sentences on what the other tool's file says and the schedule does not carry.

    The condition is the model's default run here, at the size and guidance that are given, or else those of the file,
    with as many steps as the file has. Nothing is measured, and no weights are loaded.

    Args:
        path: the other tool's file, UTF-8.
        form: a key of `READERS`.
        model: what `--model` takes.
        n_steps: number of steps, which a list of computed steps does not say.
        resolution: pixels a side.
        guidance_scale: what the pipeline is called with.

    Raises:
        ScheduleError: the file breaks a rule of its format, does not fit the model, or has another number of steps.
        UsageError: an argument is wrong, or the file can't be read.
        ModelNotFoundError: the model's files can't be had.
        UnsupportedModelError: no adapter knows the model.
    """
    if form not in READERS:
        raise UsageError(f"a format to import is one of {', '.join(READERS)}; got {form!r}")
    check_run_numbers(steps=n_steps, resolution=resolution, guidance=guidance_scale)
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"a file to import must be readable UTF-8 text; {path}: {error}: check the path") from error
    described = describe_model(model)
    try:
        plan = READERS[form](text, described.inventory, n_steps)
        for side in (plan.height, plan.width):
            check_run_numbers(resolution=side, guidance=plan.guidance_scale)
    except (ScheduleError, UsageError) as error:
        raise ScheduleError(f"{path}: {error}") from error
    steps = plan.schedule.n_steps
    if n_steps is not None and n_steps != steps:
        raise ScheduleError(f"{path}: the file must have the {n_steps} steps that were asked for; got {steps}")
    condition = described.condition(
        steps,
        height=resolution or plan.height,
        width=resolution or plan.width,
        guidance_scale=plan.guidance_scale if guidance_scale is None else guidance_scale,
    )
    source = {"format": form, "file": path.name, "sha256": hashlib.sha256(data).hexdigest(), "name": plan.name}
    return ScheduleFile(schedule=plan.schedule, condition=condition, provenance={"imported": source}), plan.remarks
