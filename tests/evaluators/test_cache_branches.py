"""Cached values of the guidance branches: each branch and each call of a row keeps its own."""

from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.apply import _attach, remove
from autotune.evaluators.inventory import list_inventory
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.guidance_column import GuidanceAction, GuidanceRow
from autotune.spaces.schedule import Schedule, canonical_schedule

from .mini_pipelines import denoiser_of, n_calls, random_plan, run
from .naive_cache import Naive
from .random_pipelines import random_args


def schedule(kwargs: dict[str, Any], plan: CachePlan | None, guidance: tuple[GuidanceAction, ...] | None = None) -> Any:
    return Schedule(n_steps=kwargs["num_inference_steps"], cache=plan, guidance=guidance)


def test_two_calls_within_a_row_keep_their_own_values(flux_pipe: Any, small_args: Any) -> None:
    kwargs = {**small_args("mini-flux"), "negative_prompt": "a dog", "true_cfg_scale": 2.5}
    plan = random_plan(flux_pipe, kwargs, 9)
    with Naive(flux_pipe, plan, calls_per_row=2):
        expected = run(flux_pipe, kwargs)
    _attach(flux_pipe, schedule(kwargs, plan))
    assert torch.equal(run(flux_pipe, kwargs), expected)


@pytest.mark.parametrize("name", ["pixart_pipe", "sd_pipe"])
@pytest.mark.parametrize("forecasts", [False, True])
def test_values_of_a_dropped_branch_keep_their_age(
    name: str, forecasts: bool, request: pytest.FixtureRequest, small_args: Any
) -> None:
    pipe = request.getfixturevalue(name)
    kwargs = {**small_args("mini-" + name[:-5]), "num_inference_steps": 7}
    plan = random_plan(pipe, kwargs, 10, forecasts=forecasts)
    both, stored, alone = GuidanceAction.BOTH, GuidanceAction.STORED, GuidanceAction.CONDITIONAL
    guidance = (both, both, stored, both, alone, both, both, stored)[: plan.n_calls]
    dropped = tuple(action is not both for action in guidance)
    with Naive(pipe, plan, dropped):
        _attach(pipe, schedule(kwargs, None, guidance))
        expected = run(pipe, kwargs)
        remove(pipe)
    attachment = _attach(pipe, schedule(kwargs, plan, guidance))
    result = run(pipe, kwargs)
    assert attachment.cache is not None
    assert attachment.cache.missed == 0
    if forecasts:
        assert float((result - expected).norm() / expected.norm()) < 1e-4
    else:
        assert torch.equal(result, expected)


@pytest.mark.parametrize("name", ["pixart_pipe", "sd_pipe", "sd3", "qwen-image", "wan"])
@pytest.mark.parametrize("seed", range(4))
def test_canonical_schedule_with_dropped_branches_changes_no_bit(
    name: str, seed: int, request: pytest.FixtureRequest, small_args: Any, random_pipes: dict[str, Any]
) -> None:
    """The first estimates want more differences than there are, so that their canonical rows are others."""
    pipe = random_pipes[name] if name in random_pipes else request.getfixturevalue(name)
    args = random_args(name) if name in random_pipes else small_args("mini-" + name[:-5])
    kwargs = {**args, "num_inference_steps": 7}
    plan, rng = random_plan(pipe, kwargs, seed, forecasts=True), np.random.default_rng(seed)
    rows: list[GuidanceRow] = [*GuidanceAction, (1.0,), GuidanceAction.BOTH, GuidanceAction.BOTH]
    column = [rows[i] for i in rng.integers(len(rows), size=plan.n_calls)]
    column[:2] = GuidanceAction.BOTH, (GuidanceAction.LINEAR, GuidanceAction.QUADRATIC)[seed % 2]
    whole = Schedule(n_steps=7, cache=plan, guidance=tuple(column))
    canonical = canonical_schedule(whole, list_inventory(pipe))
    assert canonical.cache != plan
    assert canonical.guidance is not None
    assert canonical.guidance != whole.guidance
    results = []
    for variant in (whole, canonical):
        attachment = _attach(pipe, variant)
        results.append(run(pipe, kwargs))
        assert attachment.cache is not None
        assert attachment.guidance is not None
        assert (attachment.cache.missed, attachment.guidance.missed) == (0, 0)
    remove(pipe)
    assert torch.equal(*results)


def test_a_run_that_begins_with_one_branch_equals_its_canonical_form(random_case: tuple[Any, dict[str, Any]]) -> None:
    """As in guidance intervals: what the first call stores is of one branch, and the next one reads none of it."""
    pipe, kwargs = random_case
    inventory = list_inventory(pipe)
    table = np.zeros((n_calls(pipe, kwargs), len(inventory)), np.uint8)
    table[1::2, list(inventory.leaves)] = CacheAction.REUSE
    column = (GuidanceAction.CONDITIONAL, *[GuidanceAction.BOTH] * (len(table) - 1))
    whole = Schedule(n_steps=kwargs["num_inference_steps"], cache=CachePlan.from_array(table), guidance=column)
    results = []
    for variant in (whole, canonical_schedule(whole, inventory)):
        attachment = _attach(pipe, variant)
        results.append(run(pipe, kwargs))
        assert attachment.cache is not None
        assert attachment.cache.missed == 0
    assert torch.equal(*results)


def drive(pipe: Any, rows: list[dict[str, Any]]) -> list[torch.Tensor]:
    """Outputs of the denoiser for given inputs per row, with the scheduler stepped in between."""
    outputs, scheduler = [], pipe.scheduler
    scheduler.set_timesteps(len(rows))
    zeros = torch.zeros(1, 4, 16, 16)
    for row, inputs in enumerate(rows):
        outputs.append(denoiser_of(pipe)(**inputs, return_dict=False)[0])
        scheduler.step(zeros, scheduler.timesteps[row], zeros)
    return outputs


@torch.no_grad()
@pytest.mark.parametrize("with_drops", [False, True])
def test_poison_in_the_unconditional_branch_never_reaches_the_conditional(pixart_pipe: Any, with_drops: bool) -> None:
    pipe, inventory = pixart_pipe, list_inventory(pixart_pipe)
    rates = [0.5 if site.component in ("attn1", "attn2", "ff") else 0.0 for site in inventory.sites]
    plan = CachePlan.from_array(np.random.default_rng(11).random((6, len(inventory))) < rates)
    both, stored, alone = GuidanceAction.BOTH, GuidanceAction.STORED, GuidanceAction.CONDITIONAL
    guidance = (both, alone, both, stored, both, both) if with_drops else None
    generator = torch.Generator().manual_seed(0)
    rows: list[dict[str, Any]] = []
    for t in range(900, 300, -100):
        x = torch.randn(1, 4, 16, 16, generator=generator)
        rows.append({
            "hidden_states": torch.cat([x, x]), "timestep": torch.tensor([t, t]),
            "encoder_hidden_states": torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(1)),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        })  # fmt: skip
    _attach(pipe, Schedule(n_steps=6, cache=plan, guidance=guidance))
    clean = drive(pipe, rows)
    poisoned = [{**row, "encoder_hidden_states": row["encoder_hidden_states"].clone()} for row in rows]
    poisoned[2]["encoder_hidden_states"][0] = torch.nan
    dirty = drive(pipe, poisoned)
    for row, (a, b) in enumerate(zip(clean, dirty, strict=True)):
        assert torch.equal(a[1], b[1]), row
    assert dirty[2][0].isnan().all()
    assert dirty[-1][0].isnan().any()
