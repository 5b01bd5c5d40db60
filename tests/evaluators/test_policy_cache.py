"""Block-wise caches of a transformer policy: their shares of MACs, and that reading the stack is reading the leaves."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.apply import attach, cache_runtime_of, remove
from autotune.evaluators.inventory import measure_inventory
from autotune.evaluators.policy.pipeline import PolicyPipeline
from autotune.evaluators.policy.transformer import PolicyTransformer
from autotune.spaces.blockwise_plan import blockwise_plan, refreshed_share, refreshes_to_fresh
from autotune.spaces.bubbling_union import bubbling_union
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.cache_unit import cache_units
from autotune.spaces.inventory import STACK, Inventory
from autotune.spaces.schedule import Schedule

N_CALLS = 20


def make_policy(**config: Any) -> Any:
    """A policy with random weights, larger than those of an untrained one, so that its branches matter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = PolicyTransformer(**config).eval().requires_grad_(False)
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8.0)
    scheduler: Any = DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2")  # type: ignore[no-untyped-call]
    return PolicyPipeline(transformer=network, scheduler=scheduler)


def inventory_of(pipe: Any) -> Inventory:
    return measure_inventory(pipe, 0, 0, prompt_tokens=0)


@pytest.fixture(scope="module")
def policy() -> Any:
    return make_policy(width=32, n_layers=3)


@pytest.fixture(scope="module")
def inventory(policy: Any) -> Inventory:
    return inventory_of(policy)


def actions_of(pipe: Any, plan: CachePlan | None, inventory: Inventory) -> torch.Tensor:
    observations = torch.randn(2, 2, 26, generator=torch.Generator().manual_seed(1))
    attach(pipe, Schedule(n_steps=N_CALLS, cache=plan), inventory=inventory)
    try:
        actions: torch.Tensor = pipe(
            observations, num_inference_steps=N_CALLS, generator=torch.Generator().manual_seed(2)
        ).actions
        runtime = cache_runtime_of(pipe)
        assert runtime is None or runtime.missed == 0
        return actions
    finally:
        remove(pipe)


def random_refreshes(inventory: Inventory, seed: int) -> np.ndarray:
    fresh = np.random.default_rng(seed).random((N_CALLS, len(cache_units(inventory)))) < 0.2
    fresh[0], fresh[[5, 6, 11]] = True, False
    return fresh


@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler])
def test_reading_the_stack_and_blocks_is_reading_their_leaves(
    policy: Any, inventory: Inventory, scheduler: Any
) -> None:
    assert find_adapter(policy).ungated
    assert inventory.ungated
    pipe = PolicyPipeline(transformer=policy.transformer, scheduler=scheduler.from_config(policy.scheduler.config))
    full = actions_of(pipe, None, inventory)
    for seed in range(3):
        fresh = random_refreshes(inventory, seed)
        short = blockwise_plan(fresh, inventory)
        plain = blockwise_plan(fresh, replace(inventory, ungated=False))
        stack = [site.component for site in inventory.sites].index(STACK)
        assert short.table[5, stack]
        assert not plain.table[:, stack].any()
        assert refreshed_share(short, inventory) == refreshed_share(plain, inventory)
        by_stack, by_leaves = (actions_of(pipe, plan, inventory) for plan in (short, plain))
        assert float((by_stack - by_leaves).norm() / by_leaves.norm()) < 1e-6
        assert float((by_leaves - full).norm() / full.norm()) > 1e-3  # the plan does change something


def test_a_policy_of_the_published_size_has_the_published_shares() -> None:
    """d = 256, 10 actions, 3 condition tokens, 8 layers, 100 calls: 15.77 GFLOPs, and 2.66 with BAC's ten refreshes."""
    with torch.device("meta"):
        network = PolicyTransformer(width=256, horizon=10, n_observations=2, n_layers=8)
    scheduler: Any = DDPMScheduler(num_train_timesteps=100)  # type: ignore[no-untyped-call]
    inventory = inventory_of(PolicyPipeline(transformer=network, scheduler=scheduler))
    macs = dict.fromkeys(("self_attn", "cross_attn", "ff"), 0)
    for leaf in inventory.leaves:
        macs[inventory.sites[leaf].component] += inventory.sites[leaf].macs
    d, tokens, memory = 256, 10, 3
    assert macs["self_attn"] == 8 * (4 * tokens * d**2 + 2 * tokens**2 * d)
    assert macs["cross_attn"] == 8 * (2 * tokens * d**2 + 2 * memory * d**2 + 2 * tokens * memory * d)
    assert macs["ff"] == 8 * 8 * tokens * d**2
    decoder = sum(macs.values())
    shares = [macs[name] / decoder for name in ("self_attn", "cross_attn", "ff")]
    assert shares == pytest.approx([0.277, 0.178, 0.544], abs=6e-4)
    assert 2 * 100 * inventory.total_macs == pytest.approx(15.77e9, rel=3e-3)
    beside = inventory.total_macs - decoder
    assert (2.66e9 / 2 / 100 - beside) / decoder == pytest.approx(0.151, abs=1e-3)

    units = cache_units(inventory)
    even = [tuple(range(u % 5, 100, 10)) for u in range(len(units))]
    refreshes = bubbling_union([(0, *calls) for calls in even], units, [0, 4, 9, 13, 21])
    plan = blockwise_plan(refreshes_to_fresh(refreshes, 100), inventory)
    share = refreshed_share(plan, inventory)
    weights = dict(zip(macs, shares, strict=True))
    expected = sum(
        weights[inventory.sites[unit.sites[0]].component] / 8 * len(set(calls)) / 100
        for unit, calls in zip(units, refreshes, strict=True)
    )
    assert share.branches == pytest.approx(expected, rel=1e-12)
    assert share.network == pytest.approx((expected * decoder + beside) / inventory.total_macs, rel=1e-12)
    assert 0.10 < share.branches < share.network


def test_a_call_that_reuses_all_reads_one_value(policy: Any, inventory: Inventory) -> None:
    """Not one per leaf: with 24 leaves that is most of the time of such a call."""
    fresh = np.zeros((N_CALLS, len(cache_units(inventory))), bool)
    fresh[[0, 10]] = True
    attach(policy, Schedule(n_steps=N_CALLS, cache=blockwise_plan(fresh, inventory)), inventory=inventory)
    try:
        runtime, reads = cache_runtime_of(policy), []
        assert runtime is not None
        runtime.on_read = lambda row, site, value, half: reads.append((row, inventory.sites[site].component))
        policy(torch.zeros(1, 2, 26), num_inference_steps=N_CALLS, generator=torch.Generator().manual_seed(0))
        assert runtime.peak_bytes == 10 * 32 * 4  # the stack's residual alone: 10 actions of width 32
    finally:
        remove(policy)
    assert reads == [(row, STACK) for row in range(N_CALLS) if row not in (0, 10)]
