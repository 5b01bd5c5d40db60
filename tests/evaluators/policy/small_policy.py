"""A small policy with random weights."""

import torch

from autotune.evaluators.policy.pipeline import PolicyPipeline
from autotune.evaluators.policy.training import noise_scheduler
from autotune.evaluators.policy.transformer import PolicyTransformer


def make_policy(n_layers: int = 3) -> PolicyPipeline:
    torch.manual_seed(0)
    network = PolicyTransformer(width=32, n_layers=n_layers, n_heads=2)
    with torch.no_grad():
        for parameter in network.parameters():  # those of the beginning leave the branches with next to nothing
            parameter.add_(0.2 * torch.randn_like(parameter))
    pipe = PolicyPipeline(network.eval().requires_grad_(False), noise_scheduler())
    return pipe


def observations(n: int = 2) -> torch.Tensor:
    return torch.randn(n, 2, 26, generator=torch.Generator().manual_seed(1))


def generators(n: int = 2) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(i) for i in range(n)]
