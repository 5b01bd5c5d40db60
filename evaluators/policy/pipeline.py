"""The policy as a diffusers pipeline: observations in, a chunk of actions out."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, schedulers
from diffusers.utils.outputs import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from autotune.evaluators.policy.transformer import PolicyTransformer


@dataclass
class PolicyOutput(BaseOutput):
    """`actions` (batch, horizon, action_dim), the first at the time of the first observation."""

    actions: torch.Tensor


class PolicyPipeline(DiffusionPipeline):
    """Diffusion Policy (Chi et al. 2023, arXiv 2303.04137): denoises actions on the condition of observations.

    Args:
        transformer: the denoiser.
        scheduler: any of diffusers' schedulers, or what a schedule puts in its place.
    """

    transformer: PolicyTransformer
    scheduler: Any
    _execution_device: Any
    register_modules: Any
    save_pretrained: Any

    def __init__(self, transformer: PolicyTransformer, scheduler: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.register_modules(transformer=transformer, scheduler=scheduler)

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: torch.dtype = torch.float32, **kwargs: Any) -> "PolicyPipeline":
        """The pipeline in a folder that `save_pretrained` wrote; weights are safetensors, the hub is never asked.

        Args:
            folder: holds `transformer` and `scheduler`.
            dtype: of the weights.
            kwargs: what else diffusers' loader takes; not needed here.
        """
        index = json.loads((Path(folder) / "model_index.json").read_text(encoding="utf-8"))
        scheduler = getattr(schedulers, index["scheduler"][1])
        load: Any = PolicyTransformer.from_pretrained
        transformer = load(str(Path(folder) / "transformer"), dtype=dtype, use_safetensors=True)
        return cls(transformer, scheduler.from_pretrained(str(Path(folder) / "scheduler"), local_files_only=True))

    def prepare_latents(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: Any
    ) -> torch.Tensor:
        """The starting noise, in the scheduler's scale."""
        noise: torch.Tensor = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        noise = noise * self.scheduler.init_noise_sigma
        return noise

    @torch.no_grad()
    def __call__(
        self,
        observations: torch.Tensor,
        num_inference_steps: int = 100,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> PolicyOutput | tuple[torch.Tensor]:
        """A chunk of actions for each row of `observations` (batch, n_observations, observation_dim), the newest last.

        Args:
            observations: what the policy sees, in the units of its training.
            num_inference_steps: network calls.
            generator: draws the starting noise and that of the steps; one, or a list with one per row.
            return_dict: whether to return a `PolicyOutput` instead of a tuple.
        """
        config: Any = self.transformer.config
        device, dtype = self._execution_device, self.transformer.dtype
        observations = observations.to(device, dtype)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        shape = (len(observations), config.horizon, config.action_dim)
        actions = self.prepare_latents(shape, dtype, device, generator)
        for timestep in self.scheduler.timesteps:
            sample = self.scheduler.scale_model_input(actions, timestep)
            output = self.transformer(sample, timestep, observations)[0]
            actions = self.scheduler.step(output, timestep, actions, generator=generator, return_dict=False)[0]
        return PolicyOutput(actions=actions) if return_dict else (actions,)
