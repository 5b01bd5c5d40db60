"""A pipeline that the user built, taken as it is."""

import dataclasses
import hashlib
from typing import Any

import torch

from autotune.evaluators.load import LoadedModel, resolve_model
from autotune.evaluators.presets import PRESETS, Preset
from autotune.spaces.errors import ModelNotFoundError, UnsupportedModelError

SAMPLED = 64
"""Values of each weight tensor that enter the fingerprint."""


def adopt_pipeline(pipe: Any) -> LoadedModel:
    """The user's pipeline with the default run of its preset, or of the preset with its class at its own resolution.

    The revision is a fingerprint of the denoiser's weights as they are now, adapters and edits included: a SHA-256 over
    names, shapes and `SAMPLED` evenly spread values of each.

    Raises:
        UnsupportedModelError: no preset has the pipeline's class.
    """
    denoiser = getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
    if denoiser is None:
        raise UnsupportedModelError(f"a pipeline needs a transformer or a unet; got {type(pipe).__name__}")
    digest = hashlib.sha256()
    for name, tensor in sorted(denoiser.state_dict().items()):
        values = tensor.flatten()[:: max(1, tensor.numel() // SAMPLED)][:SAMPLED]
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(values.detach().to("cpu", torch.float64).numpy().tobytes())
    return LoadedModel(preset=_preset_of(pipe), pipe=pipe, revision=digest.hexdigest())


def _preset_of(pipe: Any) -> Preset:
    source = str(getattr(pipe.config, "_name_or_path", "") or "")
    for preset in PRESETS.values():
        if str(preset.source) == source:
            return preset
    if source:
        try:
            return resolve_model(source)
        except ModelNotFoundError:
            pass  # the folder that it was loaded from has moved; its class still tells the defaults
    like = next((p for p in PRESETS.values() if p.pipeline_class == type(pipe).__name__ and not p.is_local), None)
    if like is None:
        known = sorted({p.pipeline_class for p in PRESETS.values()})
        raise UnsupportedModelError(f"the pipeline must be one of {', '.join(known)}; got {type(pipe).__name__}")
    size = int(pipe.default_sample_size) * int(pipe.vae_scale_factor)
    return dataclasses.replace(like, name=source or type(pipe).__name__, height=size, width=size)
