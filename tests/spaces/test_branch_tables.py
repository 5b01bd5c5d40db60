"""What tables of branches say of them, and which are refused."""

import numpy as np
import pytest

from autotune.spaces.branch_tables import METRICS, BranchTables
from autotune.spaces.errors import ScheduleError


def test_volatility_and_dissimilarity() -> None:
    rng = np.random.default_rng(0)
    tables = {metric: rng.random((2, 4, 4)) for metric in METRICS}
    branches = BranchTables(units=("a", "b"), mean=tables, spread=tables, n_samples=3)
    assert branches.n_calls == 4
    assert branches.volatility == pytest.approx([tables["l1"][u].sum() / 16 for u in (0, 1)], rel=1e-12)
    assert branches.dissimilarity.shape == (2, 4)
    assert branches.dissimilarity[1, 0] == 0.0
    assert branches.dissimilarity[1, 2] == pytest.approx(1.0 - tables["cosine"][1, 1, 2], rel=1e-12)


def test_tables_of_other_units_and_of_broken_runs_are_refused() -> None:
    good = {metric: np.zeros((2, 4, 4)) for metric in METRICS}
    with pytest.raises(ScheduleError, match=r"mean of l1 with shape \(2, n_calls, n_calls\); got \(3, 4, 4\)"):
        BranchTables(units=("a", "b"), mean=good | {"l1": np.zeros((3, 4, 4))}, spread=good, n_samples=1)
    with pytest.raises(ScheduleError, match=r"spread of mse .* got None"):
        BranchTables(units=("a", "b"), mean=good, spread={m: good[m] for m in METRICS if m != "mse"}, n_samples=1)
    with pytest.raises(ScheduleError, match="mean of cosine is not"):
        BranchTables(units=("a", "b"), mean=good | {"cosine": np.full((2, 4, 4), np.nan)}, spread=good, n_samples=1)
