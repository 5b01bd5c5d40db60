"""The latents that a denoiser works on, from those that its autoencoder decodes."""

from typing import Any

import torch


def denoiser_latents(vae: Any, z: torch.Tensor) -> torch.Tensor:
    """What a pipeline hands to its autoencoder, with the pipeline's scaling undone.

    Args:
        vae: a diffusers autoencoder; its config has a factor and a shift, or a mean and a deviation per channel.
        z: (n, channels, height, width), or one frame (n, channels, 1, height, width).

    Returns:
        (n, channels, height, width) in float32, where z is.
    """
    config, z = vae.config, z.float()
    if z.ndim == 5:
        z = z.squeeze(2)
    shift = getattr(config, "shift_factor", None) or 0.0
    scale = getattr(config, "scaling_factor", None) or 1.0
    if getattr(config, "latents_std", None) is None:
        return (z - shift) * scale
    mean, deviation = (
        torch.tensor(values, device=z.device).reshape(1, -1, 1, 1)
        for values in (config.latents_mean, config.latents_std)
    )
    return (z - mean) * scale / deviation
