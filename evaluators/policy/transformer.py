"""The denoiser of a transformer diffusion policy: actions are its tokens, observations its condition."""

import math
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class AttentionBranch(nn.Module):
    """A pre-norm residual branch: layer norm, then multi-head attention to the tokens themselves or to a memory."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(width)
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, tokens: torch.Tensor, memory: torch.Tensor | None, mask: torch.Tensor) -> torch.Tensor:
        """What the branch adds to `tokens` (batch, n, width), which read `memory` (batch, m, width), or each other.

        `mask` (n, m) is 0 where a token may look, -inf elsewhere.
        """
        tokens = self.norm(tokens)
        source = tokens if memory is None else memory
        q, k, v = (
            values.unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            for values in (self.to_q(tokens), self.to_k(source), self.to_v(source))
        )
        found = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        added: torch.Tensor = self.to_out(found.transpose(1, 2).flatten(2))
        return added


class FeedForwardBranch(nn.Module):
    """A pre-norm residual branch: layer norm, then two linear layers around a GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.act = nn.GELU()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """What the branch adds to `tokens` (batch, n, width)."""
        added: torch.Tensor = self.down(self.act(self.up(self.norm(tokens))))
        return added


class PolicyBlock(nn.Module):
    """Self-attention, cross-attention to the condition, feed-forward; each adds its output to the action tokens."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.self_attn = AttentionBranch(width, n_heads)
        self.cross_attn = AttentionBranch(width, n_heads)
        self.ff = FeedForwardBranch(width)

    def forward(
        self, hidden_states: torch.Tensor, memory: torch.Tensor, self_mask: torch.Tensor, memory_mask: torch.Tensor
    ) -> torch.Tensor:
        """The action tokens (batch, n, width) after the block."""
        hidden_states = hidden_states + self.self_attn(hidden_states, None, self_mask)
        hidden_states = hidden_states + self.cross_attn(hidden_states, memory, memory_mask)
        hidden_states = hidden_states + self.ff(hidden_states)
        return hidden_states


class PolicyTransformer(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The decoder-only transformer of Diffusion Policy (Chi et al. 2023, arXiv 2303.04137), "DP-T".

    The condition is one token for the noise level and one per observation, through an MLP. An action sees the actions
    before it, the noise level, and the observations up to its own time. Observations are standardised inside, by
    `observation_mean` and `observation_std` (observation_dim,), which are stored with the weights.

    Args:
        action_dim: components of an action.
        observation_dim: components of an observation.
        horizon: actions in a chunk.
        n_observations: observations that a chunk is conditioned on.
        width: size of a token.
        n_layers: blocks.
        n_heads: attention heads; they divide `width`.
    """

    observation_mean: torch.Tensor
    observation_std: torch.Tensor
    self_mask: torch.Tensor
    memory_mask: torch.Tensor

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        action_dim: int = 4,
        observation_dim: int = 26,
        horizon: int = 10,
        n_observations: int = 2,
        width: int = 128,
        n_layers: int = 8,
        n_heads: int = 4,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.embed_action = nn.Linear(action_dim, width)
        self.action_positions = nn.Parameter(torch.zeros(horizon, width))
        self.embed_observation = nn.Linear(observation_dim, width)
        self.memory_positions = nn.Parameter(torch.zeros(1 + n_observations, width))
        self.encoder = nn.Sequential(nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width))
        self.blocks = nn.ModuleList(PolicyBlock(width, n_heads) for _ in range(n_layers))
        self.norm_out = nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, action_dim)
        self.register_buffer("observation_mean", torch.zeros(observation_dim))
        self.register_buffer("observation_std", torch.ones(observation_dim))
        times = torch.arange(horizon)
        self.register_buffer("self_mask", _mask(times[:, None] >= times), persistent=False)
        memory_times = torch.arange(1 + n_observations) - 1
        self.register_buffer("memory_mask", _mask(times[:, None] >= memory_times), persistent=False)
        self.apply(_initialise)
        for positions in (self.action_positions, self.memory_positions):
            nn.init.normal_(positions, std=0.02)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        observations: torch.Tensor,
        return_dict: bool = False,
    ) -> Any:
        """The network's output, as a tuple of one tensor of `sample`'s shape.

        Args:
            sample: noisy actions (batch, horizon, action_dim).
            timestep: noise level, one for all or (batch,).
            observations: (batch, n_observations, observation_dim), the newest last.
            return_dict: not supported; a tuple is returned.
        """
        width = self.action_positions.shape[1]
        timestep = torch.as_tensor(timestep, dtype=torch.float32, device=sample.device).expand(len(sample))
        memory = torch.cat(
            [
                sinusoid(timestep, width).to(sample.dtype)[:, None],
                self.embed_observation((observations - self.observation_mean) / self.observation_std),
            ],
            dim=1,
        )
        memory = self.encoder(memory + self.memory_positions)
        tokens = self.embed_action(sample) + self.action_positions
        for block in self.blocks:
            tokens = block(tokens, memory, self.self_mask, self.memory_mask)
        return (self.proj_out(self.norm_out(tokens)),)


def sinusoid(timestep: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines (n, width) of timesteps (n,), at frequencies from 1 down to 1e-4."""
    rates = torch.exp(torch.arange(width // 2, device=timestep.device) * (-math.log(10_000.0) / (width // 2 - 1)))
    angles = timestep.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _mask(visible: torch.Tensor) -> torch.Tensor:
    return torch.zeros(visible.shape).masked_fill(~visible, -math.inf)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
