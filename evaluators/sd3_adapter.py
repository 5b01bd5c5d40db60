"""Sites and inputs of Stable Diffusion 3 and 3.5."""

from typing import Any

import torch

from autotune.spaces.inventory import Relation, Site


def list_sites(denoiser: Any) -> tuple[Site, ...]:
    """Joint attention, image and text feed-forward of every block; the image's own attention in blocks that have it.

    The last block drops the text, so it has no text feed-forward, and what the one before it makes of the text feeds
    its attention alone.
    """
    sites: list[Site] = []
    blocks = denoiser.transformer_blocks
    for i, module in enumerate(blocks):
        block = f"transformer_blocks.{i}"
        for leaf in ("attn", "attn2", "ff", "ff_context"):
            if getattr(module, leaf) is None:
                continue
            feeds = leaf == "ff_context" and i == len(blocks) - 2 and blocks[-1].context_pre_only
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
