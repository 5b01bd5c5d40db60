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
    "QwenImagePipeline": ("prompt_embeds", "prompt_embeds_mask"),
}
_OUTPUTS["PixArtSigmaPipeline"] = _OUTPUTS["PixArtAlphaPipeline"]
_OUTPUTS["StableDiffusion3Pipeline"] = _OUTPUTS["StableDiffusionXLPipeline"]

_EMPTY = " "
"""The negative prompt that Qwen-Image's model card gives where nothing is to be avoided."""

_OWN_LENGTH = "prompt_embeds_mask"
"""End of the mask's name where prompts have their own length; PixArt's masks, over a fixed one, are named otherwise."""


@torch.no_grad()
def embed_prompts(
    pipe: Any, prompts: Sequence[str], *, guidance_scale: float, call_kwargs: Mapping[str, object]
) -> dict[str, torch.Tensor]:
    """Call arguments that replace `prompt`: tensors whose first axis runs over the prompts.

    Embeddings of the empty negative prompt are included where `guidance_scale` > 1 asks for a second branch. Prompts of
    Qwen-Image have their own length; here they are padded to the longest, and `embeddings_of` cuts them again.

    Raises:
        UnsupportedModelError: the pipeline class is not known.
    """
    kind = type(pipe).__name__
    if kind not in _OUTPUTS:
        raise UnsupportedModelError(
            f"to be searched, a pipeline must be one of {', '.join(sorted(_OUTPUTS))}; got {kind}; load one of these"
        )
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
    embeddings = {name: out for name, out in zip(_OUTPUTS[kind], outputs, strict=True) if name and out is not None}
    if kind == "QwenImagePipeline" and guidance_scale > 1:  # it has no negative prompt of its own
        options = {name: value for name, value in call_kwargs.items() if name in known}
        negative, _ = pipe.encode_prompt([_EMPTY] * len(prompts), device=pipe._execution_device, **options)
        embeddings["negative_prompt_embeds"] = negative
        embeddings["negative_prompt_embeds_mask"] = negative.new_ones(negative.shape[:2], dtype=torch.long)
    return embeddings


def embeddings_of(embeddings: Mapping[str, torch.Tensor], rows: slice) -> dict[str, torch.Tensor]:
    """The embeddings of some prompts, as long as the longest of these where the pipeline pads to no fixed length."""
    chosen = {name: tensor[rows] for name, tensor in embeddings.items()}
    for name in [name for name in chosen if name.endswith(_OWN_LENGTH)]:
        n_tokens = int(chosen[name].sum(dim=1).max())
        for padded in (name, name.removesuffix("_mask")):
            chosen[padded] = chosen[padded][:, :n_tokens]
    return chosen
