"""Training of a policy on demonstrations; `examples/train_policy.py` makes `mini-policy` with it."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch.nn.functional import mse_loss

from autotune.evaluators.policy.demonstrations import Demonstration
from autotune.evaluators.policy.transformer import PolicyTransformer

PREDICTION = "v_prediction"
"""The network's output is the velocity, so that no step divides by a signal level near zero and nothing is clipped."""


_AVERAGED_OVER = 0.99
"""Weight of the past in the loss that is reported."""


def noise_scheduler() -> Any:
    """The sampler that a policy is trained for: DDPM in 100 steps with cosine levels (Nichol and Dhariwal 2021)."""
    make: Any = DDPMScheduler
    return make(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", prediction_type=PREDICTION, clip_sample=False
    )


def training_windows(
    demonstrations: Sequence[Demonstration], horizon: int, n_observations: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Observations (n, n_observations, dim) and the chunk of expert actions (n, horizon, dim) that belongs to them.

    A chunk begins at the time of the first observation. Before an episode's first step and after its last, the nearest
    step stands in. A window with a disturbed step from the last observation on is left out: what the expert did after
    it does not follow from what was observed.
    """
    observations, actions = [], []
    for shown in demonstrations:
        n = len(shown.actions)
        for now in range(n):
            chunk = np.arange(horizon) + now - n_observations + 1
            if not shown.disturbed[now : chunk[-1] + 1].any():
                observations.append(shown.observations[np.arange(now - n_observations + 1, now + 1).clip(0)])
                actions.append(shown.actions[chunk.clip(0, n - 1)])
    return torch.from_numpy(np.stack(observations)), torch.from_numpy(np.stack(actions))


def train_policy(
    network: PolicyTransformer,
    scheduler: Any,
    observations: torch.Tensor,
    actions: torch.Tensor,
    *,
    n_steps: int,
    batch_size: int = 128,
    learning_rate: float = 7e-4,
    device: str = "cpu",
    seed: int = 0,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> PolicyTransformer:
    """Train on windows and return the moving average of the weights, in float32 with the values of float16.

    AdamW with a cosine schedule after a warm-up of 500 steps; weight decay of matrices alone. `report` is told the
    number of steps made and the loss, averaged over the last hundred, every 500 steps.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network.observation_mean.copy_(observations[:, -1].mean(0))
    network.observation_std.copy_(observations[:, -1].std(0).clamp(min=0.02))
    _rounded(network).to(device).train()
    averaged = copy.deepcopy(network)
    matrices = [p for p in network.parameters() if p.ndim == 2]
    others = [p for p in network.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": 1e-3}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95))
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / 500, 0.5 * (1 + math.cos(math.pi * i / n_steps)))
    )
    n_levels, smoothed = scheduler.config.num_train_timesteps, 1.0
    for step in range(n_steps):
        chosen = torch.randint(len(actions), (batch_size,), generator=generator)
        clean = actions[chosen].to(device)
        levels = torch.randint(n_levels, (batch_size,), generator=generator).to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        output = network(scheduler.add_noise(clean, noise, levels), levels, observations[chosen].to(device))[0]
        loss = mse_loss(output, scheduler.get_velocity(clean, noise, levels))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        decay = min(0.9995, 1.0 - 1.0 / (1.0 + step) ** 0.75)
        with torch.no_grad():
            for kept, new in zip(averaged.parameters(), network.parameters(), strict=True):
                kept.lerp_(new, 1.0 - decay)
        smoothed += (1.0 - _AVERAGED_OVER) * (loss.item() - smoothed)
        if (step + 1) % 500 == 0:
            report(step + 1, smoothed)
    trained: PolicyTransformer = _rounded(averaged).eval().requires_grad_(False)
    return trained


def _rounded(network: Any) -> Any:
    """The network with weights that float16 holds exactly, in float32."""
    return network.half().float()
