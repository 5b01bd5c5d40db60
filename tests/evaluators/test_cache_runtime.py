"""The cache runtime on the reference models, against a naive executor that keeps every value of every site."""

from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.apply import _attach, remove
from autotune.evaluators.inventory import list_inventory
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan, canonical_plan, cell_use
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule

from .mini_pipelines import attributes, denoiser_of, n_calls, random_plan, run
from .naive_cache import Naive

Case = tuple[Any, dict[str, Any]]


def schedule(kwargs: dict[str, Any], plan: CachePlan | None, guidance: tuple[GuidanceAction, ...] | None = None) -> Any:
    return Schedule(n_steps=kwargs["num_inference_steps"], cache=plan, guidance=guidance)


def test_all_recompute_is_bit_identical_and_so_is_the_pipeline_after_removal(pipe_case: Case) -> None:
    pipe, kwargs = pipe_case
    inventory = list_inventory(pipe)
    plain = run(pipe, kwargs)
    before = attributes(pipe)
    plan = CachePlan.from_array(np.zeros((n_calls(pipe, kwargs), len(inventory))))
    attachment = _attach(pipe, schedule(kwargs, plan), every_site=True)
    named = {s.name for s in inventory.sites} - {"final", "stack"}  # these two are gates around the blocks'
    assert {name for name, m in denoiser_of(pipe).named_modules() if "forward" in vars(m)} == named | {""}
    assert torch.equal(run(pipe, kwargs), plain)
    assert attachment.cache is not None
    assert (attachment.cache.missed, attachment.cache.peak_bytes) == (0, 0)
    remove(pipe)
    assert torch.equal(run(pipe, kwargs), plain)
    assert attributes(pipe) == before


@pytest.mark.parametrize("seed", [0, 1])
def test_run_equals_naive_execution_twice(pipe_case: Case, seed: int) -> None:
    pipe, kwargs = pipe_case
    kwargs = {**kwargs, "num_inference_steps": 5, "prompt": ["a red circle", "a cat"]}
    plan = random_plan(pipe, kwargs, seed)
    with Naive(pipe, plan):
        expected = run(pipe, kwargs)
    attachment = _attach(pipe, schedule(kwargs, plan))
    first = run(pipe, kwargs)
    assert attachment.cache is not None
    assert (attachment.cache.missed, attachment.cache.stored_bytes) == (0, 0)
    assert torch.equal(first, expected)
    assert torch.equal(run(pipe, kwargs), first)
    remove(pipe)
    assert not torch.equal(run(pipe, kwargs), first)


@pytest.mark.parametrize("seed", [0, 1])
def test_forecasts_equal_naive_execution(pipe_case: Case, seed: int) -> None:
    pipe, kwargs = pipe_case
    kwargs = {**kwargs, "num_inference_steps": 8, "prompt": ["a red circle", "a cat"]}
    plan = random_plan(pipe, kwargs, seed, forecasts=True)
    with Naive(pipe, plan):
        expected = run(pipe, kwargs)
    attachment = _attach(pipe, schedule(kwargs, plan))
    first = run(pipe, kwargs)
    assert attachment.cache is not None
    assert (attachment.cache.missed, attachment.cache.stored_bytes) == (0, 0)
    assert float((first - expected).norm() / expected.norm()) < 1e-4
    assert torch.equal(run(pipe, kwargs), first)


@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("forecasts", [False, True])
def test_canonical_plan_and_flipped_dead_genes_change_no_bit(pipe_case: Case, seed: int, forecasts: bool) -> None:
    pipe, kwargs = pipe_case
    kwargs = {**kwargs, "num_inference_steps": 6}
    inventory, plan = list_inventory(pipe), random_plan(pipe, kwargs, seed, forecasts=forecasts)
    use = cell_use(plan, inventory)
    dead = ~use.called | ~(use.runs | use.reads)
    assert dead.any() == any(s.parent is not None for s in inventory.sites)
    flipped = CachePlan.from_array(np.where(dead & (plan.table > 0), CacheAction.TAYLOR_1, plan.table))
    results = []
    for variant in (plan, canonical_plan(plan, inventory), flipped):
        attachment = _attach(pipe, schedule(kwargs, variant))
        results.append(run(pipe, kwargs))
        assert attachment.cache is not None
        assert attachment.cache.missed == 0
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("forecasts", [False, True])
def test_memory_is_taken_by_live_values_only(pipe_case: Case, forecasts: bool) -> None:
    pipe, kwargs = pipe_case
    kwargs = {**kwargs, "num_inference_steps": 7}
    inventory, plan = list_inventory(pipe), random_plan(pipe, kwargs, 5, forecasts=forecasts)
    sizes: dict[int, int] = {}
    spans = find_adapter(pipe).list_spans(denoiser_of(pipe))

    def size_of(value: Any) -> int:
        return value.nbytes if isinstance(value, torch.Tensor) else sum(size_of(x) for x in value)

    hooks = []
    for i, s in enumerate(inventory.sites):  # a residual is as large as the result
        path = spans[s.name].modules[-1] if s.name in spans else s.name
        module = denoiser_of(pipe).get_submodule(path)
        hooks.append(module.register_forward_hook(lambda m, a, out, i=i: sizes.__setitem__(i, size_of(out))))
    run(pipe, kwargs)
    for hook in hooks:
        hook.remove()
    held: list[int] = []
    attachment = _attach(pipe, schedule(kwargs, plan))
    cache = attachment.cache
    assert cache is not None
    hook = denoiser_of(pipe).register_forward_hook(lambda *_: held.append(cache.stored_bytes))
    run(pipe, kwargs)
    hook.remove()
    kept = cell_use(plan, inventory).kept
    assert held == [sum(size * int(row[i]) for i, size in sizes.items()) for row in kept]
    assert max(held) <= cache.peak_bytes
    assert forecasts == (kept.max() > 1)
    assert cache.stored_bytes == 0


