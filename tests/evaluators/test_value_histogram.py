"""Histograms of what layers read: their memory does not grow, and grids are those of all values."""

import pytest
import torch

from autotune.evaluators.affine_quantizer import search_grid
from autotune.evaluators.quantization_recording import HEADROOM, RangeRecorder
from autotune.evaluators.value_histogram import MAX_BINS, Histogram
from autotune.spaces.errors import ScheduleError

from .live_bytes import live_bytes


def batches(n: int, seed: int = 0) -> list[torch.Tensor]:
    """Of different ranges, around different means."""
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 300, 8, generator=rng) * (0.5 + i % 5) + 0.3 * i for i in range(n)]


def test_counts_and_extremes_are_those_of_all_values_within_a_bin() -> None:
    some = batches(12)
    joined, values = sum(map(Histogram.of, some[1:]), Histogram.of(some[0])), torch.cat(some).flatten()
    assert (joined.low, joined.high) == (float(values.min()), float(values.max()))
    assert int(joined.counts.sum()) == len(values)
    assert MAX_BINS // 2 - 2 <= len(joined.counts) <= MAX_BINS
    width = 2.0**joined.exponent
    back = torch.repeat_interleave(joined.centres, joined.counts.long())
    assert (back - values.sort().values).abs().max() <= 0.51 * width


def test_grids_of_many_batches_are_those_of_all_values_at_once_and_memory_does_not_grow() -> None:
    def held(n: int) -> tuple[RangeRecorder, int]:
        before, recorder = live_bytes(), RangeRecorder(None, {})
        for batch in batches(n):
            for call in range(3):
                recorder._note("layer", call, (batch * (call + 1), batch[:, :9]))
        return recorder, live_bytes() - before

    few, small = held(2)
    many, large = held(40)
    assert small <= large <= 3 * 2 * 4 * MAX_BINS
    assert few.grids(8)["layer"].scale.shape == (3, 2)
    values = torch.cat([batch.flatten() for batch in batches(40)])[None]
    scale, zero = search_grid(values, values.amin(dim=1), values.amax(dim=1), 8)
    found = many.grids(8)["layer"]
    for call in range(3):
        assert found.scale[call, 0] == pytest.approx((call + 1) * float(scale[0]), rel=0.021)  # two steps of the search
        assert found.zero[call, 0] == pytest.approx(float(zero[0]), abs=1)


@pytest.mark.parametrize("value", [0.0, 7.0, -1e6])
def test_a_constant_is_one_bin(value: float) -> None:
    made = Histogram.of(torch.full((4, 5), value)) + Histogram.of(torch.full((3,), value))
    assert (made.low, made.high, int(made.counts.sum())) == (value, value, 23)
    assert made.centres[made.counts > 0] == pytest.approx(value)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ScheduleError, match="reads NaN or infinite values"):
        Histogram.of(torch.tensor([1.0, float("nan")]))


def test_a_call_in_which_a_cache_skips_a_layer_has_the_grid_of_the_one_before_or_of_the_first() -> None:
    recorder = RangeRecorder(None, {})
    for call, size in ((1, 1.0), (3, 2.0)):
        recorder._note("layer", call, (batches(1)[0] * size,))
    recorder._note("other", 5, (batches(1)[0],))
    scale = recorder.grids(8)["layer"].scale[:, 0]
    assert scale == pytest.approx(scale[1] * torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0, 2.0]).numpy())


def test_nothing_is_cut_off_of_what_the_sample_is_read_by() -> None:
    """Many small values and a few large ones: the search gives the large ones up, an unclipped layer does not."""
    values = torch.cat([torch.rand(1, 300_000), torch.tensor([[-3.0, 4.0]])], dim=1)
    recorder = RangeRecorder(None, {}, unclipped={"first"})
    for name in ("first", "inner"):
        recorder._note(name, 0, (values,))
    reach = {name: float(grid.scale[0, 0]) * (255 - grid.zero[0, 0]) for name, grid in recorder.grids(8).items()}
    assert reach["first"] == pytest.approx(HEADROOM * 4.0, rel=0.01)
    assert 1.0 < reach["inner"] < 4.0
