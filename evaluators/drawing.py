"""Images of a schedule file's own model, drawn with the schedule applied; of a policy, pictures of episodes."""

import dataclasses
from collections.abc import Sequence

from autotune.evaluators.apply import applied
from autotune.evaluators.contact_sheet import make_contact_sheet
from autotune.evaluators.hardware import AUTO_DEVICE
from autotune.evaluators.load import load_model
from autotune.evaluators.sampling import Purpose
from autotune.evaluators.workload import make_workload
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule_file import ScheduleFile


def draw_with_schedule(
    file: ScheduleFile, prompts: Sequence[str], *, seed: int = 0, device: str = AUTO_DEVICE
) -> bytes:
    """PNG of one image per prompt, side by side; prompt i uses the seed `seed + i`.

    Raises:
        ModelNotFoundError: the model that the file names can't be had.
        ScheduleMismatchError: the file does not fit the model.
        UsageError: the file is a policy's, and a prompt is no task, or its simulator is not installed.
    """
    model, condition = load_model(file.condition.model, device=device), file.condition
    preset = dataclasses.replace(
        model.preset,
        guidance_scale=condition.guidance_scale,
        height=condition.height,
        width=condition.width,
        batch_size=condition.batch_size,
    )
    workload = make_workload(dataclasses.replace(model, preset=preset))
    fidelity = Fidelity(name="drawing", prompts=tuple(prompts), seeds=tuple(range(seed, seed + len(prompts))))
    with applied(model.pipe, file):
        samples = workload.run(fidelity, file.schedule.n_steps, Purpose.SCORED)
    return make_contact_sheet(samples.images)
