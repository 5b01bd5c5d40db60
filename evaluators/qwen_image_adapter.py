"""Sites and inputs of Qwen-Image."""

import math
from typing import Any

import torch

from autotune.spaces.inventory import Relation, Site


def list_sites(denoiser: Any) -> tuple[Site, ...]:
    """Joint attention, image and text feed-forward of every block, but for the last block's text feed-forward.

    That one is computed by the model and read by nobody, since only the image leaves the stack. So what the block
    before makes of the text feeds the last attention alone.
    """
    sites: list[Site] = []
    last = len(denoiser.transformer_blocks) - 1
    for i in range(last + 1):
        block = f"transformer_blocks.{i}"
        for leaf in ("attn", "img_mlp", "txt_mlp"):
            if leaf == "txt_mlp" and i == last:
                continue
            feeds = leaf == "txt_mlp" and i == last - 1
            sites.append(
                Site(
                    name=f"{block}.{leaf}",
                    block=block,
                    component=leaf,
                    macs=0,
                    parent=len(sites) + 1 if feeds else None,
                    relation=Relation.FEEDS if feeds else None,
                )
            )
    return tuple(sites)


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
