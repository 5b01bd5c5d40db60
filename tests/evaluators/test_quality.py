import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from autotune.evaluators.quality import MAX_PSNR, score_deviation, score_psnr, score_ssim


def ssim_by_scipy(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004 with scipy's Gaussian filter; the mean over windows that fit into the image."""

    def blur(z: np.ndarray) -> np.ndarray:
        return np.asarray(gaussian_filter(z, sigma=1.5, truncate=3.5))[5:-5, 5:-5]

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    ratio = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    return float(ratio.mean())


def test_ssim_equals_the_definition_computed_with_scipy() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((2, 3, 32, 40))
    y = np.clip(x + 0.1 * rng.standard_normal(x.shape), 0, 1)
    expected = [np.mean([ssim_by_scipy(x[i, c], y[i, c]) for c in range(3)]) for i in range(2)]
    assert score_ssim(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected, rel=1e-9)


def test_ssim_of_an_image_with_itself_is_one() -> None:
    x = torch.rand(1, 3, 16, 16)
    assert score_ssim(x, x) == pytest.approx((1.0,), abs=1e-12)


def test_psnr_of_a_known_error() -> None:
    x = torch.zeros(2, 3, 8, 8)
    y = torch.stack([torch.full((3, 8, 8), 0.1), torch.full((3, 8, 8), 0.01)])
    assert score_psnr(x, y) == pytest.approx((20.0, 40.0), rel=1e-6)
    assert score_psnr(x, x) == (MAX_PSNR, MAX_PSNR)


def test_deviation_is_relative_per_sample_and_keeps_nan() -> None:
    reference = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    x = torch.tensor([[3.0, 4.5], [math.nan, 0.0]])
    first, second = score_deviation(x, reference)
    assert first == pytest.approx(0.1)
    assert math.isnan(second)
