"""Sites and inputs of FLUX.1: double-stream and single-stream transformer blocks."""

from typing import Any

import torch

from autotune.spaces.inventory import Relation, Site


def list_sites(denoiser: Any) -> tuple[Site, ...]:
    """Attention and both feed-forwards of a double block; attention and both projections of a single block.

    In a single block `proj_out` alone consumes the other two, so they feed it.
    """
    sites = []
    for i in range(len(denoiser.transformer_blocks)):
        block = f"transformer_blocks.{i}"
        for leaf in ("attn", "ff", "ff_context"):
            sites.append(Site(name=f"{block}.{leaf}", block=block, component=leaf, macs=0))
    for i in range(len(denoiser.single_transformer_blocks)):
        block = f"single_transformer_blocks.{i}"
        proj_out = len(sites) + 2
        for leaf in ("attn", "proj_mlp"):
            sites.append(
                Site(
                    name=f"{block}.{leaf}",
                    block=block,
                    component=f"single_{leaf}",
                    macs=0,
                    parent=proj_out,
                    relation=Relation.FEEDS,
                )
            )
        sites.append(Site(name=f"{block}.proj_out", block=block, component="single_proj_out", macs=0))
    return tuple(sites)


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
