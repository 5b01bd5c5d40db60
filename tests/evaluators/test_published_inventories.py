"""Sites and MACs of published models on the meta device, the latter against counts from the dimensions alone.

FLUX and SDXL are in `test_inventory`.
"""

from typing import Any

import diffusers
import torch

from autotune.evaluators.inventory import default_prompt_tokens, measure_inventory
from autotune.spaces.inventory import Inventory

from .random_pipelines import QWEN_SCHEDULER

D: Any = diffusers  # its constructors are untyped

SD3_MEDIUM: dict[str, Any] = {
    "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192,
}  # fmt: skip
"""As diffusers' scripts/convert_sd3_to_diffusers.py reads it off the checkpoint; the rest are the class's defaults."""
SD35_MEDIUM: dict[str, Any] = {
    **SD3_MEDIUM, "pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm",
}  # fmt: skip
"""From the same script's comments."""
WAN_1_3B: dict[str, Any] = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
"""Wan-T2V-1.3B of diffusers' scripts/convert_wan_to_diffusers.py; the rest are the class's defaults."""


def make_sd3(config: dict[str, Any]) -> Any:
    with torch.device("meta"):
        transformer = D.SD3Transformer2DModel(**config)
    names = ("vae", "text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
    scheduler = D.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return D.StableDiffusion3Pipeline(transformer=transformer, scheduler=scheduler, **dict.fromkeys(names))


def make_wan(config: dict[str, Any], **options: Any) -> Any:
    with torch.device("meta"):
        transformer = D.WanTransformer3DModel(**config)
    scheduler = D.FlowMatchEulerDiscreteScheduler(shift=3.0)
    parts = {"vae": None, "text_encoder": None, "tokenizer": None, **options}
    return D.WanPipeline(transformer=transformer, scheduler=scheduler, **parts)


def sd3_macs(image: int, text: int, *, dual: int = 0) -> int:
    """Closed form at width 1536 and 24 blocks, `dual` of which attend twice to the image."""
    d, n_layers, both = 1536, 24, image + text
    ends = image * 2 * (16 * 4) * d + text * 4096 * d + 2 * d * d
    conditions = 256 * d + d * d + 2048 * d + d * d
    blocks = n_layers * (12 * d * d + 12 * both * d * d + 2 * both**2 * d)
    second = dual * (3 * d * d + 4 * image * d * d + 2 * image**2 * d)
    text_of_the_last = 4 * d * d + 9 * text * d * d  # modulation, projection and feed-forward that it lacks
    return ends + conditions + blocks + second - text_of_the_last


def ends_of(inventory: Inventory) -> tuple[int, str, str]:
    leaves = [inventory.sites[i].name for i in inventory.leaves]
    return len(leaves), leaves[0], leaves[-1]


def macs_of(inventory: Inventory, name: str) -> int:
    (macs,) = [site.macs for site in inventory.sites if site.name == name]
    return macs


def test_sd3_medium() -> None:
    pipe = make_sd3(SD3_MEDIUM)
    assert default_prompt_tokens(pipe) == 77 + 256
    inventory = measure_inventory(pipe, 1024, 1024)
    assert ends_of(inventory) == (71, "transformer_blocks.0.attn", "transformer_blocks.23.ff")
    assert inventory.total_macs == sd3_macs(4096, 333)


def test_sd35_medium_has_a_second_attention_in_thirteen_blocks() -> None:
    inventory = measure_inventory(make_sd3(SD35_MEDIUM), 1024, 1024)
    assert ends_of(inventory) == (84, "transformer_blocks.0.attn", "transformer_blocks.23.ff")
    second = [s for s in inventory.sites if s.component == "attn2"]
    assert [s.block for s in second] == [f"transformer_blocks.{i}" for i in range(13)]
    assert second[0].macs == 4 * 4096 * 1536**2 + 2 * 4096**2 * 1536
    assert inventory.total_macs == sd3_macs(4096, 333, dual=13)


def test_qwen_image() -> None:
    """The class's defaults are the published model."""
    with torch.device("meta"):
        transformer = D.QwenImageTransformer2DModel()
    scheduler = D.FlowMatchEulerDiscreteScheduler(**QWEN_SCHEDULER)
    parts = {"vae": None, "text_encoder": None, "tokenizer": None}
    pipe = D.QwenImagePipeline(transformer=transformer, scheduler=scheduler, **parts)
    inventory = measure_inventory(pipe, 1328, 1328, prompt_tokens=100)
    assert ends_of(inventory) == (179, "transformer_blocks.0.attn", "transformer_blocks.59.img_mlp")
    d, image, text = 3072, 83 * 83, 100
    both = image + text
    ends = image * 2 * 64 * d + text * 3584 * d + 256 * d + 3 * d * d
    assert inventory.total_macs == ends + 60 * (12 * d * d + 12 * both * d * d + 2 * both**2 * d)


def test_wan_1_3b() -> None:
    inventory = measure_inventory(make_wan(WAN_1_3B), 480, 832, prompt_tokens=512)
    assert ends_of(inventory) == (90, "blocks.0.attn1", "blocks.29.ffn")
    d, tokens, text = 1536, 21 * 30 * 52, 512
    conditions = 256 * d + d * d + 6 * d * d + text * (4096 * d + d * d)
    self_attention = 4 * tokens * d * d + 2 * tokens**2 * d
    cross_attention = 2 * tokens * d * d + 2 * text * d * d + 2 * tokens * text * d
    block = self_attention + cross_attention + 2 * tokens * d * 8960
    assert inventory.total_macs == tokens * 2 * 64 * d + conditions + 30 * block
    assert macs_of(inventory, "blocks.0.attn2") == cross_attention
    assert macs_of(inventory, "blocks.0") == block


def test_wan_with_a_timestep_per_token_or_a_first_frame_embeds_them_too() -> None:
    """Options of Wan 2.2 TI2V and of Wan 2.1 I2V, on a small transformer."""
    small: dict[str, Any] = {"num_attention_heads": 2, "ffn_dim": 256, "num_layers": 2}
    plain = measure_inventory(make_wan(small), 64, 64, prompt_tokens=512)
    d, tokens = 256, 21 * 4 * 4
    per_token = measure_inventory(make_wan(small, expand_timesteps=True), 64, 64, prompt_tokens=512)
    assert per_token.total_macs - plain.total_macs == (tokens - 1) * (256 * d + d * d + 6 * d * d)
    pictured = make_wan({**small, "image_dim": 32, "added_kv_proj_dim": d})
    added = measure_inventory(pictured, 64, 64, prompt_tokens=512)
    per_block = 2 * 257 * d * d + 2 * tokens * 257 * d
    assert added.total_macs - plain.total_macs == 257 * (32 * 32 + 32 * d) + 2 * per_block
    assert macs_of(added, "blocks.0.attn2") - macs_of(plain, "blocks.0.attn2") == per_block
