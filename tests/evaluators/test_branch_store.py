"""Stored values of the two guidance branches."""

import pytest
import torch

from autotune.evaluators.branch_store import BranchStore, weighted_sum


def batch(u: float, c: float) -> torch.Tensor:
    return torch.tensor([[u], [c]])


def latest(rows: tuple[int, ...]) -> tuple[float, ...]:
    return (1.0,)


def line(rows: tuple[int, ...]) -> tuple[float, ...]:
    """The line through the two newest values, one row after the newest."""
    if len(rows) == 1:
        return (1.0,)
    slope = 1.0 / (rows[0] - rows[1])
    return 1.0 + slope, -slope


def test_conditional_write_leaves_the_unconditional_half_at_its_age() -> None:
    store = BranchStore()
    store.write("site", 0, batch(1, 2), half=False, keep=(1, 1))
    store.write("site", 1, torch.tensor([[3.0]]), half=True, keep=(1, 1))
    assert torch.equal(store.read("site", latest, half=False), batch(1, 3))
    assert torch.equal(store.read("site", latest, half=True), torch.tensor([[3.0]]))
    store.write("site", 2, batch(4, 5), half=False, keep=(1, 1))
    assert torch.equal(store.read("site", latest, half=False), batch(4, 5))


def test_each_half_is_forecast_from_its_own_rows() -> None:
    store = BranchStore()
    store.write("site", 0, batch(1, 10), half=False, keep=(2, 2))
    store.write("site", 2, batch(5, 20), half=False, keep=(2, 2))
    assert torch.equal(store.read("site", line, half=False), batch(7, 25))
    store.write("site", 3, torch.tensor([[50.0]]), half=True, keep=(2, 2))
    assert torch.equal(store.read("site", line, half=False), batch(7, 80))
    assert torch.equal(store.read("site", line, half=True), torch.tensor([[80.0]]))


def test_conditional_half_of_a_whole_batch_is_its_second() -> None:
    store = BranchStore()
    value = (torch.arange(4.0), (torch.arange(8.0).reshape(4, 2), None))
    store.write("site", 0, value, half=False, keep=(1, 1))
    first, (second, nothing) = store.read("site", latest, half=True)
    assert first.tolist() == [2.0, 3.0]
    assert second.tolist() == [[4.0, 5.0], [6.0, 7.0]]
    assert nothing is None
    doubled = store.read("site", lambda rows: (2.0,), half=False)
    assert doubled[1][0].tolist() == (2 * value[1][0]).tolist()
    assert doubled[1][1] is None


def test_half_that_was_never_written_is_not_held() -> None:
    store = BranchStore()
    store.write("site", 0, torch.ones(1), half=True, keep=(1, 1))
    assert store.holds("site", half=True)
    assert not store.holds("site", half=False)
    with pytest.raises(KeyError):
        store.read("site", latest, half=False)


def test_bytes_follow_what_is_stored() -> None:
    store = BranchStore()
    store.write(0, 0, torch.zeros(4, 4), half=False, keep=(1, 1))
    store.write(1, 0, (torch.zeros(2, 4), torch.zeros(2, 2)), half=False, keep=(1, 1))
    assert store.n_bytes == 64 + 32 + 16
    store.write(0, 1, torch.zeros(2, 4), half=True, keep=(1, 1))  # beside it, the old unconditional half
    assert store.n_bytes == 64 + 48
    store.write(0, 2, torch.zeros(2, 4), half=True, keep=(2, 0))
    assert store.n_bytes == 64 + 48
    store.write(0, 3, torch.zeros(4, 4), half=False, keep=(0, 1))  # its conditional half is not kept
    assert store.n_bytes == 32 + 48
    store.trim(0, (0, 0))
    store.trim("never stored", (0, 0))
    assert store.n_bytes == 48
    assert store.peak_bytes >= 112
    store.clear()
    store.reset_peak()
    assert (store.n_bytes, store.peak_bytes) == (0, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_types_are_summed_in_float32(dtype: torch.dtype) -> None:
    """7 f0 - 6 f1 with rounding after each product would be off by several units in the last place."""
    f0, f1 = (torch.rand(1000, generator=torch.Generator().manual_seed(i)).to(dtype) for i in (0, 1))
    total = weighted_sum([f0, f1], (7.0, -6.0))
    assert total.dtype is dtype
    assert torch.equal(total, (7.0 * f0.double() - 6.0 * f1.double()).to(dtype))


def test_values_have_the_gradient_history_that_the_run_gave_them() -> None:
    """Fits differentiate through a cache; a pipeline's own call, without gradients, leaves none."""
    store, leaf = BranchStore(), torch.ones(2, requires_grad=True)
    store.write(0, 0, leaf * 2, half=False, keep=(1, 1))
    store.read(0, latest, half=False).sum().backward()
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, torch.full((2,), 2.0))
    with torch.no_grad():
        store.write(1, 0, leaf * 2, half=False, keep=(1, 1))
    assert not store.read(1, latest, half=False).requires_grad
