"""Sites and inputs of Wan 2.1, and of Wan 2.2 with one transformer."""

import inspect
import math
from typing import Any

import torch

from autotune.evaluators.block_sites import Leaf, block_norms, block_paths, block_sites, block_spans
from autotune.evaluators.span import Span
from autotune.spaces.inventory import Site

_IMAGE_TOKENS = 257
"""Tokens of the first frame's embedding, where the model is conditioned on one."""


_LEAVES = (
    Leaf(path="attn1", component="attn1", norms=("norm1",)),
    Leaf(path="attn2", component="attn2", norms=("norm2",)),
    Leaf(path="ffn", component="ffn", norms=("norm3",)),
)


def list_sites(denoiser: Any) -> tuple[Site, ...]:
    """Self-attention, cross-attention and feed-forward of every block."""
    return block_sites(dict.fromkeys(block_paths(denoiser, "blocks"), _LEAVES))


def list_norms(denoiser: Any) -> dict[str, tuple[str, ...]]:
    """Norms of both attentions and of the feed-forward."""
    return block_norms(dict.fromkeys(block_paths(denoiser, "blocks"), _LEAVES))


def list_spans(denoiser: Any) -> dict[str, Span]:
    """Blocks and their stack, through which the video flows."""
    return block_spans(block_paths(denoiser, "blocks"), ("hidden_states",))


def latent_shape(pipe: Any, height: int, width: int) -> tuple[int, ...]:
    """(1, channels, latent frames, latent height, latent width) of a video of the pipeline's default length."""
    n_frames = inspect.signature(pipe.__call__).parameters["num_frames"].default
    scale = pipe.vae_scale_factor_spatial
    n_latents = (n_frames - 1) // pipe.vae_scale_factor_temporal + 1
    return (1, pipe.transformer.config.in_channels, n_latents, height // scale, width // scale)


def make_inputs(pipe: Any, shape: tuple[int, ...], prompt_tokens: int) -> dict[str, Any]:
    """Zeros for one call of the transformer; Wan 2.2's small model takes a timestep per token."""
    config = pipe.transformer.config
    n_tokens = math.prod(size // patch for size, patch in zip(shape[2:], config.patch_size, strict=True))
    image = None if config.image_dim is None else torch.zeros(1, _IMAGE_TOKENS, config.image_dim)
    return {
        "hidden_states": torch.zeros(shape),
        "timestep": torch.zeros((1, n_tokens) if pipe.config.expand_timesteps else 1),
        "encoder_hidden_states": torch.zeros(1, prompt_tokens, config.text_dim),
        "encoder_hidden_states_image": image,
    }
