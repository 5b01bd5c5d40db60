"""Images of a schedule file's own model, drawn with the schedule applied."""

from collections.abc import Sequence

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.apply import applied
from autotune.evaluators.contact_sheet import make_contact_sheet
from autotune.evaluators.hardware import AUTO_DEVICE
from autotune.evaluators.load import load_model
from autotune.evaluators.prompt_embedding import embed_prompts
from autotune.evaluators.sampling import run_pipeline
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule_file import ScheduleFile


def draw_with_schedule(
    file: ScheduleFile, prompts: Sequence[str], *, seed: int = 0, device: str = AUTO_DEVICE
) -> bytes:
    """PNG of one image per prompt, side by side; prompt i uses the seed `seed + i`.

    Raises:
        ModelNotFoundError: the model that the file names can't be had.
        ScheduleMismatchError: the file does not fit the model.
    """
    model = load_model(file.condition.model, device=device)
    condition, preset = file.condition, model.preset
    fidelity = Fidelity(name="drawing", prompts=tuple(prompts), seeds=tuple(range(seed, seed + len(prompts))))
    embeddings = embed_prompts(
        model.pipe, prompts, guidance_scale=condition.guidance_scale, call_kwargs=preset.call_kwargs
    )
    with applied(model.pipe, file):
        samples = run_pipeline(
            model.pipe,
            embeddings,
            fidelity,
            batch_size=condition.batch_size,
            arguments={
                "num_inference_steps": file.schedule.n_steps,
                find_adapter(model.pipe).guidance_argument: condition.guidance_scale,
                "height": condition.height,
                "width": condition.width,
                **preset.call_kwargs,
            },
        )
    return make_contact_sheet(samples.images)
