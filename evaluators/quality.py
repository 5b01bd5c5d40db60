"""Distances between a candidate's samples and the reference's, one value per sample."""

from collections.abc import Sequence

import torch
from torch.nn.functional import conv2d

from autotune.evaluators.feature_net import FeatureNet, class_probability
from autotune.evaluators.sampling import Samples

MAX_PSNR = 100.0
"""What identical images score, in dB, in place of infinity."""


def score_samples(
    samples: Samples, reference: Samples, prompts: Sequence[str], feature_net: FeatureNet | None
) -> dict[str, tuple[float, ...]]:
    """All metrics by name; alignment where the net is given, and knows the images' size and every prompt's class."""
    quality = {
        "deviation": score_deviation(samples.latents, reference.latents),
        "psnr": score_psnr(samples.images, reference.images),
        "ssim": score_ssim(samples.images, reference.images),
    }
    if feature_net is not None and samples.images.shape[-2:] == (32, 32):  # the size that the net knows
        alignment = class_probability(feature_net, samples.images, prompts)
        if bool(torch.isfinite(alignment).all()):
            quality["alignment"] = tuple(alignment.tolist())
    return quality


def score_deviation(latents: torch.Tensor, reference: torch.Tensor) -> tuple[float, ...]:
    """Relative root-mean-square distance of final latents to the reference's, ||x - r|| / ||r||.

    Both are (n, ...); a value of 0 is the reference itself, NaN in gives NaN out.
    """
    x, r = latents.double().flatten(1), reference.double().flatten(1)
    return tuple(((x - r).norm(dim=1) / r.norm(dim=1)).tolist())


def score_psnr(images: torch.Tensor, reference: torch.Tensor) -> tuple[float, ...]:
    """Peak signal-to-noise ratio in dB of images (n, 3, height, width) in [0, 1], at most `MAX_PSNR`."""
    mse = (images.double() - reference.double()).square().flatten(1).mean(dim=1)
    return tuple((-10.0 * torch.log10(mse)).clamp(max=MAX_PSNR).tolist())


def score_ssim(images: torch.Tensor, reference: torch.Tensor) -> tuple[float, ...]:
    """Structural similarity of images (n, 3, height, width) in [0, 1], in [-1, 1].

    Wang et al. 2004 (IEEE TIP 13(4)): Gaussian window of 11 x 11 pixels with a standard deviation of 1.5, K1 = 0.01,
    K2 = 0.03, mean over the valid windows and the three channels. Images must be at least 11 pixels high and wide.
    """
    x, y = images.double(), reference.double()
    offsets = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-offsets.square() / (2 * 1.5**2))
    window = torch.outer(line, line)
    window = (window / window.sum()).expand(3, 1, 11, 11)

    def blur(z: torch.Tensor) -> torch.Tensor:
        return conv2d(z, window, groups=3)

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x.square(), blur(y * y) - mean_y.square()
    cov = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    ratio = ((2 * mean_x * mean_y + c1) * (2 * cov + c2)) / (
        (mean_x.square() + mean_y.square() + c1) * (var_x + var_y + c2)
    )
    return tuple(ratio.flatten(1).mean(dim=1).tolist())
