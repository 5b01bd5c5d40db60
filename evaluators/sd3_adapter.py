"""Sites and inputs of Stable Diffusion 3 and 3.5."""

from typing import Any

import torch

from autotune.evaluators.block_sites import Leaf, block_paths, block_sites, block_spans
from autotune.evaluators.span import Span
from autotune.spaces.inventory import Site


def list_sites(denoiser: Any) -> tuple[Site, ...]:
    """Joint attention, image and text feed-forward of every block; the image's own attention in blocks that have it.

    The last block drops the text, so it has no text feed-forward.
    """
    leaves = [Leaf(path=leaf, component=leaf) for leaf in ("attn", "attn2", "ff", "ff_context")]
    return block_sites({
        f"transformer_blocks.{i}": [leaf for leaf in leaves if getattr(block, leaf.path) is not None]
        for i, block in enumerate(denoiser.transformer_blocks)
    })  # fmt: skip


def list_spans(denoiser: Any) -> dict[str, Span]:
    """Blocks and their stack, through which text and image flow."""
    return block_spans(block_paths(denoiser, "transformer_blocks"), ("encoder_hidden_states", "hidden_states"))


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
