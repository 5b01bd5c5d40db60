"""A model as its configuration files describe it, without weights: enough for its sites and its condition."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch

from autotune.evaluators.adapters import ADAPTERS, find_adapter
from autotune.evaluators.hardware import choose_device, device_name, library_versions
from autotune.evaluators.inventory import list_inventory
from autotune.evaluators.load import choose_dtype, locate_model
from autotune.evaluators.model_folder import INDEX, read_json
from autotune.evaluators.noise import changed_settings, flow_mu, noise_schedule_of, own_timesteps, prediction_of
from autotune.evaluators.presets import Preset
from autotune.spaces.condition import Condition
from autotune.spaces.errors import ScheduleError, UnsupportedModelError
from autotune.spaces.inventory import Inventory


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightlessModel:
    """A model's default run, its sites without MACs, and what decides its noise levels."""

    preset: Preset
    revision: str
    pipeline_class: str
    inventory: Inventory
    pipe: Any
    """Stands for the pipeline: `transformer` or `unet` on the meta device, `scheduler`, `vae_scale_factor`."""

    def condition(
        self,
        n_steps: int,
        *,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float | None = None,
    ) -> Condition:
        """The condition of a run of `n_steps` steps here, in pixels; what is not given is the default run's.

        Raises:
            ScheduleError: the model's sampler calls the network more often than once per step.
        """
        pipe, preset, device = self.pipe, self.preset, choose_device()
        height, width = height or preset.height, width or preset.width
        mu = flow_mu(pipe, height, width)
        times = own_timesteps(pipe.scheduler, n_steps, mu, even_sigmas=find_adapter(pipe).even_sigmas)
        if len(times) != n_steps:
            raise ScheduleError(
                f"a plan with one row per step needs one network call per step; {type(pipe.scheduler).__name__} makes "
                f"{len(times)} calls in {n_steps} steps: name a folder with another scheduler"
            )
        return Condition(
            model=preset.name,
            revision=self.revision,
            pipeline_class=self.pipeline_class,
            inventory_hash=self.inventory.hash,
            noise_schedule=noise_schedule_of(pipe.scheduler, mu),
            prediction=prediction_of(pipe.scheduler),
            scheduler_class=type(pipe.scheduler).__name__,
            scheduler_config=changed_settings(pipe.scheduler),
            start_timestep=times[0],
            height=height,
            width=width,
            batch_size=preset.batch_size,
            dtype=str(choose_dtype(preset.dtype, device, explicit=False)).removeprefix("torch."),
            guidance_scale=preset.guidance_scale if guidance_scale is None else guidance_scale,
            n_steps=n_steps,
            device=device_name(device),
            versions=library_versions(),
        )


def describe_model(name: str) -> WeightlessModel:
    """The model that `--model` names, from its configuration files.

    Raises:
        ModelNotFoundError: its files can't be had.
        UnsupportedModelError: no adapter knows its denoiser.
    """
    preset, folder, revision = locate_model(name)
    index = read_json(folder / INDEX)
    pipe = SimpleNamespace(
        scheduler=_class_of(index, "scheduler").from_pretrained(str(folder), subfolder="scheduler"),
        vae_scale_factor=_vae_scale_factor(folder),
    )
    for attr in ("transformer", "unet"):
        if isinstance(index.get(attr), list):
            denoiser = _class_of(index, attr)
            if denoiser.__name__ not in ADAPTERS:
                raise UnsupportedModelError(
                    f"a pipeline's denoiser must be one of {', '.join(sorted(ADAPTERS))}; got {denoiser.__name__} in "
                    f"{name}; name one of the supported models"
                )
            with torch.device("meta"):
                setattr(pipe, attr, denoiser.from_config(denoiser.load_config(str(folder / attr))))
    return WeightlessModel(
        preset=preset,
        revision=revision,
        pipeline_class=str(index["_class_name"]),
        inventory=list_inventory(pipe),
        pipe=pipe,
    )


def _class_of(index: dict[str, object], component: str) -> Any:
    """The class of a component that comes from diffusers."""
    entry = index.get(component)
    name = str(entry[1]) if isinstance(entry, list) and len(entry) == 2 and entry[0] == "diffusers" else ""
    found = getattr(diffusers, name, None)
    if found is None:
        raise UnsupportedModelError(f"the {component} of a pipeline must be a class of diffusers; got {entry!r}")
    return found


def _vae_scale_factor(folder: Path) -> int:
    """Pixels per latent pixel: one halving per stage of the autoencoder but the last."""
    channels = read_json(folder / "vae" / "config.json").get("block_out_channels")
    return 2 ** (len(channels) - 1) if isinstance(channels, list) else 8
