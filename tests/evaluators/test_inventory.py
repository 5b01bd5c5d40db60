"""MACs of the sites, against formulas worked by hand."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.inventory import default_prompt_tokens, list_inventory, measure_inventory, split_macs
from autotune.spaces.errors import UnsupportedModelError
from autotune.spaces.inventory import Inventory

IMAGE, TEXT, WIDTH = 64, 16, 128
"""Tokens of a 32 x 32 picture and of a prompt, and the width, in mini-flux and mini-pixart."""


def make(name: str, **config: Any) -> Any:
    return getattr(diffusers, name)(**config)


def macs(inventory: Inventory, name: str) -> int:
    return next(site.macs for site in inventory.sites if site.name == name)


def layer_macs(pipe: Any, size: int, prompt_tokens: int) -> int:
    """MACs of one call's linear layers and convolutions, from their weights and the shapes of their outputs."""
    adapter, total = find_adapter(pipe), 0

    def count(module: Any, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        channel = 1 if isinstance(module, torch.nn.Conv2d) else -1
        total += output.numel() // output.shape[channel] * module.weight.numel()

    with torch.no_grad(), torch.device("meta"):
        original = getattr(pipe, adapter.denoiser_attr)
        denoiser = type(original).from_config(original.config)
        for module in denoiser.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                module.register_forward_hook(count)
        denoiser(**adapter.make_inputs(pipe, adapter.latent_shape(pipe, size, size), prompt_tokens))
    return total


def test_flux_leaves_and_total(flux_pipe: Any) -> None:
    inventory = measure_inventory(flux_pipe, 32, 32)
    both = IMAGE + TEXT
    attention = 2 * both**2 * WIDTH
    assert macs(inventory, "transformer_blocks.1.ff") == 2 * IMAGE * WIDTH * 4 * WIDTH
    assert macs(inventory, "transformer_blocks.1.ff_context") == 2 * TEXT * WIDTH * 4 * WIDTH
    assert macs(inventory, "transformer_blocks.1.attn") == 4 * both * WIDTH**2 + attention
    assert macs(inventory, "single_transformer_blocks.2.attn") == 3 * both * WIDTH**2 + attention
    assert macs(inventory, "single_transformer_blocks.2.proj_mlp") == both * WIDTH * 4 * WIDTH
    assert macs(inventory, "single_transformer_blocks.2.proj_out") == both * 5 * WIDTH * WIDTH
    assert inventory.total_macs == layer_macs(flux_pipe, 32, TEXT) + 12 * attention


def test_pixart_leaves(pixart_pipe: Any) -> None:
    inventory = measure_inventory(pixart_pipe, 32, 32)
    block = "transformer_blocks.9"
    assert macs(inventory, f"{block}.attn1") == 4 * IMAGE * WIDTH**2 + 2 * IMAGE**2 * WIDTH
    assert macs(inventory, f"{block}.attn2") == 2 * (IMAGE + TEXT) * WIDTH**2 + 2 * IMAGE * TEXT * WIDTH
    assert macs(inventory, f"{block}.ff") == 2 * IMAGE * WIDTH * 4 * WIDTH
    attention = 14 * 2 * (IMAGE**2 + IMAGE * TEXT) * WIDTH
    assert inventory.total_macs == layer_macs(pixart_pipe, 32, TEXT) + attention


def test_unet_leaves_and_stage(sd_pipe: Any) -> None:
    inventory = measure_inventory(sd_pipe, 32, 32)
    pixels, wide = 16 * 16, 56
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    assert macs(inventory, f"{block}.attn1") == 4 * pixels * wide**2 + 2 * pixels**2 * wide
    assert macs(inventory, f"{block}.attn2") == 2 * (pixels * wide**2 + TEXT * 64 * wide + pixels * TEXT * wide)
    assert macs(inventory, f"{block}.ff") == pixels * wide * 8 * wide + pixels * 4 * wide * wide  # GEGLU
    time_projection = sd_pipe.unet.time_embedding.linear_2.out_features * wide
    assert macs(inventory, "down_blocks.0.resnets.0") == 2 * pixels * 9 * wide**2 + time_projection
    inside = sum(s.macs for s in inventory.sites if s.name.startswith("down_blocks.0."))
    projections = 2 * 2 * pixels * wide**2
    downsampler = pixels // 4 * 9 * wide**2
    assert macs(inventory, "down_blocks.0") == inside + projections + downsampler
    embedding = 4 * wide * wide + 16 * wide * wide
    ends = 2 * pixels * 9 * 4 * wide
    stages = sum(s.macs for s in inventory.sites if s.component == "stage")
    assert inventory.total_macs == stages + embedding + ends


def test_the_split_into_layers_and_attention(pipe_case: tuple[Any, dict[str, Any]]) -> None:
    pipe, split = pipe_case[0], split_macs(pipe_case[0], 32, 32)
    assert split.layers == layer_macs(pipe, 32, TEXT)
    assert split.layers + split.attention == measure_inventory(pipe, 32, 32).total_macs


def test_sites_hold_nearly_all_macs(pipe_case: tuple[Any, dict[str, Any]]) -> None:
    inventory = measure_inventory(pipe_case[0], 32, 32)
    (final,) = [s for s in inventory.sites if s.parent is None]
    assert 0.98 < final.macs / inventory.total_macs <= 1
    assert (inventory.tree.own_macs >= 0).all()
    assert inventory.tree.own_macs.sum() == final.macs
    assert all(s.macs > 0 for s in inventory.sites)


def test_hash_says_structure_and_not_resolution(flux_pipe: Any, pixart_pipe: Any) -> None:
    listed = list_inventory(flux_pipe)
    small, large = measure_inventory(flux_pipe, 32, 32), measure_inventory(flux_pipe, 64, 64)
    assert listed.hash == small.hash == large.hash
    assert listed.hash != list_inventory(pixart_pipe).hash
    assert small.total_macs < large.total_macs
    assert listed.total_macs == 0


def test_prompt_length_is_the_pipelines_own_unless_given(flux_pipe: Any) -> None:
    assert default_prompt_tokens(flux_pipe) == TEXT
    longer = measure_inventory(flux_pipe, 32, 32, prompt_tokens=20)
    assert macs(longer, "transformer_blocks.0.ff_context") == 2 * 20 * WIDTH * 4 * WIDTH


def test_flux_dev_at_full_size_costs_no_memory_and_has_171_leaves() -> None:
    with torch.device("meta"):
        pipe = SimpleNamespace(transformer=make("FluxTransformer2DModel", guidance_embeds=True), vae_scale_factor=8)
    began = time.perf_counter()
    inventory = measure_inventory(pipe, 1024, 1024, prompt_tokens=512)
    assert time.perf_counter() - began < 30
    assert len(inventory) == 2 + 57 + 171
    tokens, width = 4096 + 512, 3072
    assert macs(inventory, "single_transformer_blocks.37.attn") == 3 * tokens * width**2 + 2 * tokens**2 * width
    assert inventory.total_macs == layer_macs(pipe, 1024, 512) + 57 * 2 * tokens**2 * width


def meta_pipe(name: str, **config: Any) -> Any:
    with torch.device("meta"):
        return SimpleNamespace(transformer=make(name, **config), vae_scale_factor=8)


def flux_dev() -> Any:
    """FLUX.1-dev: diffusers' defaults with an embedded guidance."""
    return meta_pipe("FluxTransformer2DModel", guidance_embeds=True)


def pixart_alpha_256() -> Any:
    """PixArt-alpha XL-2 256: diffusers' defaults at a latent of 32 x 32, captions from T5-XXL."""
    return meta_pipe("PixArtTransformer2DModel", sample_size=32, caption_channels=4096)


def test_published_models_are_what_diffusers_builds_by_default() -> None:
    flux, pixart = flux_dev().transformer.config, pixart_alpha_256().transformer.config
    assert (flux.num_layers, flux.num_single_layers, flux.in_channels) == (19, 38, 64)
    assert (flux.num_attention_heads, flux.attention_head_dim) == (24, 128)
    assert (flux.joint_attention_dim, flux.pooled_projection_dim) == (4096, 768)
    assert (pixart.num_layers, pixart.num_attention_heads, pixart.attention_head_dim) == (28, 16, 72)
    assert (pixart.in_channels, pixart.out_channels, pixart.patch_size) == (4, 8, 2)


@pytest.mark.parametrize(
    ("make_pipe", "pixels", "tokens", "branches", "layers", "attention"),
    [
        (pixart_alpha_256, 256, 120, 2, 5.714, 0.2484),
        (flux_dev, 256, 512, 1, 198.69 / 2, 4.13),
        (flux_dev, 1024, 512, 1, 1190.25 / 2, 148.7),
    ],
)
def test_published_totals_are_the_layers_without_attention(
    make_pipe: Callable[[], Any], pixels: int, tokens: int, branches: int, layers: float, attention: float
) -> None:
    """ECAD's totals of 20 steps in tera-MACs: PixArt guided; FLUX's are published as twice the layers."""
    pipe = make_pipe()
    split = split_macs(pipe, pixels, pixels, prompt_tokens=tokens)
    calls = 20 * branches
    assert split.layers * calls / 1e12 == pytest.approx(layers, rel=1e-3)
    assert split.attention * calls / 1e12 == pytest.approx(attention, rel=1e-3)


def test_sdxl_at_full_size() -> None:
    with torch.device("meta"):
        unet = make(
            "UNet2DConditionModel",
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
            use_linear_projection=True,
            sample_size=128,
        )
    pipe = SimpleNamespace(unet=unet, vae_scale_factor=8, config=SimpleNamespace())
    inventory = measure_inventory(pipe, 1024, 1024, prompt_tokens=77)
    names = [s.name for s in inventory.sites]
    assert (len(names), names[0], names[-1]) == (235, "final", "up_blocks.2.resnets.2")
    assert [s.component for s in inventory.sites].count("stage") == 7
    leaf = "mid_block.attentions.0.transformer_blocks.9"
    assert macs(inventory, f"{leaf}.attn1") == 4 * 1024 * 1280**2 + 2 * 1024**2 * 1280
    assert macs(inventory, f"{leaf}.attn2") == 2 * 1024 * 1280**2 + 2 * 77 * (2048 + 1024) * 1280
    attention = sum(
        n_layers * 2 * tokens * (tokens + 77) * width
        for n_layers, tokens, width in ((10, 64**2, 640), (60, 32**2, 1280))
    )
    assert inventory.total_macs == layer_macs(pipe, 1024, 77) + attention


def test_variant_with_other_module_names_is_refused(flux_pipe: Any) -> None:
    block = flux_pipe.transformer.single_transformer_blocks[0]
    leaf = block.proj_mlp
    del block.proj_mlp
    try:
        with pytest.raises(UnsupportedModelError, match="proj_mlp"):
            list_inventory(flux_pipe)
    finally:
        block.proj_mlp = leaf
