"""The cache point of real models: what is watched is what a plan at that point stands in for."""

import numpy as np
import pytest
import torch

from autotune.evaluators.apply import attach, remove
from autotune.evaluators.load import load_model
from autotune.evaluators.sampling import Purpose
from autotune.evaluators.segment_recording import watching_cache_point
from autotune.evaluators.worker import Worker
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.cache_point import cache_point
from autotune.spaces.errors import ScheduleError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule import Schedule
from autotune.spaces.segment_costs import SegmentNorm
from autotune.storage.artifacts import ArtifactStore

FIDELITY = Fidelity(name="f", prompts=("a red circle",), seeds=(0,))


@pytest.mark.parametrize("model", ["mini-flux", "mini-pixart", "mini-sd"])
def test_a_reuse_at_the_cache_point_hands_out_the_feature_of_the_last_refresh(model: str) -> None:
    worker = Worker(load_model(model, device="cpu"))
    n_calls, columns = len(worker.own_timesteps(worker.condition.n_steps)), list(cache_point(worker.inventory))
    table = np.zeros((n_calls, len(worker.inventory)), np.uint8)
    table[np.ix_([3, 4, 9], columns)] = CacheAction.REUSE
    seen: list[tuple[torch.Tensor, ...]] = []
    schedule = Schedule(n_steps=worker.condition.n_steps, cache=CachePlan.from_array(table))
    attach(worker._pipe, schedule, inventory=worker.inventory)
    try:
        with watching_cache_point(worker._pipe, worker.inventory, seen.append):
            worker._workload.run(FIDELITY, schedule.n_steps, Purpose.LATENTS)
    finally:
        remove(worker._pipe)
    assert len(seen) == n_calls
    for call, source in [(3, 2), (4, 2), (9, 8)]:
        for now, before in zip(seen[call], seen[source], strict=True):
            torch.testing.assert_close(now, before, rtol=1e-3, atol=1e-3)
    assert (seen[5][-1] - seen[2][-1]).abs().max() > 0.05


@pytest.mark.parametrize(("model", "norm", "order"), [("mini-flux", "l1", 1), ("mini-sd", "l2", 2)])
def test_recorded_costs_are_those_of_the_watched_features_and_are_kept(
    model: str, norm: SegmentNorm, order: int, artifacts: ArtifactStore
) -> None:
    worker = Worker(load_model(model, device="cpu"), artifacts=artifacts)
    costs = worker.segment_costs(FIDELITY, 1)
    seen: list[tuple[torch.Tensor, ...]] = []
    with watching_cache_point(worker._pipe, worker.inventory, seen.append):
        worker._run(Schedule(n_steps=worker.condition.n_steps), FIDELITY, None)
    run = torch.stack([torch.cat([part.flatten(1) for part in parts], dim=1) for parts in seen]).double()
    expected = sum(float((run[t] - run[4]).norm(p=order, dim=1).mean()) for t in range(4, 9))
    assert costs.tables["full-precision", norm][4, 9] == pytest.approx(expected, rel=1e-4)
    again = worker.segment_costs(FIDELITY, 1)
    assert again.longest == costs.longest == 16
    for key, table in costs.tables.items():
        np.testing.assert_array_equal(again.tables[key], table)


def test_groups_of_the_feature_and_of_the_skip_connection_together_are_refused() -> None:
    """56 channels of each: 8 groups of 14 keep them apart, 7 of 16 do not."""
    worker = Worker(load_model("mini-sd", device="cpu"))
    with watching_cache_point(worker._pipe, worker.inventory, lambda feature: None):
        pass
    block = worker._pipe.unet.up_blocks[-1].resnets[-1]
    block.norm1 = torch.nn.GroupNorm(7, block.in_channels)
    with pytest.raises(ScheduleError, match="groups of 16 channels, and 56 are cached: plan on the hidden state"):
        worker.segment_costs(FIDELITY, 1)


def test_the_point_of_a_unet_leaves_the_last_residual_block_and_its_transformer() -> None:
    inventory = Worker(load_model("mini-sd", device="cpu")).inventory
    chosen = [inventory.sites[i].name for i in cache_point(inventory)]
    assert chosen[:4] == ["down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0"]
    assert chosen[-1] == "up_blocks.1.attentions.1.transformer_blocks.0.ff"
    assert not [name for name in chosen if name.startswith(("up_blocks.1.resnets.2", "up_blocks.1.attentions.2"))]


def test_the_point_of_a_transformer_leaves_the_first_and_the_last_block() -> None:
    inventory = Worker(load_model("mini-pixart", device="cpu")).inventory
    chosen = [inventory.sites[i].name for i in cache_point(inventory)]
    assert chosen == [f"transformer_blocks.{i}" for i in range(1, 13)]
