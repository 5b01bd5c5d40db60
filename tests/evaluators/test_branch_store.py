"""Stored values of the two guidance branches."""

import pytest
import torch

from autotune.evaluators.branch_store import BranchStore


def batch(u: float, c: float) -> torch.Tensor:
    return torch.tensor([[u], [c]])


def test_conditional_write_leaves_the_unconditional_half_at_its_age() -> None:
    store = BranchStore()
    store.write("site", batch(1, 2), half=False)
    store.write("site", torch.tensor([[3.0]]), half=True)
    assert torch.equal(store.read("site", half=False), batch(1, 3))
    assert torch.equal(store.read("site", half=True), torch.tensor([[3.0]]))
    store.write("site", batch(4, 5), half=False)
    assert torch.equal(store.read("site", half=False), batch(4, 5))


def test_conditional_half_of_a_whole_batch_is_its_second() -> None:
    store = BranchStore()
    store.write("site", (torch.arange(4.0), (torch.arange(8.0).reshape(4, 2), None)), half=False)
    first, (second, nothing) = store.read("site", half=True)
    assert first.tolist() == [2.0, 3.0]
    assert second.tolist() == [[4.0, 5.0], [6.0, 7.0]]
    assert nothing is None


def test_half_that_was_never_written_is_not_held() -> None:
    store = BranchStore()
    store.write("site", torch.ones(1), half=True)
    assert store.holds("site", half=True)
    assert not store.holds("site", half=False)
    with pytest.raises(KeyError):
        store.read("site", half=False)


def test_bytes_follow_what_is_stored() -> None:
    store = BranchStore()
    store.write(0, torch.zeros(4, 4), half=False)
    store.write(1, (torch.zeros(2, 4), torch.zeros(2, 2)), half=False)
    assert store.n_bytes == 64 + 32 + 16
    store.write(0, torch.zeros(2, 4), half=True)
    assert store.n_bytes == 64 + 48
    store.drop(0)
    store.drop("never stored")
    assert (store.n_bytes, store.peak_bytes) == (48, 112)
    store.clear()
    store.reset_peak()
    assert (store.n_bytes, store.peak_bytes) == (0, 0)


def test_values_carry_no_gradient_history() -> None:
    store = BranchStore()
    store.write(0, torch.ones(2, requires_grad=True) * 2, half=False)
    assert not store.read(0, half=False).requires_grad
