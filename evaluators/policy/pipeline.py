"""The policy as a diffusers pipeline: observations in, a chunk of actions out."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from autotune.evaluators.policy.transformer import PolicyTransformer


@dataclass
class PolicyOutput(BaseOutput):  # type: ignore[misc]
    """`actions` (batch, horizon, action_dim), the first at the time of the first observation."""

    actions: torch.Tensor


class PolicyPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Diffusion Policy (Chi et al. 2023, arXiv 2303.04137): denoises actions on the condition of observations.

    Args:
        transformer: the denoiser.
        scheduler: any of diffusers' schedulers, or what a schedule puts in its place.
    """

    def __init__(self, transformer: PolicyTransformer, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)

    def prepare_latents(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, generator: Any
    ) -> torch.Tensor:
        """The starting noise, in the scheduler's scale."""
        return randn_tensor(shape, generator=generator, device=device, dtype=dtype) * self.scheduler.init_noise_sigma

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
        config, device, dtype = self.transformer.config, self._execution_device, self.transformer.dtype
        observations = observations.to(device, dtype)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        shape = (len(observations), config.horizon, config.action_dim)
        actions = self.prepare_latents(shape, dtype, device, generator)
        for timestep in self.scheduler.timesteps:
            sample = self.scheduler.scale_model_input(actions, timestep)
            output = self.transformer(sample, timestep, observations)[0]
            actions = self.scheduler.step(output, timestep, actions, generator=generator, return_dict=False)[0]
        return PolicyOutput(actions=actions) if return_dict else (actions,)
