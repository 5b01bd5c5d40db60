"""The script that applies a cache plan without this package, against our own runtime, bit for bit."""

import ast
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.adapters import ADAPTERS
from autotune.evaluators.apply import attach, remove
from autotune.evaluators.inventory import list_inventory
from autotune.reports import diffusers_script as exporter
from autotune.reports.diffusers_script import diffusers_script
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan, stored_sites
from autotune.spaces.errors import ScheduleError
from autotune.spaces.schedule import Schedule

from .mini_pipelines import attributes, denoiser_of, random_plan, run

Case = tuple[Any, dict[str, Any]]


def load_script(source: str, folder: Path) -> Any:
    """The script as a module."""
    path = folder / "plan.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("plan", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def planned(case: Case, seed: int, **changes: Any) -> tuple[Schedule, dict[str, Any]]:
    kwargs = {**case[1], **changes}
    table = random_plan(case[0], kwargs, seed).table.copy()
    table[:, [s.component in ("final", "stack", "block") for s in list_inventory(case[0]).sites]] = 0
    return Schedule(n_steps=kwargs["num_inference_steps"], cache=CachePlan.from_array(table)), kwargs


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_is_that_of_our_runtime_bit_for_bit(pipe_case: Case, seed: int, tmp_path: Path) -> None:
    pipe = pipe_case[0]
    schedule, kwargs = planned(pipe_case, seed, num_inference_steps=6, prompt=["a red circle", "a cat"])
    plain, before = run(pipe, kwargs), attributes(pipe)
    attach(pipe, schedule)
    expected = run(pipe, kwargs)
    remove(pipe)
    script = load_script(diffusers_script(schedule, list_inventory(pipe)), tmp_path)
    undo = script.apply_plan(pipe)
    try:
        assert torch.equal(run(pipe, kwargs), expected)
        assert torch.equal(run(pipe, {**kwargs, "prompt": "a cat"})[0], run(pipe, {**kwargs, "prompt": "a cat"})[0])
        assert torch.equal(run(pipe, kwargs), expected), "another batch between leaves nothing behind"
    finally:
        undo()
    assert not torch.equal(expected, plain)
    assert attributes(pipe) == before
    assert torch.equal(run(pipe, kwargs), plain)


def test_guidance_in_two_calls_keeps_two_sets_of_values(flux_pipe: Any, small_args: Any, tmp_path: Path) -> None:
    kwargs = {**small_args("mini-flux"), "true_cfg_scale": 2.0, "negative_prompt": "a cat"}
    schedule, kwargs = planned((flux_pipe, kwargs), 3)
    attach(flux_pipe, schedule)
    expected = run(flux_pipe, kwargs)
    remove(flux_pipe)
    undo = load_script(diffusers_script(schedule, list_inventory(flux_pipe)), tmp_path).apply_plan(flux_pipe)
    try:
        assert torch.equal(run(flux_pipe, kwargs), expected)
    finally:
        undo()


def test_it_keeps_no_more_than_our_runtime_and_nothing_after_a_run(pipe_case: Case, tmp_path: Path) -> None:
    pipe = pipe_case[0]
    schedule, kwargs = planned(pipe_case, 4, num_inference_steps=5)
    inventory = list_inventory(pipe)
    script = load_script(diffusers_script(schedule, inventory), tmp_path)
    cached, most = script.CachedPipeline(pipe), 0

    def measure(*_: Any) -> None:
        nonlocal most
        most = max(most, len(cached.values))

    handle = denoiser_of(pipe).register_forward_hook(measure)
    run(pipe, kwargs)
    handle.remove()
    assert cached.values == cached.shapes == {}
    assert cached.row is None
    cached.remove()
    assert schedule.cache is not None
    assert 0 < most <= stored_sites(schedule.cache, inventory).sum()


def test_it_needs_the_standard_library_only_and_names_its_plan(flux_pipe: Any, small_args: Any) -> None:
    schedule, _ = planned((flux_pipe, small_args("mini-flux")), 0)
    source = diffusers_script(schedule, list_inventory(flux_pipe), ["left out: time"])
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports} == {
        "functools", "collections.abc", "typing",
    }  # fmt: skip
    assert source.startswith("# The cache plan of schedule ")
    assert "# Note: left out: time.\n" in source


def test_a_run_that_does_not_fit_is_refused(pixart_pipe: Any, flux_pipe: Any, small_args: Any, tmp_path: Path) -> None:
    schedule, kwargs = planned((flux_pipe, small_args("mini-flux")), 0)
    script = load_script(diffusers_script(schedule, list_inventory(flux_pipe)), tmp_path)
    with pytest.raises(TypeError, match="FluxTransformer2DModel; this pipeline has a PixArtTransformer2DModel"):
        script.apply_plan(pixart_pipe)
    undo = script.apply_plan(flux_pipe)
    try:
        expected = run(flux_pipe, kwargs)
        with pytest.raises(ValueError, match="use num_inference_steps=4"):
            run(flux_pipe, {**kwargs, "num_inference_steps": 5})

        def stop(*_: Any) -> dict[str, Any]:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(flux_pipe, {**kwargs, "callback_on_step_end": stop})
        assert torch.equal(run(flux_pipe, kwargs), expected), "an interrupted run leaves nothing behind"
    finally:
        undo()


def test_a_forward_that_was_set_before_comes_back(sd_pipe: Any, small_args: Any, tmp_path: Path) -> None:
    schedule, _ = planned((sd_pipe, small_args("mini-sd")), 0)
    unet = denoiser_of(sd_pipe)
    original = unet.forward
    unet.forward = mine = lambda *args, **kwargs: original(*args, **kwargs)
    try:
        load_script(diffusers_script(schedule, list_inventory(sd_pipe)), tmp_path).apply_plan(sd_pipe)()
        assert vars(unet)["forward"] is mine
    finally:
        del unet.forward


def test_what_a_script_cannot_do(pixart_pipe: Any) -> None:
    inventory = list_inventory(pixart_pipe)
    table = np.zeros((4, len(inventory)), np.uint8)
    with pytest.raises(ScheduleError, match="only a schedule that caches"):
        diffusers_script(Schedule(n_steps=4, cache=CachePlan.from_array(table)), inventory)
    with pytest.raises(ScheduleError, match="only a schedule that caches"):
        diffusers_script(Schedule(n_steps=4), inventory)
    table[3, 0] = CacheAction.REUSE
    with pytest.raises(ScheduleError, match="also caches blocks, their stack or the hidden state"):
        diffusers_script(Schedule(n_steps=4, cache=CachePlan.from_array(table)), inventory)
    table[3, 0] = 0
    table[3, list(inventory.leaves)] = CacheAction.TAYLOR_1
    table[2, list(inventory.leaves)] = 0
    with pytest.raises(ScheduleError, match=r"can't forecast; 18\.1% of the plan's cells do"):
        diffusers_script(Schedule(n_steps=4, cache=CachePlan.from_array(table)), inventory)


def test_copied_components_are_those_of_the_adapters() -> None:
    assert frozenset().union(*(adapter.copied for adapter in ADAPTERS.values())) == exporter.COPIED


def test_the_template_itself_has_no_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile(exporter._TEMPLATE.read_text(), "cached_pipeline.py", "exec")
