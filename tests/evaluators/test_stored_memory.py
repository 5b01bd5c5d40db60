"""What a cache plan keeps in memory is what it says it keeps, and no site is kept or computed for nothing."""

from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.apply import _attach
from autotune.evaluators.branch_store import BranchStore, map_tensors
from autotune.evaluators.cache_runtime import CacheRuntime
from autotune.evaluators.inventory import list_inventory
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.schedule import Schedule

from .mini_pipelines import denoiser_of, n_calls, random_plan, run

Case = tuple[Any, dict[str, Any]]


def bytes_in_memory(cache: CacheRuntime) -> int:
    """Bytes of all memory that the stored values keep alive, each piece once, whole even where a value is a part."""
    memory: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        memory[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for entries in cache._store._entries.values():
        for entry in entries:
            map_tensors(note, (entry.whole, entry.unconditional, entry.conditional))
    return sum(memory.values())


def check_memory(pipe: Any, kwargs: dict[str, Any], schedule: Schedule) -> None:
    attachment = _attach(pipe, schedule)
    cache = attachment.cache
    assert cache is not None
    told: list[int] = []
    in_memory: list[int] = []

    def look(*_: Any) -> None:
        assert cache is not None
        told.append(cache.stored_bytes)
        in_memory.append(bytes_in_memory(cache))

    hook = denoiser_of(pipe).register_forward_hook(look)
    run(pipe, kwargs)
    hook.remove()
    assert told == in_memory
    assert 0 < max(told) <= cache.peak_bytes


def reuse_every_second(pipe: Any, kwargs: dict[str, Any], component: str) -> CachePlan:
    sites = list_inventory(pipe).sites
    table = np.zeros((n_calls(pipe, kwargs), len(sites)))
    table[1::2, [i for i, site in enumerate(sites) if site.component == component]] = CacheAction.REUSE
    return CachePlan.from_array(table)


def test_memory_of_each_component_is_what_is_told(pipe_case: Case) -> None:
    check_components(*pipe_case)


def test_memory_of_each_component_of_random_pipelines_is_what_is_told(random_case: Case) -> None:
    check_components(*random_case)


def check_components(pipe: Any, kwargs: dict[str, Any]) -> None:
    for component in sorted({site.component for site in list_inventory(pipe).sites}):
        plan = reuse_every_second(pipe, kwargs, component)
        check_memory(pipe, kwargs, Schedule(n_steps=kwargs["num_inference_steps"], cache=plan))


@pytest.mark.parametrize("name", ["pixart_pipe", "sd_pipe"])
def test_memory_of_branches_of_different_age_is_what_is_told(
    name: str, request: pytest.FixtureRequest, small_args: Any
) -> None:
    pipe = request.getfixturevalue(name)
    kwargs = {**small_args("mini-" + name[:-5]), "num_inference_steps": 7}
    plan = random_plan(pipe, kwargs, 10, forecasts=True)
    both, stored, alone = GuidanceAction.BOTH, GuidanceAction.STORED, GuidanceAction.CONDITIONAL
    guidance = (both, both, stored, both, alone, both, both, stored)[: plan.n_calls]
    check_memory(pipe, kwargs, Schedule(n_steps=7, cache=plan, guidance=guidance))


def test_a_part_of_a_larger_tensor_is_stored_as_a_copy() -> None:
    store, large = BranchStore(), torch.arange(8.0)
    store.write("part", 0, large[:2], half=False, keep=(1, 1))
    store.write("all parts", 0, (large[:2], large[2:]), half=False, keep=(1, 1))
    part, parts = (store.read(key, lambda rows: (1.0,), half=False) for key in ("part", "all parts"))
    assert part.untyped_storage().nbytes() == store.n_bytes - 32 == 8
    assert {x.untyped_storage().data_ptr() for x in parts} == {large.untyped_storage().data_ptr()}
    assert [*part, *parts[0], *parts[1]] == [0, 1, *range(8)]


def test_every_site_reaches_the_output(pipe_case: Case) -> None:
    check_reach(*pipe_case)


def test_every_site_of_random_pipelines_reaches_the_output(random_case: Case) -> None:
    """No site is the text feed-forward of a last block, which nobody reads."""
    check_reach(*random_case)


def check_reach(pipe: Any, kwargs: dict[str, Any]) -> None:
    """What a site returns changes the output of the same call, so that recomputing it there is no dead gene."""
    denoiser, spans = denoiser_of(pipe), find_adapter(pipe).list_spans(denoiser_of(pipe))
    inputs: list[Any] = []
    hook = denoiser.register_forward_pre_hook(lambda m, a, k: inputs.append((a, k)), with_kwargs=True)
    run(pipe, {**kwargs, "num_inference_steps": 2})
    hook.remove()
    args, named = inputs[0]
    named = {**named, "return_dict": False}
    with torch.no_grad():
        plain = denoiser(*args, **named)[0]
        for site in list_inventory(pipe).sites:
            module = denoiser.get_submodule(spans[site.name].modules[-1] if site.name in spans else site.name)
            hook = module.register_forward_hook(lambda m, a, out: map_tensors(lambda x: 2 * x + 1, out))
            assert not torch.equal(denoiser(*args, **named)[0], plain), site.name
            hook.remove()
