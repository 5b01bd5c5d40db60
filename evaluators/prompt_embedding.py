"""Text embeddings of a prompt set, computed once and sliced per batch."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from autotune.spaces.errors import UnsupportedModelError

# What `encode_prompt` of each pipeline class returns, by the name of the call argument; None is not passed on.
_OUTPUTS: dict[str, tuple[str | None, ...]] = {
    "FluxPipeline": ("prompt_embeds", "pooled_prompt_embeds", None),
    "PixArtAlphaPipeline": (
        "prompt_embeds",
        "prompt_attention_mask",
        "negative_prompt_embeds",
        "negative_prompt_attention_mask",
    ),
    "StableDiffusionPipeline": ("prompt_embeds", "negative_prompt_embeds"),
    "StableDiffusionXLPipeline": (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    ),
}
_OUTPUTS["PixArtSigmaPipeline"] = _OUTPUTS["PixArtAlphaPipeline"]
_OUTPUTS["StableDiffusion3Pipeline"] = _OUTPUTS["StableDiffusionXLPipeline"]


@torch.no_grad()
def embed_prompts(
    pipe: Any, prompts: Sequence[str], *, guidance_scale: float, call_kwargs: Mapping[str, object]
) -> dict[str, torch.Tensor]:
    """Call arguments that replace `prompt`: tensors whose first axis runs over the prompts.

    Embeddings of the empty negative prompt are included where `guidance_scale` > 1 asks for a second branch.

    Raises:
        UnsupportedModelError: the pipeline class is not known.
    """
    kind = type(pipe).__name__
    if kind not in _OUTPUTS:
        raise UnsupportedModelError(f"the pipeline must be one of {', '.join(sorted(_OUTPUTS))}; got {kind}")
    wanted: dict[str, Any] = {
        "prompt": list(prompts),
        "prompt_2": None,  # what the further encoders of FLUX, SDXL and SD3 read: None is the prompt itself
        "prompt_3": None,
        "device": pipe._execution_device,
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": guidance_scale > 1,
        **call_kwargs,
    }
    known = inspect.signature(pipe.encode_prompt).parameters
    outputs = pipe.encode_prompt(**{name: value for name, value in wanted.items() if name in known})
    return {name: out for name, out in zip(_OUTPUTS[kind], outputs, strict=True) if name and out is not None}
