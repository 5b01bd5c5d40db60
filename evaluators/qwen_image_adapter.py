"""Sites and inputs of Qwen-Image."""

import math
from typing import Any

import torch

from autotune.evaluators.block_sites import Leaf, block_norms, block_paths, block_sites, block_spans
from autotune.evaluators.span import Span
from autotune.spaces.inventory import Site

_LEAVES = (
    Leaf(path="attn", component="attn", norms=("img_norm1", "txt_norm1")),
    Leaf(path="img_mlp", component="img_mlp", norms=("img_norm2",)),
    Leaf(path="txt_mlp", component="txt_mlp", norms=("txt_norm2",)),
)


def list_sites(denoiser: Any) -> tuple[Site, ...]:
    """Joint attention, image and text feed-forward of every block, but for the last block's text feed-forward.

    That one is computed by the model and read by nobody, since only the image leaves the stack.
    """
    return block_sites(_leaves(denoiser))


def list_norms(denoiser: Any) -> dict[str, tuple[str, ...]]:
    """Norms of both streams before attention and feed-forward."""
    return block_norms(_leaves(denoiser))


def list_spans(denoiser: Any) -> dict[str, Span]:
    """Blocks and their stack, through which text and image flow."""
    return block_spans(block_paths(denoiser, "transformer_blocks"), ("encoder_hidden_states", "hidden_states"))


def _leaves(denoiser: Any) -> dict[str, tuple[Leaf, ...]]:
    blocks = block_paths(denoiser, "transformer_blocks")
    return dict.fromkeys(blocks, _LEAVES) | {blocks[-1]: _LEAVES[:2]}


def latent_shape(pipe: Any, height: int, width: int) -> tuple[int, ...]:
    """(1, tokens, channels) of packed latents; a token is 2 x 2 latent pixels."""
    pixels = 2 * pipe.vae_scale_factor
    return (1, (height // pixels) * (width // pixels), pipe.transformer.config.in_channels)


def make_inputs(pipe: Any, shape: tuple[int, ...], prompt_tokens: int) -> dict[str, Any]:
    """Zeros for one call of the transformer, for a picture as square as its number of tokens allows."""
    n_tokens = shape[1]
    height = next(h for h in range(math.isqrt(n_tokens), 0, -1) if n_tokens % h == 0)
    return {
        "hidden_states": torch.zeros(shape),
        "encoder_hidden_states": torch.zeros(1, prompt_tokens, pipe.transformer.config.joint_attention_dim),
        "timestep": torch.zeros(1),
        "img_shapes": [[(1, height, n_tokens // height)]],
    }
