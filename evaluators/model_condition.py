"""The condition that a loaded model's default run makes."""

from autotune.evaluators.hardware import device_name, library_versions
from autotune.evaluators.load import LoadedModel
from autotune.evaluators.noise import changed_settings, flow_mu, noise_schedule_of, prediction_of
from autotune.spaces.condition import Condition


def condition_of(model: LoadedModel, inventory_hash: str, start_timestep: float) -> Condition:
    """The condition of a model's default run on its device; its first call is at `start_timestep`."""
    preset, pipe = model.preset, model.pipe
    return Condition(
        model=preset.name,
        revision=model.revision,
        pipeline_class=type(pipe).__name__,
        inventory_hash=inventory_hash,
        noise_schedule=noise_schedule_of(pipe.scheduler, flow_mu(pipe, preset.height, preset.width)),
        prediction=prediction_of(pipe.scheduler),
        scheduler_class=type(pipe.scheduler).__name__,
        scheduler_config=changed_settings(pipe.scheduler),
        start_timestep=start_timestep,
        height=preset.height,
        width=preset.width,
        batch_size=preset.batch_size,
        dtype=str(pipe.dtype).removeprefix("torch."),
        guidance_scale=float(preset.guidance_scale),
        n_steps=preset.n_steps,
        device=device_name(pipe._execution_device),
        versions=library_versions(),
    )
