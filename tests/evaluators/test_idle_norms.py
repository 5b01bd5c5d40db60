"""Norms in front of leaves that are all handed out, on all reference and random pipelines."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.apply import attach, remove
from autotune.evaluators.inventory import list_inventory
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.schedule import Schedule

from .mini_pipelines import attributes, denoiser_of, n_calls, run

Case = tuple[Any, dict[str, Any]]


def reusing(pipe: Any, kwargs: dict[str, Any], row: int, sites: Sequence[int]) -> Schedule:
    table = np.zeros((n_calls(pipe, kwargs), len(list_inventory(pipe))))
    table[row, list(sites)] = CacheAction.REUSE
    return Schedule(n_steps=kwargs["num_inference_steps"], cache=CachePlan.from_array(table))


def norm_sizes(pipe: Any, kwargs: dict[str, Any], paths: Sequence[str]) -> dict[str, list[int]]:
    """Tokens that each norm gave, call by call."""
    sizes: dict[str, list[int]] = defaultdict(list)
    hooks = [
        denoiser_of(pipe)
        .get_submodule(path)
        .register_forward_hook(lambda m, a, out, path=path: sizes[path].append(out.shape[1]))
        for path in paths
    ]
    run(pipe, kwargs)
    for hook in hooks:
        hook.remove()
    return dict(sizes)


def check(pipe: Any, kwargs: dict[str, Any]) -> None:
    adapter, inventory = find_adapter(pipe), list_inventory(pipe)
    norms = adapter.list_norms(denoiser_of(pipe))
    names = [site.name for site in inventory.sites]
    leaves = {names[i] for i in inventory.leaves}
    assert norms
    assert {reader for readers in norms.values() for reader in readers} <= leaves
    plain, before = norm_sizes(pipe, kwargs, list(norms)), attributes(pipe)
    per_row = len(next(iter(plain.values()))) // n_calls(pipe, kwargs)
    attach(pipe, reusing(pipe, kwargs, 2, inventory.leaves))
    reused = norm_sizes(pipe, kwargs, list(norms))
    remove(pipe)
    row = slice(2 * per_row, 3 * per_row)
    for path, sizes in reused.items():
        assert sizes[row] == [1] * per_row, path
        sizes[row] = plain[path][row]
        assert sizes == plain[path], path
    assert attributes(pipe) == before


def test_norms_of_reused_leaves_look_at_one_token(pipe_case: Case) -> None:
    check(*pipe_case)


def test_norms_of_reused_leaves_look_at_one_token_on_other_classes(random_case: Case) -> None:
    check(*random_case)


def test_norm_with_one_reader_that_computes_is_computed(flux_pipe: Any, small_args: Any) -> None:
    kwargs, inventory = small_args("mini-flux"), list_inventory(flux_pipe)
    names = [site.name for site in inventory.sites]
    block = "single_transformer_blocks.0"
    attach(flux_pipe, reusing(flux_pipe, kwargs, 2, [names.index(f"{block}.attn")]))
    sizes = norm_sizes(flux_pipe, kwargs, [f"{block}.norm.norm"])[f"{block}.norm.norm"]
    assert len(set(sizes)) == 1
    assert sizes[0] > 1


def test_dead_leaves_leave_nothing_for_the_code_between(flux_pipe: Any, small_args: Any) -> None:
    kwargs, inventory = small_args("mini-flux"), list_inventory(flux_pipe)
    names = [site.name for site in inventory.sites]
    block = "single_transformer_blocks.0"
    attach(flux_pipe, reusing(flux_pipe, kwargs, 2, [names.index(f"{block}.proj_out")]))
    widths: list[int] = []
    act = flux_pipe.transformer.get_submodule(f"{block}.act_mlp")
    hook = act.register_forward_hook(lambda m, a, out: widths.append(out.shape[-1]))
    result = run(flux_pipe, kwargs)
    hook.remove()
    assert widths[2] == 0 < min(widths[0], widths[1], widths[3])
    assert bool(torch.isfinite(result).all())