def test_a_plan_gates_only_sites_that_it_reuses(pixart_pipe: Any) -> None:
    inventory = list_inventory(pixart_pipe)
    table = np.zeros((4, len(inventory)))
    table[2, 7] = CacheAction.REUSE
    _attach(pixart_pipe, Schedule(n_steps=4, cache=CachePlan.from_array(table)))
    gated = [name for name, m in pixart_pipe.transformer.named_modules() if name and "forward" in vars(m)]
    assert gated == ["transformer_blocks.1.norm1", "transformer_blocks.1.attn1"]
    assert gated[1] == inventory.sites[7].name


def flux_reuse(inventory: Inventory, rows: dict[int, str]) -> CachePlan:
    """Reuse all sites of a component in the given rows."""
    table = np.zeros((4, len(inventory)))
    for row, component in rows.items():
        table[row, [i for i, s in enumerate(inventory.sites) if s.component == component]] = CacheAction.REUSE
    return CachePlan.from_array(table)


def test_leaves_that_feed_a_reused_projection_do_not_run(flux_pipe: Any, small_args: Any) -> None:
    kwargs, inventory = small_args("mini-flux"), list_inventory(flux_pipe)
    ran: list[int] = []
    attachment = _attach(flux_pipe, schedule(kwargs, flux_reuse(inventory, {1: "single_proj_out"})))
    leaf = flux_pipe.transformer.single_transformer_blocks[3].attn.to_q
    hook = leaf.register_forward_hook(lambda *_: ran.append(attachment._clock._steps_done or 0))
    run(flux_pipe, kwargs)
    hook.remove()
    assert ran == [0, 2, 3]


def test_dead_leaves_run_after_all_where_the_projection_lost_its_value(flux_pipe: Any, small_args: Any) -> None:
    kwargs, inventory = small_args("mini-flux"), list_inventory(flux_pipe)
    plain = run(flux_pipe, kwargs)
    attachment = _attach(flux_pipe, schedule(kwargs, flux_reuse(inventory, {1: "single_proj_out"})))
    cache = attachment.cache
    assert cache is not None
    denoiser, forward = flux_pipe.transformer, flux_pipe.transformer.forward

    def forgetful(*args: Any, **kwargs: Any) -> Any:
        cache._store.clear()
        return forward(*args, **kwargs)

    denoiser.forward = forgetful
    result = run(flux_pipe, kwargs)
    denoiser.forward = forward
    assert torch.equal(result, plain)
    assert cache.missed == 8


def test_code_that_changes_a_stage_in_place_does_not_change_what_is_stored(sd_pipe: Any, small_args: Any) -> None:
    kwargs = small_args("mini-sd")
    inventory = list_inventory(sd_pipe)
    table = np.zeros((5, len(inventory)))
    names = ("mid_block", "up_blocks.0.resnets.1")
    table[1:4, [i for i, s in enumerate(inventory.sites) if s.name in names]] = CacheAction.REUSE
    plan = CachePlan.from_array(table)

    def halve(module: Any, inputs: Any, output: torch.Tensor) -> None:
        output.mul_(0.5)

    hooks = [sd_pipe.unet.get_submodule(name).register_forward_hook(halve) for name in names]
    with Naive(sd_pipe, plan):
        expected = run(sd_pipe, kwargs)
    _attach(sd_pipe, schedule(kwargs, plan))
    assert torch.equal(run(sd_pipe, kwargs), expected)
    for hook in hooks:
        hook.remove()


def test_module_that_runs_twice_in_one_call_is_refused(sd_pipe: Any, small_args: Any) -> None:
    kwargs = small_args("mini-sd")
    _attach(sd_pipe, schedule(kwargs, random_plan(sd_pipe, kwargs, 0)))
    block = sd_pipe.unet.mid_block.attentions[0].transformer_blocks[0]
    block.set_chunk_feed_forward(chunk_size=16, dim=1)
    with pytest.raises(ScheduleMismatchError, match=r"ff ran twice; switch off feed-forward chunking"):
        run(sd_pipe, kwargs)
    block.set_chunk_feed_forward(None)


def test_network_calls_outside_a_run_are_plain(pixart_pipe: Any, small_args: Any) -> None:
    kwargs = small_args("mini-pixart")
    inputs: dict[str, Any] = {
        "hidden_states": torch.ones(2, 4, 16, 16), "timestep": torch.tensor([500, 500]),
        "encoder_hidden_states": torch.ones(2, 16, 64), "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }  # fmt: skip
    with torch.no_grad():
        plain = pixart_pipe.transformer(**inputs).sample
        attachment = _attach(pixart_pipe, schedule(kwargs, random_plan(pixart_pipe, kwargs, 0)))
        assert torch.equal(pixart_pipe.transformer(**inputs).sample, plain)
        run(pixart_pipe, kwargs)
        assert torch.equal(pixart_pipe.transformer(**inputs).sample, plain)
    assert attachment.cache is not None
    assert attachment.cache.stored_bytes == 0
