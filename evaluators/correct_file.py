"""A schedule file with the values that its cache hands out corrected."""

import dataclasses

from autotune.evaluators.hardware import AUTO_DEVICE
from autotune.evaluators.load import load_model
from autotune.evaluators.presets import read_prompts
from autotune.evaluators.worker import Worker
from autotune.spaces.column_fit import ColumnFit, FitColumn
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule_file import ScheduleFile
from autotune.spaces.table_identity import TableIdentity


def correct_file(
    file: ScheduleFile, prompts: tuple[str, ...] | None = None, *, device: str = AUTO_DEVICE
) -> tuple[ScheduleFile, ColumnFit]:
    """The file with a cache correction fitted on its own model, and what that brings.

    What was measured of the schedule does not hold for the corrected one, and is left out.

    Args:
        file: of a schedule with a cache.
        prompts: to fit on; by default the model's calibration prompts.
        device: where to run.

    Raises:
        ScheduleError: the schedule has no cache, or no correction lowers the error.
        ScheduleMismatchError: the model that the name stands for here is another one.
        ModelNotFoundError: the model can't be had.
    """
    condition = file.condition
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
    made_for = TableIdentity.of("cache_correction", file.schedule, condition)
    TableIdentity.of("cache_correction", file.schedule, worker.condition).check(made_for.to_json())
    prompts = prompts or read_prompts(preset.calibration_prompts)[: preset.n_calibration]
    fidelity = Fidelity(name="calibration", prompts=prompts, seeds=tuple(range(len(prompts))))
    fit = worker.fit(file.schedule, FitColumn.CACHE_CORRECTION, fidelity)
    corrected = ScheduleFile(
        schedule=fit.schedule,
        condition=worker.condition,
        measured={"cache_correction": {"deviation_before": fit.before, "deviation_after": fit.after}},
        provenance=file.provenance,
        tables=worker.tables.of(fit.schedule),
    )
    return corrected, fit
