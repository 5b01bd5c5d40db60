"""Tables of branches, recorded in default runs, against the outputs themselves."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from autotune.evaluators import branch_recording
from autotune.evaluators.branch_recording import BranchRecorder, pairwise_tables
from autotune.evaluators.leaf_errors import MAX_VALUES
from autotune.evaluators.load import load_model
from autotune.evaluators.worker import Worker
from autotune.spaces.branch_tables import METRICS
from autotune.spaces.cache_unit import cache_units
from autotune.spaces.errors import EvaluatorError, ScheduleError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule import Schedule
from autotune.storage.artifacts import ArtifactStore

FIDELITY = Fidelity(name="f", prompts=("a red circle", "a cat"), seeds=(0, 1))


def test_each_metric_is_what_its_name_says() -> None:
    values = torch.randn(5, 301, generator=torch.Generator().manual_seed(0))
    tables, x = pairwise_tables(values), values.double().numpy()
    for i in range(5):
        for j in range(5):
            change = x[i] - x[j]
            expected = {
                "cosine": x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]),
                "l1": np.abs(change).mean(),
                "mse": (change**2).mean(),
                "l2": np.linalg.norm(change),
                "wasserstein": wasserstein_distance(x[i], x[j]),
            }
            for metric in METRICS:
                assert tables[metric][i, j] == pytest.approx(expected[metric], rel=1e-10, abs=1e-12)


def test_nearly_equal_outputs_keep_their_distance_and_zeros_are_alike() -> None:
    first = torch.randn(100, generator=torch.Generator().manual_seed(0))
    tables = pairwise_tables(torch.stack([first, first * (1.0 + 1e-5), torch.zeros(100), torch.zeros(100)]))
    assert tables["l2"][0, 1] == pytest.approx(1e-5 * float(first.norm()), rel=0.05)
    assert tables["cosine"][2].tolist() == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(("model", "leaf"), [("mini-pixart", "attn2"), ("mini-flux", "attn")])
def test_tables_are_those_of_whole_outputs_by_sample(
    model: str, leaf: str, artifacts: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.evaluators.leaf_errors.MAX_VALUES", 10**9)
    worker = Worker(load_model(model), artifacts=artifacts)
    tables = worker.branch_tables(FIDELITY, 2)
    assert tables.units == tuple(unit.name for unit in cache_units(worker.inventory))
    assert tables.n_samples == (4 if model == "mini-pixart" else 2)  # guided in one batch
    name = next(unit for unit in tables.units if unit.endswith(leaf))
    outputs: list[np.ndarray] = []

    def keep(module: Any, args: Any, result: Any) -> None:
        parts = result if isinstance(result, tuple) else (result,)
        outputs.append(torch.cat([part.flatten(1) for part in parts], dim=1).double().numpy())

    handle = worker._pipe.transformer.get_submodule(name).register_forward_hook(keep)
    worker._run(Schedule(n_steps=worker.condition.n_steps), FIDELITY, None)
    handle.remove()
    by_sample = np.stack(outputs, axis=1)
    assert tables.n_calls == by_sample.shape[1] == len(worker.own_timesteps(worker.condition.n_steps))
    lengths = np.linalg.norm(by_sample, axis=2)
    cosines = np.einsum("sim,sjm->sij", by_sample, by_sample) / lengths[:, :, None] / lengths[:, None]
    u = tables.units.index(name)
    np.testing.assert_allclose(tables.mean["cosine"][u], cosines.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(tables.spread["cosine"][u], cosines.std(axis=0), rtol=1e-3, atol=1e-8)
    again = worker.branch_tables(FIDELITY, 2)
    assert (again.units, again.n_samples) == (tables.units, tables.n_samples)
    for metric in METRICS:
        np.testing.assert_array_equal(again.mean[metric], tables.mean[metric])
        np.testing.assert_array_equal(again.spread[metric], tables.spread[metric])


def test_large_outputs_are_thinned_and_given_up_at_the_end_of_a_run() -> None:
    recorder = BranchRecorder(3, ["a"])
    run = torch.randn(3, 2, 50, 1000, generator=torch.Generator().manual_seed(0)).cumsum(0)
    for value in run:
        recorder.feed("a", value)
        kept = [tensor for outputs in recorder._outputs.values() for tensor in outputs]
        assert sum(tensor.numel() for tensor in kept) <= 3 * 2 * 1.1 * MAX_VALUES
        recorder.advance()
    assert not recorder._outputs
    exact = np.mean([pairwise_tables(sample.flatten(1))["cosine"] for sample in run.transpose(0, 1)], axis=0)
    assert recorder.tables().mean["cosine"][0] == pytest.approx(exact, rel=0.05)


def test_guidance_in_two_calls_makes_two_samples_and_enough_samples_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branch_recording, "MAX_SAMPLES", 3)
    recorder = BranchRecorder(2, ["a"])
    for run in range(4):
        for call in (0, 1):
            recorder.feed("a", torch.tensor([[1.0, run, call]]))
            recorder.feed("a", torch.tensor([[1.0, run, -call]]))
            recorder.advance()
    assert recorder.tables().n_samples == 4
    assert recorder.tables().mean["l1"][0, 0, 1] == pytest.approx(1.0 / 3.0, rel=1e-12)


def test_incomplete_runs_and_units_that_do_not_run_are_refused() -> None:
    recorder = BranchRecorder(2, ["a", "b"])
    recorder.feed("a", torch.ones(1, 2))
    recorder.advance()
    with pytest.raises(EvaluatorError, match="complete runs of 2 calls; got 1 of the last"):
        recorder.tables()
    with pytest.raises(EvaluatorError, match="a ran 1 times in 2 calls"):
        recorder.advance()
    recorder = BranchRecorder(1, ["a"])
    recorder.feed("a", torch.full((1, 2), torch.nan))
    recorder.advance()
    with pytest.raises(ScheduleError, match="must be finite"):
        recorder.tables()
