"""Sites and inputs of the UNet of Stable Diffusion 1.x, 2.x and XL."""

from collections.abc import Iterator
from typing import Any

import torch

from autotune.evaluators.span import Span, Streams
from autotune.spaces.inventory import FINAL, Relation, Site

_NORMS = {"attn1": "norm1", "attn2": "norm2", "ff": "norm3"}
"""Leaves of a transformer block in execution order, and the norms that they read."""


def list_sites(denoiser: Any) -> tuple[Site, ...]:
    """The hidden state after the last stage, each stage as a whole (down, mid, up), and the leaves inside it.

    Reusing a stage is DeepCache's move (Ma et al. 2024) with the stage's whole output, skip connections included.
    Leaves are residual blocks and the parts of the transformers.
    """
    sites = [Site(name=FINAL, block=FINAL, component=FINAL, macs=0)]
    for stage, module in _stages(denoiser):
        parent = len(sites)
        sites.append(Site(name=stage, block=stage, component="stage", macs=0, parent=0, relation=Relation.INSIDE))
        for name, component in _leaves(module):
            site = Site(
                name=f"{stage}.{name}",
                block=stage,
                component=component,
                macs=0,
                parent=parent,
                relation=Relation.INSIDE,
            )
            sites.append(site)
    return tuple(sites)


def list_norms(denoiser: Any) -> dict[str, tuple[str, ...]]:
    """The norm of each part of a transformer, where it takes the hidden state alone."""
    leaves = [f"{stage}.{name}" for stage, module in _stages(denoiser) for name, _ in _leaves(module)]
    norms: dict[str, tuple[str, ...]] = {}
    for leaf in leaves:
        block, _, part = leaf.rpartition(".")
        if part in _NORMS and denoiser.get_submodule(block).norm_type == "layer_norm":
            norms[f"{block}.{_NORMS[part]}"] = (leaf,)
    return norms


def list_spans(denoiser: Any) -> dict[str, Span]:
    """All stages, one after the other."""
    stages = tuple(name for name, _ in _stages(denoiser))
    return {FINAL: Span(modules=stages, streams=("hidden_states",), residual=False, skip=_skip)}


def list_splits(denoiser: Any) -> dict[str, tuple[int, ...]]:
    """The first convolution and the shortcut of residual blocks going up: (channels from below, of the skip)."""
    splits: dict[str, tuple[int, ...]] = {}
    before = list(denoiser.down_blocks)[-1] if denoiser.mid_block is None else denoiser.mid_block
    below = before.resnets[-1].out_channels
    for k, stage in enumerate(denoiser.up_blocks):
        for j, block in enumerate(stage.resnets):
            for name in ("conv1", "conv_shortcut"):
                if getattr(block, name) is not None:
                    splits[f"up_blocks.{k}.resnets.{j}.{name}"] = (below, block.in_channels - below)
            below = block.out_channels
    return splits


def _skip(stage: Any, streams: Streams) -> Any:
    """What a stage returns that is skipped with all others: a down stage also as many skip connections as it makes."""
    (hidden,) = streams
    if "Down" not in type(stage).__name__:
        return hidden
    return hidden, (hidden,) * (len(stage.resnets) + len(stage.downsamplers or ()))


def _stages(denoiser: Any) -> Iterator[tuple[str, Any]]:
    for k, module in enumerate(denoiser.down_blocks):
        yield f"down_blocks.{k}", module
    if denoiser.mid_block is not None:
        yield "mid_block", denoiser.mid_block
    for k, module in enumerate(denoiser.up_blocks):
        yield f"up_blocks.{k}", module


def _leaves(stage: Any) -> Iterator[tuple[str, str]]:
    """(path inside the stage, component) in execution order; the middle stage begins with an extra residual block."""
    resnets, attentions = list(stage.resnets), list(getattr(stage, "attentions", None) or ())
    n_extra = len(resnets) - len(attentions) if attentions else 0
    for j in range(len(resnets)):
        if j >= n_extra and n_extra:
            yield from _transformer_leaves(attentions, j - n_extra)
        yield f"resnets.{j}", "resnet"
        if not n_extra and attentions:
            yield from _transformer_leaves(attentions, j)


def _transformer_leaves(attentions: list[Any], j: int) -> Iterator[tuple[str, str]]:
    for i, block in enumerate(getattr(attentions[j], "transformer_blocks", None) or ()):
        for leaf in _NORMS:
            if getattr(block, leaf, None) is not None:
                yield f"attentions.{j}.transformer_blocks.{i}.{leaf}", leaf


def latent_shape(pipe: Any, height: int, width: int) -> tuple[int, ...]:
    """(1, channels, latent height, latent width)."""
    scale = pipe.vae_scale_factor
    return (1, pipe.unet.config.in_channels, height // scale, width // scale)


def make_inputs(pipe: Any, shape: tuple[int, ...], prompt_tokens: int) -> dict[str, Any]:
    """Zeros for one call of the UNet; SDXL also takes the pooled prompt and six sizes."""
    unet, config = pipe.unet, pipe.unet.config
    added = None
    if config.addition_embed_type == "text_time":
        n_sizes = 6 if not getattr(pipe.config, "requires_aesthetics_score", False) else 5
        width = unet.add_embedding.linear_1.in_features - n_sizes * config.addition_time_embed_dim
        added = {"text_embeds": torch.zeros(1, width), "time_ids": torch.zeros(1, n_sizes)}
    conditioned = config.time_cond_proj_dim is not None
    return {
        "sample": torch.zeros(shape),
        "timestep": torch.zeros(1),
        "encoder_hidden_states": torch.zeros(1, prompt_tokens, config.cross_attention_dim),
        "timestep_cond": torch.zeros(1, config.time_cond_proj_dim) if conditioned else None,
        "added_cond_kwargs": added,
    }
