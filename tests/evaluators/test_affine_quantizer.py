"""Affine grids against their definition in float64, and the search of a range against all ranges."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from autotune.evaluators.affine_quantizer import EXPONENT, SHRINKS, grid_of, on_grid, search_grid, to_codes

Array = NDArray[np.float64]


def definition(x: Array, low: float, high: float, bits: int) -> Array:
    """Round to the nearest of 2^bits values scale (code - zero), clipped at the ends."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (2**bits - 1)
    zero = round(-low / scale)
    made: Array = scale * (np.clip(np.round(x / scale) + zero, 0, 2**bits - 1) - zero)
    return made


@given(st.integers(0, 10_000), st.sampled_from([2, 4, 8]))
def test_values_go_to_the_nearest_code_and_zero_stays_zero(seed: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(rng.normal(), rng.uniform(0.01, 100.0), 64)
    low, high = torch.tensor(x.min()), torch.tensor(x.max())
    scale, zero = grid_of(low, high, bits)
    made = on_grid(torch.tensor(x), scale, zero, bits).numpy()
    assert made == pytest.approx(definition(x, x.min(), x.max(), bits), rel=1e-12, abs=1e-12)
    # The zero point is rounded, which moves one end by half a step at most.
    assert np.abs(made - x).max() <= float(scale) * (1 + 1e-9)
    assert float(on_grid(torch.zeros(1, dtype=torch.float64), scale, zero, bits)) == 0.0
    codes = to_codes(torch.tensor(x), scale, zero, bits)
    assert codes.min() >= 0
    assert codes.max() <= 2**bits - 1


def test_a_range_of_zero_alone_has_a_grid() -> None:
    scale, zero = grid_of(torch.zeros(2), torch.tensor([0.0, 1.0]), 8)
    assert scale.tolist() == pytest.approx([1.0, 1 / 255])
    assert zero.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_range_with_the_least_loss_of_all_that_are_tried_is_found(bits: int, weighted: bool) -> None:
    rng = np.random.default_rng(bits)
    x = rng.standard_t(2, (5, 400))  # heavy tails: a part of the range is better than all of it
    counts = rng.integers(0, 4, x.shape).astype(float) if weighted else np.ones(x.shape)
    low, high = torch.tensor(x.min(axis=1)), torch.tensor(x.max(axis=1))
    scale, zero = search_grid(torch.tensor(x), low, high, bits, torch.tensor(counts) if weighted else None)
    for i, row in enumerate(x):
        losses = [
            (counts[i] * np.abs(definition(row, s * row.min(), s * row.max(), bits) - row) ** EXPONENT).sum()
            for s in SHRINKS
        ]
        made = scale[i].item() * (
            np.clip(np.round(row / scale[i].item()) + zero[i].item(), 0, 2**bits - 1) - zero[i].item()
        )
        assert (counts[i] * np.abs(made - row) ** EXPONENT).sum() == pytest.approx(min(losses), rel=1e-9)
    if bits == 4:  # 8 bits reach the rare values without losing the many
        assert (scale < (high - low) / (2**bits - 1)).any()
