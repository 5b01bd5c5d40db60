"""Which weights a table knows its checkpoint by."""

import numpy as np
import pytest
import torch

from autotune.evaluators.weight_sample import N_VALUES, check_weights, sample_weights
from autotune.spaces.errors import ScheduleMismatchError


def network(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    made = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Conv2d(3, 5, 3))
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return made.to(dtype)


def test_rounding_is_the_same_checkpoint_and_other_weights_are_not() -> None:
    expected = sample_weights(network())
    assert expected is not None
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        check_weights(expected, network(dtype))
    other = network()
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.05)
    with pytest.raises(ScheduleMismatchError, match="fit one checkpoint"):
        check_weights(expected, other)


def test_layers_of_more_weights_than_float32_can_count_are_sampled_to_their_ends() -> None:
    large = torch.nn.Linear(12_288, 3_072, bias=False, dtype=torch.bfloat16, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        large.weight.zero_()
        large.weight[-1, -1] = 7.0
    found = sample_weights(torch.nn.Sequential(large))
    assert found is not None
    assert np.count_nonzero(found == 7.0) * N_VALUES == len(found)


def test_weights_that_are_elsewhere_are_not_looked_at() -> None:
    expected = sample_weights(network())
    assert expected is not None
    assert sample_weights(network().to("meta")) is None
    check_weights(expected, network().to("meta"))
