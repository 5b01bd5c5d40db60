"""A few of a denoiser's weights, by which a table knows the checkpoint that it was fitted to."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autotune.evaluators.quantized_layers import KERNELS, layers_of
from autotune.spaces.errors import ScheduleMismatchError

N_LAYERS, N_VALUES = 32, 32
"""Layers, evenly spread over the network, and weights of each."""

TOLERANCE = 0.01
"""Relative difference (L2) up to which weights are the same: rounding to bfloat16 makes 0.0017."""


def sample_weights(denoiser: Any) -> NDArray[np.float32] | None:
    """Some weights, float32 (n,); None where they are not there as numbers: offloaded, or quantized by a library."""
    layers = [layer for _, layer in sorted(layers_of(denoiser), key=lambda pair: pair[0])]
    chosen = [layers[i] for i in np.linspace(0, len(layers) - 1, N_LAYERS).round().astype(int)] if layers else []
    weights = [layer.get_parameter("weight").detach() for layer in chosen]
    if not weights or hasattr(denoiser, KERNELS):
        return None
    if any(weight.is_meta or not weight.is_floating_point() for weight in weights):
        return None
    places = [torch.arange(N_VALUES) * (weight.numel() - 1) // (N_VALUES - 1) for weight in weights]
    values = [weight.flatten()[place.to(weight.device)] for weight, place in zip(weights, places, strict=True)]
    return torch.cat([some.to("cpu", torch.float32) for some in values]).numpy()


def check_weights(expected: NDArray[np.float32], denoiser: Any) -> None:
    """Return if a denoiser has the weights of a sample, or can't be looked at.

    Raises:
        ScheduleMismatchError: they are others.
    """
    found = sample_weights(denoiser)
    if found is None:
        return
    difference = np.linalg.norm(found - expected) / np.linalg.norm(expected) if found.shape == expected.shape else 1.0
    if not difference <= TOLERANCE:
        raise ScheduleMismatchError(
            "the tables of a schedule fit one checkpoint; "
            f"the weights here differ from its by {100 * difference:.1f} % "
            f"({100 * TOLERANCE:.0f} % may be rounding): fit them for it, with autotune correct or quantize"
        )
