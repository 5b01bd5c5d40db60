"""Sites and inputs of FLUX.1: double-stream and single-stream transformer blocks."""

from typing import Any

import torch

from autotune.evaluators.block_sites import Leaf, block_norms, block_paths, block_sites, block_spans
from autotune.evaluators.span import Span
from autotune.spaces.inventory import Site

_DOUBLE = (
    Leaf(path="attn", component="attn", norms=("norm1.norm", "norm1_context.norm")),
    Leaf(path="ff", component="ff", norms=("norm2",)),
    Leaf(path="ff_context", component="ff_context", norms=("norm2_context",)),
)
_SINGLE = (
    Leaf(path="attn", component="single_attn", feeds="proj_out", norms=("norm.norm",)),
    Leaf(path="proj_mlp", component="single_proj_mlp", feeds="proj_out", norms=("norm.norm",)),
    Leaf(path="proj_out", component="single_proj_out"),
)


def list_sites(denoiser: Any) -> tuple[Site, ...]:
    """Attention and both feed-forwards of a double block; attention and both projections of a single block.

    In a single block `proj_out` alone consumes the other two, so they feed it.
    """
    return block_sites(_leaves(denoiser))


def list_norms(denoiser: Any) -> dict[str, tuple[str, ...]]:
    """Norms of attention and feed-forwards; one for both parts of a single block."""
    return block_norms(_leaves(denoiser))


def list_spans(denoiser: Any) -> dict[str, Span]:
    """Blocks and their stack, through which text and image flow."""
    return block_spans(
        block_paths(denoiser, "transformer_blocks", "single_transformer_blocks"),
        ("encoder_hidden_states", "hidden_states"),
    )


def list_splits(denoiser: Any) -> dict[str, tuple[int, ...]]:
    """The last projection of single blocks: (channels of the attention, of the feed-forward)."""
    splits: dict[str, tuple[int, ...]] = {}
    for path in block_paths(denoiser, "single_transformer_blocks"):
        block = denoiser.get_submodule(path)
        splits[f"{path}.proj_out"] = (block.proj_out.in_features - block.mlp_hidden_dim, block.mlp_hidden_dim)
    return splits


def _leaves(denoiser: Any) -> dict[str, tuple[Leaf, ...]]:
    blocks = block_paths(denoiser, "transformer_blocks", "single_transformer_blocks")
    return {block: _DOUBLE if block.startswith("transformer") else _SINGLE for block in blocks}


def latent_shape(pipe: Any, height: int, width: int) -> tuple[int, ...]:
    """(1, tokens, channels) of packed latents; a token is 2 x 2 latent pixels."""
    pixels = 2 * pipe.vae_scale_factor
    return (1, (height // pixels) * (width // pixels), pipe.transformer.config.in_channels)


def make_inputs(pipe: Any, shape: tuple[int, ...], prompt_tokens: int) -> dict[str, Any]:
    """Zeros for one call of the transformer."""
    config = pipe.transformer.config
    return {
        "hidden_states": torch.zeros(shape),
        "timestep": torch.zeros(1),
        "guidance": torch.zeros(1) if config.guidance_embeds else None,
        "pooled_projections": torch.zeros(1, config.pooled_projection_dim),
        "encoder_hidden_states": torch.zeros(1, prompt_tokens, config.joint_attention_dim),
        "txt_ids": torch.zeros(prompt_tokens, 3),
        "img_ids": torch.zeros(shape[1], 3),
    }
