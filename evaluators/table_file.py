"""A schedule file with a table fitted to it: its cache corrected, or its model quantized."""

import dataclasses

from autotune.evaluators.hardware import AUTO_DEVICE
from autotune.evaluators.load import load_model
from autotune.evaluators.presets import read_prompts
from autotune.evaluators.worker import Worker
from autotune.spaces.column_fit import ColumnFit, FitTarget, Precision, check_correctable
from autotune.spaces.errors import ScheduleError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule_file import ScheduleFile
from autotune.spaces.table_identity import TableIdentity


def fit_file(
    file: ScheduleFile,
    column: FitTarget,
    prompts: tuple[str, ...] | None = None,
    *,
    device: str = AUTO_DEVICE,
    layer_corrections: bool = True,
) -> tuple[ScheduleFile, ColumnFit]:
    """The file with a table fitted on its own model, and what that brings or costs.

    What was measured of the schedule does not hold for the new one, and is left out.

    Args:
        file: of a schedule, for a correction one with a cache; a quantization takes the place of all its tables.
        column: one of `CACHE_CORRECTIONS`, or a precision.
        prompts: to fit on; by default the model's calibration prompts.
        device: where to run.
        layer_corrections: whether a quantization may have CacheQuant's (a2, b2).

    Raises:
        ScheduleError: the schedule has no cache, or no correction lowers the error.
        ScheduleMismatchError: the model that the name stands for here is another one.
        ModelNotFoundError: the model can't be had.
    """
    condition = file.condition
    if not isinstance(column, Precision):
        check_correctable(file.schedule)
    model = load_model(condition.model, device=device, dtype=condition.dtype)
    preset = dataclasses.replace(
        model.preset,
        n_steps=condition.n_steps,
        guidance_scale=condition.guidance_scale,
        height=condition.height,
        width=condition.width,
        batch_size=condition.batch_size,
    )
    worker = Worker(dataclasses.replace(model, preset=preset))
    name = "quantization" if isinstance(column, Precision) else "cache_correction"
    made_for = TableIdentity.of(name, file.schedule, condition)
    TableIdentity.of(name, file.schedule, worker.condition).check(made_for.to_json())
    for digest, table in file.tables.items():
        worker.tables.keep(digest, table)
    prompts = prompts or read_prompts(preset.calibration_prompts)[: preset.n_calibration]
    fidelity = Fidelity(name="calibration", prompts=prompts, seeds=tuple(range(len(prompts))))
    fit = worker.fit(file.schedule, column, fidelity, layer_corrections=layer_corrections)
    if getattr(fit.schedule, name) is None:
        raise ScheduleError("no correction of what the cache hands out brings held-out prompts closer to the reference")
    fitted = ScheduleFile(
        schedule=fit.schedule,
        condition=worker.condition,
        measured={name: {"deviation_before": fit.before, "deviation_after": fit.after}},
        provenance=file.provenance,
        tables=worker.tables.of(fit.schedule),
    )
    return fitted, fit
