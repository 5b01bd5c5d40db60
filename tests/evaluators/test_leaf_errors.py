"""Errors of leaves, recorded in a run, against the values themselves."""

from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.leaf_errors import MAX_VALUES, LeafErrorRecorder, thinned_samples
from autotune.evaluators.load import load_model
from autotune.evaluators.worker import Worker
from autotune.spaces.errors import EvaluatorError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule import Schedule
from autotune.storage.artifacts import ArtifactStore

FIDELITY = Fidelity(name="f", prompts=("a red circle", "a cat"), seeds=(0, 1))


@pytest.mark.parametrize(("model", "component"), [("mini-pixart", "attn2"), ("mini-flux", "attn")])
def test_errors_are_those_of_the_outputs_of_all_leaves(
    model: str, component: str, artifacts: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.evaluators.leaf_errors.MAX_VALUES", 10**9)
    monkeypatch.setattr("autotune.spaces.edge_costs.N_REPLAYS", 1)
    worker = Worker(load_model(model), artifacts=artifacts)
    n = len(worker.own_timesteps(worker.condition.n_steps))
    costs = worker.edge_costs(FIDELITY, 2)
    denoiser: Any = worker._pipe.transformer
    names = [site.name for site in worker.inventory.sites if site.component == component]
    outputs: dict[str, list[torch.Tensor]] = {name: [] for name in names}

    def keep(name: str, result: Any) -> None:
        parts = result if isinstance(result, tuple) else (result,)
        outputs[name].append(torch.cat([part.flatten(1) for part in parts], dim=1).double())

    handles = [
        denoiser.get_submodule(name).register_forward_hook(lambda m, a, result, name=name: keep(name, result))
        for name in names
    ]
    worker._run(Schedule(n_steps=worker.condition.n_steps), FIDELITY, None)
    for handle in handles:
        handle.remove()
    for t, k in [(0, 1), (2, 3), (n - 2, 1)]:
        errors = []
        for name in names:
            before, after = outputs[name][t], outputs[name][t + k]
            errors.append(((before - after).abs().sum(1) / after.abs().sum(1)).mean())
        assert costs.leaf_errors[component][t, k] == pytest.approx(float(torch.stack(errors).mean()), rel=1e-4)
    assert np.isinf(costs.leaf_errors[component][n - 1, 1])
    again = worker.edge_costs(FIDELITY, 2)
    assert all(np.array_equal(again.leaf_errors[name], table) for name, table in costs.leaf_errors.items())


def test_thinned_outputs_give_nearly_the_same_and_little_is_kept() -> None:
    recorder = LeafErrorRecorder(4, 2, {"a": "attn"})
    values = torch.randn(4, 2, 50, 1000, generator=torch.Generator().manual_seed(0)).cumsum(0)
    for value in values:
        recorder.feed("a", value)
        kept = [tensor for past in recorder._past.values() for _, tensor in past]
        assert sum(tensor.numel() for tensor in kept) <= 2 * 2 * 1.1 * MAX_VALUES
        recorder.advance()
    expected = float(((values[1] - values[3]).abs().sum((1, 2)) / values[3].abs().sum((1, 2))).mean())
    assert recorder.errors()["attn"][1, 2] == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    "shape", [(4096, 3072), (4608, 3072), (64, 192), (256, 1152), (1152, 16, 16), (4, 128, 128), (16, 128, 128)]
)
def test_thinned_samples_see_every_channel_row_and_column(shape: tuple[int, ...]) -> None:
    """An even distance would meet one channel of 3072 alone."""
    for axis, size in enumerate(shape):
        place = torch.arange(float(size)).reshape(-1, *[1] * (len(shape) - axis - 1)).expand(shape)
        some = thinned_samples(place[None])
        counts = torch.bincount(some[0].long(), minlength=size)
        assert some.shape[1] <= 1.1 * MAX_VALUES
        assert int(counts.max() - counts.min()) <= max(2.0, 0.05 * int(counts.max()))


def test_an_incomplete_run_has_no_errors() -> None:
    recorder = LeafErrorRecorder(3, 2, {"a": "attn"})
    recorder.feed("a", torch.ones(1, 2))
    recorder.advance()
    with pytest.raises(EvaluatorError, match="complete runs of 3 calls; got 1 of the last"):
        recorder.errors()
