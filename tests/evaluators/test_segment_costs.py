"""Costs of segments against brute force, and the schedules of the literature's example from features on."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autotune.evaluators import segment_costs
from autotune.evaluators.segment_costs import SegmentCostRecorder
from autotune.search.cachequant import planned_refreshes
from autotune.spaces.errors import EvaluatorError, ScheduleError
from autotune.spaces.segment_costs import COST_KEYS, SegmentNorm

from .live_bytes import live_bytes

Array = NDArray[np.float64]
N_CALLS, LONGEST = 7, 4


def features(n: int = 2, seed: int = 0) -> torch.Tensor:
    """A smooth random path (n_calls, n, tokens, channels)."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(N_CALLS, n, 6, 3, generator=rng, dtype=torch.float64).cumsum(dim=0) + 1.0


def recorded(runs: Sequence[torch.Tensor], longest: int = LONGEST, channel_axis: int = -1) -> SegmentCostRecorder:
    recorder = SegmentCostRecorder(len(runs[0]), longest, channel_axis=channel_axis)
    for run in runs:
        for feature in run:
            recorder.feed((feature,))
    return recorder


def change(norm: SegmentNorm, before: Array, now: Array) -> float:
    x, y = before.ravel(), now.ravel()
    if norm == "cosine":
        return float(1.0 - x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    if norm == "l2":
        return float(np.linalg.norm(y - x))
    return float(np.abs(y - x).sum() / (np.abs(y).sum() if norm == "relative-l1" else 1.0))


@pytest.mark.parametrize("norm", ["l1", "l2", "cosine", "relative-l1"])
def test_costs_are_those_of_brute_force(norm: SegmentNorm) -> None:
    run = features(n=3)
    table = recorded([run]).costs().tables["full-precision", norm]
    for i in range(N_CALLS + 1):
        for j in range(N_CALLS + 1):
            expected = np.inf
            if 1 <= j - i <= LONGEST:
                samples = range(run.shape[1])
                pairs = [(run[i, s].numpy(), run[t, s].numpy()) for t in range(i, j) for s in samples]
                expected = sum(change(norm, *pair) for pair in pairs) / len(samples)
            assert table[i, j] == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("channel_axis", [-1, 1])
def test_correction_aware_costs_are_what_least_squares_leave_by_channel(channel_axis: int) -> None:
    run = features(n=3)
    table = recorded([run], channel_axis=channel_axis).costs().tables["correction-aware", "l2"]
    by_channel = run.movedim(channel_axis + 1 if channel_axis > 0 else -1, 1).flatten(2).numpy()

    def residual(i: int, t: int) -> float:
        square = 0.0
        for x, y in zip(by_channel[i], by_channel[t], strict=True):
            basis = np.stack([x, np.ones_like(x)], axis=1)
            square += float(((y - basis @ np.linalg.lstsq(basis, y, rcond=None)[0]) ** 2).sum())
        return float(np.sqrt(square / run.shape[1]))

    for i in range(N_CALLS - 1):
        for j in range(i + 1, min(N_CALLS, i + LONGEST) + 1):
            expected = sum(residual(i, t) for t in range(i + 1, j))
            assert table[i, j] == pytest.approx(expected, rel=1e-8, abs=1e-6)


def test_an_affine_change_costs_nothing_where_it_is_corrected() -> None:
    first = features()[0]
    run = torch.stack([first * (1.0 + t) * torch.tensor([1.0, -2.0, 0.5]) + t for t in range(4)])
    tables = recorded([run], 4).costs().tables
    assert tables["correction-aware", "l2"][0, 4] < 1e-5
    assert tables["full-precision", "l2"][0, 4] > 1.0


def test_two_batches_cost_what_one_does() -> None:
    run = features(n=5)
    one, two = recorded([run]).costs(), recorded([run[:, :2], run[:, 2:]]).costs()
    for key in (key for key in COST_KEYS if key[0] != "fake-quantized"):  # each batch is rounded on a grid of its own
        np.testing.assert_allclose(two.tables[key], one.tables[key], rtol=1e-9, atol=1e-6)


def test_several_tensors_count_as_one_feature() -> None:
    run = features()
    recorder = SegmentCostRecorder(N_CALLS, LONGEST)
    for feature in run:
        recorder.feed((feature[:, :2], feature[:, 2:]))
    for key in COST_KEYS[:4]:
        np.testing.assert_allclose(recorder.costs().tables[key], recorded([run]).costs().tables[key], rtol=1e-9)


@pytest.mark.parametrize(
    ("n_refreshed", "longest", "starts", "cost"),
    [(4, 6, (0, 4, 6, 9), 13.0), (3, 8, (0, 4, 9), 19.0), (3, 12, (0, 4, 9), 19.0)],
)
def test_the_schedules_of_the_notes_from_features_on(
    n_refreshed: int, longest: int, starts: tuple[int, ...], cost: float
) -> None:
    run = torch.tensor([0.0, 1, 2, 3, 10, 11, 12, 13, 14, 30, 31, 32]).reshape(12, 1, 1, 1)
    table = recorded([run], longest).costs().tables["full-precision", "l1"]
    assert planned_refreshes(table, n_refreshed, longest) == starts
    assert sum(table[s, e] for s, e in zip(starts, (*starts[1:], 12), strict=True)) == cost


@pytest.mark.parametrize("norm", ["l1", "l2", "cosine", "relative-l1"])
def test_fake_quantized_costs_are_those_from_the_rounded_feature_on(norm: SegmentNorm) -> None:
    run = features(n=3)
    table = recorded([run]).costs().tables["fake-quantized", norm]
    for i in range(N_CALLS - 1):
        anchor = rounded(run[i].numpy())
        for j in range(i + 1, min(N_CALLS, i + LONGEST) + 1):
            samples = range(run.shape[1])
            changes = [change(norm, anchor[s], run[t, s].numpy()) for t in range(i, j) for s in samples]
            assert table[i, j] == pytest.approx(sum(changes) / len(samples), rel=1e-10)


def rounded(values: Array) -> Array:
    """On the one of 40 grids of 256 codes that loses least by |x - Q(x)|^2.4."""
    tried = []
    for shrink in 1.0 - 0.01 * np.arange(0, 80, 2):
        low, high = shrink * min(values.min(), 0.0), shrink * max(values.max(), 0.0)
        scale = (high - low) / 255
        zero = np.round(-low / scale)
        tried.append((np.clip(np.round(values / scale) + zero, 0, 255) - zero) * scale)
    return min(tried, key=lambda q: float((np.abs(values - q) ** 2.4).sum()))


@pytest.mark.parametrize("n_calls", [20, 60])
@pytest.mark.parametrize(("limit", "size"), [(2**30, 4), (0, 2)])
def test_a_window_of_features_is_kept_and_in_half_precision_if_large(
    n_calls: int, limit: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_costs, "HOST_BYTES", limit)
    before, sums = live_bytes(), 5 * 8
    recorder = SegmentCostRecorder(n_calls, LONGEST)
    for _ in range(n_calls - 1):
        recorder.feed((torch.ones(2, 500, 1),))
    assert live_bytes() - before <= LONGEST * (2 * 500 * size + (n_calls - 1) * sums)
    recorder.feed((torch.ones(2, 500, 1),))
    assert live_bytes() - before <= LONGEST * n_calls * sums


def test_incomplete_runs_and_changing_or_infinite_features_are_refused() -> None:
    recorder = SegmentCostRecorder(N_CALLS, LONGEST)
    with pytest.raises(EvaluatorError, match="complete runs of 7 calls; got 0 of the last"):
        recorder.costs()
    recorder.feed((torch.ones(2, 3, 1),))
    with pytest.raises(EvaluatorError, match="keep its shapes"):
        recorder.feed((torch.ones(1, 3, 1),))
    with pytest.raises(EvaluatorError, match="1 to n_calls = 7 calls long at most; got 8"):
        SegmentCostRecorder(N_CALLS, N_CALLS + 1)
    run = features()
    run[3, 0, 0, 0] = torch.nan
    with pytest.raises(ScheduleError, match="record finite features"):
        recorded([run]).costs()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_features_beyond_the_range_of_float16_are_kept_on_the_host_too(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_costs, "HOST_BYTES", 0)
    recorder = SegmentCostRecorder(3, 3)
    values = 1e5 * torch.rand(3, 1, 4, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    for value in values:
        recorder.feed([value])
    found = recorder.costs().tables["full-precision", "l1"]
    change = float((values[0].float() - values[1].float()).abs().sum())
    assert found[0, 2] == pytest.approx(change, rel=0.01)
