"""Sites and inputs of PixArt-alpha and PixArt-Sigma."""

from typing import Any

import torch

from autotune.evaluators.block_sites import Leaf, block_norms, block_paths, block_sites, block_spans
from autotune.evaluators.span import Span
from autotune.spaces.inventory import Site

_LEAVES = (
    Leaf(path="attn1", component="attn1", norms=("norm1",)),
    Leaf(path="attn2", component="attn2"),
    Leaf(path="ff", component="ff", norms=("norm2",)),
)


def list_sites(denoiser: Any) -> tuple[Site, ...]:
    """Self-attention, cross-attention and feed-forward of every block."""
    return block_sites(dict.fromkeys(block_paths(denoiser, "transformer_blocks"), _LEAVES))


def list_norms(denoiser: Any) -> dict[str, tuple[str, ...]]:
    """Norms of self-attention and feed-forward; cross-attention reads the hidden state itself."""
    return block_norms(dict.fromkeys(block_paths(denoiser, "transformer_blocks"), _LEAVES))


def list_spans(denoiser: Any) -> dict[str, Span]:
    """Blocks and their stack, through which the image flows."""
    return block_spans(block_paths(denoiser, "transformer_blocks"), ("hidden_states",))


def latent_shape(pipe: Any, height: int, width: int) -> tuple[int, ...]:
    """(1, channels, latent height, latent width)."""
    scale = pipe.vae_scale_factor
    return (1, pipe.transformer.config.in_channels, height // scale, width // scale)


def make_inputs(pipe: Any, shape: tuple[int, ...], prompt_tokens: int) -> dict[str, Any]:
    """Zeros for one call of the transformer; the largest models are also told the picture's size."""
    config = pipe.transformer.config
    told = pipe.transformer.use_additional_conditions
    return {
        "hidden_states": torch.zeros(shape),
        "encoder_hidden_states": torch.zeros(1, prompt_tokens, config.caption_channels),
        "timestep": torch.zeros(1),
        "added_cond_kwargs": {
            "resolution": torch.zeros(1, 2) if told else None,
            "aspect_ratio": torch.zeros(1, 1) if told else None,
        },
    }
