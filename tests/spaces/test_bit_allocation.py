"""The bits of layers under a budget, against all choices there are."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.spaces.bit_allocation import UNITS, allocate
from autotune.spaces.errors import ScheduleError


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 3))
def test_no_choice_within_the_budget_loses_less(seed: int, n_layers: int, n_options: int) -> None:
    rng = np.random.default_rng(seed)
    errors, sizes = rng.uniform(size=(n_layers, n_options)), rng.integers(1, 50, (n_layers, n_options))
    budget = int(rng.integers(sizes.min(axis=1).sum(), sizes.max(axis=1).sum() + 1))
    chosen = allocate(errors, sizes, budget)
    layers = range(n_layers)
    assert sum(sizes[i, chosen[i]] for i in layers) <= budget
    within = [c for c in product(range(n_options), repeat=n_layers) if sum(sizes[i, c[i]] for i in layers) <= budget]
    least = min(sum(errors[i, c[i]] for i in layers) for c in within)
    assert sum(errors[i, chosen[i]] for i in layers) == pytest.approx(least, rel=1e-12)


def test_large_sizes_are_within_the_budget_and_near_the_best() -> None:
    rng = np.random.default_rng(0)
    n_weights = rng.integers(10_000, 40_000_000, 300)
    sizes = n_weights[:, None] * np.array([4, 8])
    errors = np.stack([rng.uniform(1e-4, 1e-1, 300), np.zeros(300)], axis=1)
    budget = 6 * int(n_weights.sum())
    chosen = np.array(allocate(errors, sizes, budget))
    spent = int(sizes[np.arange(300), chosen].sum())
    assert budget * (1 - 300 / UNITS) < spent <= budget
    # The relaxed problem takes 8 bits in the order of what a bit wins: no choice is better than its value.
    order = np.argsort(-errors[:, 0] / n_weights)
    left, bound = budget - 4 * int(n_weights.sum()), float(errors[:, 0].sum())
    for i in order:
        share = min(1.0, left / (4 * n_weights[i]))
        left, bound = left - share * 4 * n_weights[i], bound - share * errors[i, 0]
    assert bound <= errors[np.arange(300), chosen].sum() <= 1.01 * bound


def test_too_small_a_budget_and_errors_that_are_no_numbers_are_refused() -> None:
    sizes = np.array([[4, 8], [4, 8]])
    with pytest.raises(ScheduleError, match="at least 8, of the smallest options; got 7"):
        allocate(np.zeros((2, 2)), sizes, 7)
    with pytest.raises(ScheduleError, match="finite error"):
        allocate(np.full((2, 2), np.nan), sizes, 16)
