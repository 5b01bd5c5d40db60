"""Sites and inputs of a transformer diffusion policy."""

from typing import Any

import torch

from autotune.evaluators.block_sites import Leaf, block_paths, block_sites, block_spans
from autotune.evaluators.span import Span
from autotune.spaces.inventory import Site

_LEAVES = tuple(Leaf(path=leaf, component=leaf) for leaf in ("self_attn", "cross_attn", "ff"))


def list_sites(denoiser: Any) -> tuple[Site, ...]:
    """Self-attention, cross-attention and feed-forward of every block, each with its norm."""
    return block_sites(dict.fromkeys(block_paths(denoiser, "blocks"), _LEAVES))


def list_spans(denoiser: Any) -> dict[str, Span]:
    """Blocks and their stack, through which the action tokens flow."""
    return block_spans(block_paths(denoiser, "blocks"), ("tokens",))


def latent_shape(pipe: Any, height: int, width: int) -> tuple[int, ...]:
    """(1, horizon, action_dim): actions have no size in pixels."""
    config = pipe.transformer.config
    return (1, config.horizon, config.action_dim)


def make_inputs(pipe: Any, shape: tuple[int, ...], prompt_tokens: int) -> dict[str, Any]:
    """Zeros for one call of the transformer."""
    config = pipe.transformer.config
    observations = torch.zeros(1, config.n_observations, config.observation_dim)
    return {"sample": torch.zeros(shape), "timestep": torch.zeros(1), "observations": observations}
