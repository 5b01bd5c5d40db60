"""Pipelines of the published architectures that have no reference model, tiny and with random weights."""

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from transformers import AutoTokenizer

import autotune.evaluators

ZOO = Path(autotune.evaluators.__path__[0]) / "zoo"
NAMES = ("sd3", "sdxl", "qwen-image", "wan")
SEQUENTIAL = ("qwen-image", "wan")
"""Those that guide in two calls."""

D: Any = diffusers  # its constructors are untyped
T: Any = transformers


def make_pipeline(name: str) -> Any:
    """A pipeline in float32 on the CPU, the same in every run."""
    with torch.random.fork_rng():
        torch.manual_seed(NAMES.index(name))
        pipe = {"sd3": _sd3, "sdxl": _sdxl, "qwen-image": _qwen_image, "wan": _wan}[name]()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    pipe.register_to_config(_name_or_path=f"random/{name}")
    return pipe


def random_args(name: str, *, steps: int = 4) -> dict[str, Any]:
    """Arguments of the smallest guided run of two prompts of different length, which returns latents."""
    size = {"qwen-image": 64, "wan": 32}.get(name, 16)
    args = {"height": size, "width": size, "num_inference_steps": steps, "output_type": "latent"}
    if name in ("sd3", "sdxl"):
        return {"prompt": ["a red circle", "a cat"], "guidance_scale": 4.0, **args} | (
            {"max_sequence_length": 16} if name == "sd3" else {}
        )
    generator = torch.Generator().manual_seed(3)
    embeds = {
        "prompt_embeds": torch.randn(2, 7, 24, generator=generator),
        "negative_prompt_embeds": torch.randn(2, 3, 24, generator=generator),
    }
    if name == "wan":
        return {"num_frames": 5, "guidance_scale": 3.0, **embeds, **args}
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    masks = {"prompt_embeds_mask": mask, "negative_prompt_embeds_mask": torch.ones(2, 3, dtype=torch.long)}
    return {"true_cfg_scale": 3.0, **embeds, **masks, **args}


def _vae(**config: Any) -> Any:
    return D.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, sample_size=16, **config,
    )  # fmt: skip


def _clip() -> dict[str, Any]:
    """Two text encoders of width 12, each with its tokenizer."""
    config = T.CLIPTextConfig(
        vocab_size=60, hidden_size=12, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, projection_dim=12, bos_token_id=3, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(ZOO / "mini-flux" / "tokenizer")
    model = T.CLIPTextModelWithProjection
    return {"text_encoder": model(config), "text_encoder_2": model(config), "tokenizer": tokenizer,
            "tokenizer_2": tokenizer}  # fmt: skip


def _sd3() -> Any:
    """Four blocks, two of them with the second attention of SD3.5 medium; SD3's published scheduler."""
    t5 = T.T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return D.StableDiffusion3Pipeline(
        transformer=D.SD3Transformer2DModel(
            sample_size=8, in_channels=4, out_channels=4, num_layers=4, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=24, pos_embed_max_size=16,
            dual_attention_layers=(0, 1), qk_norm="rms_norm",
        ),
        scheduler=D.FlowMatchEulerDiscreteScheduler(shift=3.0), vae=_vae(scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder_3=T.T5EncoderModel(t5),
        tokenizer_3=AutoTokenizer.from_pretrained(ZOO / "mini-flux" / "tokenizer_2"),
        **_clip(),
    )  # fmt: skip


def _sdxl() -> Any:
    """A stage without attention, and one with two transformer blocks; SDXL's published scheduler."""
    return D.StableDiffusionXLPipeline(
        unet=D.UNet2DConditionModel(
            sample_size=8, block_out_channels=(8, 16), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2),
            layers_per_block=1, cross_attention_dim=24, attention_head_dim=(2, 4), norm_num_groups=4,
            addition_embed_type="text_time", addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + 12, use_linear_projection=True,
        ),
        scheduler=D.EulerDiscreteScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, timestep_spacing="leading",
            steps_offset=1,
        ),
        vae=_vae(scaling_factor=0.13025), **_clip(),
    )  # fmt: skip


def _qwen_image() -> Any:
    """Three blocks; Qwen-Image's published scheduler."""
    t5 = T.T5Config(vocab_size=60, d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return D.QwenImagePipeline(
        transformer=D.QwenImageTransformer2DModel(
            in_channels=16, out_channels=4, num_layers=3, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=24, axes_dims_rope=(4, 6, 6),
        ),
        scheduler=D.FlowMatchEulerDiscreteScheduler(**QWEN_SCHEDULER),
        vae=D.AutoencoderKLQwenImage(
            base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[-0.5, 0.0, 0.5, 1.0],
            latents_std=[0.5, 1.0, 2.0, 4.0],
        ),
        text_encoder=T.T5EncoderModel(t5),  # in place of a language model: it too gives hidden states
        tokenizer=AutoTokenizer.from_pretrained(ZOO / "mini-flux" / "tokenizer_2"),
    )  # fmt: skip


def _wan() -> Any:
    """Three blocks; Wan 2.1's published scheduler."""
    return D.WanPipeline(
        transformer=D.WanTransformer3DModel(
            in_channels=4, out_channels=4, num_layers=3, attention_head_dim=12, num_attention_heads=2, text_dim=24,
            freq_dim=16, ffn_dim=32, rope_max_seq_len=64,
        ),
        scheduler=D.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0),
        vae=None, text_encoder=None, tokenizer=None,
    )  # fmt: skip


QWEN_SCHEDULER: dict[str, Any] = {
    "base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 8192, "max_shift": 0.9, "shift_terminal": 0.02,
    "use_dynamic_shifting": True,
}  # fmt: skip
