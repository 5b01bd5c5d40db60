"""Sites and inputs of Stable Diffusion 3 and 3.5."""

from typing import Any

import torch

from autotune.evaluators.block_sites import Leaf, block_norms, block_paths, block_sites, block_spans
from autotune.evaluators.span import Span
from autotune.spaces.inventory import Site

_LEAVES = (
    Leaf(path="attn", component="attn", norms=("norm1.norm", "norm1_context.norm")),
    Leaf(path="attn2", component="attn2", norms=("norm1.norm",)),
    Leaf(path="ff", component="ff", norms=("norm2",)),
    Leaf(path="ff_context", component="ff_context", norms=("norm2_context",)),
)


def list_sites(denoiser: Any) -> tuple[Site, ...]:
    """Joint attention, image and text feed-forward of every block; the image's own attention in blocks that have it.

    The last block drops the text, so it has no text feed-forward.
    """
    return block_sites(_leaves(denoiser))


def list_norms(denoiser: Any) -> dict[str, tuple[str, ...]]:
    """Norms of both streams before attention and feed-forward; one for both attentions of the image."""
    return block_norms(_leaves(denoiser))


def list_spans(denoiser: Any) -> dict[str, Span]:
    """Blocks and their stack, through which text and image flow."""
    return block_spans(block_paths(denoiser, "transformer_blocks"), ("encoder_hidden_states", "hidden_states"))


def _leaves(denoiser: Any) -> dict[str, list[Leaf]]:
    return {
        f"transformer_blocks.{i}": [leaf for leaf in _LEAVES if getattr(block, leaf.path) is not None]
        for i, block in enumerate(denoiser.transformer_blocks)
    }


def latent_shape(pipe: Any, height: int, width: int) -> tuple[int, ...]:
    """(1, channels, latent height, latent width)."""
    scale = pipe.vae_scale_factor
    return (1, pipe.transformer.config.in_channels, height // scale, width // scale)


def make_inputs(pipe: Any, shape: tuple[int, ...], prompt_tokens: int) -> dict[str, Any]:
    """Zeros for one call of the transformer."""
    config = pipe.transformer.config
    return {
        "hidden_states": torch.zeros(shape),
        "encoder_hidden_states": torch.zeros(1, prompt_tokens, config.joint_attention_dim),
        "pooled_projections": torch.zeros(1, config.pooled_projection_dim),
        "timestep": torch.zeros(1),
    }
