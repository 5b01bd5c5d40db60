"""The script that applies a cache and guidance plan without this package, against our own runtime."""

import ast
import dataclasses
import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
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
from autotune.search.cache_plans import even_actions, on_sites
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan, stored_sites
from autotune.spaces.errors import ScheduleError
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.schedule import Schedule

from .mini_pipelines import attributes, denoiser_of, n_calls, random_plan, run
from .random_pipelines import SEQUENTIAL, random_args

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
    cache = random_plan(case[0], kwargs, seed, forecasts=True)
    return Schedule(n_steps=kwargs["num_inference_steps"], cache=cache), kwargs


@pytest.mark.parametrize("seed", range(3))
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
        "collections.abc", "dataclasses", "functools", "inspect", "typing",
    }  # fmt: skip
    assert source.startswith("# The cache and guidance plan of schedule ")
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


@pytest.fixture(params=["pixart_pipe", "sd_pipe", "flux_pipe", *SEQUENTIAL])
def guided_case(
    request: pytest.FixtureRequest, small_args: Any, random_pipes: dict[str, Any]
) -> Iterator[tuple[Any, dict[str, Any], str]]:
    """Guided runs of ten steps, in one batch or in two calls, and what the scale is called."""
    name = request.param
    if name in random_pipes:
        scale = {"qwen-image": "true_cfg_scale", "wan": "guidance_scale"}[name]
        yield random_pipes[name], random_args(name, steps=10), scale
        remove(random_pipes[name])
        return
    kwargs = {**small_args("mini-" + name[:-5], steps=10), "prompt": ["a red circle", "a cat"]}
    if name == "flux_pipe":
        negative = {"negative_prompt": ["a dog", ""], "true_cfg_scale": 2.5}
        yield request.getfixturevalue(name), kwargs | negative, "true_cfg_scale"
    else:
        yield request.getfixturevalue(name), kwargs, "guidance_scale"


@pytest.mark.parametrize("seed", range(2))
def test_left_out_guidance_branches_with_caches_of_every_kind(
    guided_case: tuple[Any, dict[str, Any], str], seed: int, tmp_path: Path
) -> None:
    pipe, kwargs, scale = guided_case
    schedule, _ = planned((pipe, kwargs), seed)
    rng = np.random.default_rng(seed)
    both = GuidanceAction.BOTH
    rows = [both, *rng.choice([*GuidanceAction, both, both], n_calls(pipe, kwargs) - 1)]
    rows[5] = (0.25,)
    schedule = dataclasses.replace(
        schedule, guidance=tuple(GuidanceAction(r) if isinstance(r, str) else r for r in rows)
    )
    for part in (schedule, dataclasses.replace(schedule, cache=None)):
        attach(pipe, part)
        expected = run(pipe, kwargs)
        remove(pipe)
        before = attributes(pipe)
        undo = load_script(diffusers_script(part, list_inventory(pipe)), tmp_path).apply_plan(pipe)
        try:
            torch.testing.assert_close(run(pipe, kwargs), expected, rtol=1e-5, atol=1e-5)
            with pytest.raises(ValueError, match="not guided: raise guidance_scale"):
                run(pipe, kwargs, **{scale: 1.0})
            torch.testing.assert_close(run(pipe, kwargs), expected, rtol=1e-5, atol=1e-5)
        finally:
            undo()
        assert attributes(pipe) == before


def test_published_architectures_too(random_case: Case, tmp_path: Path) -> None:
    pipe, kwargs = random_case
    schedule, kwargs = planned((pipe, kwargs), 1, num_inference_steps=6)
    attach(pipe, schedule)
    expected = run(pipe, kwargs)
    remove(pipe)
    undo = load_script(diffusers_script(schedule, list_inventory(pipe)), tmp_path).apply_plan(pipe)
    try:
        assert torch.equal(run(pipe, kwargs), expected)
    finally:
        undo()


ALONE = """
import sys
import numpy as np, torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
from plan import apply_plan
apply_plan(pipe)
kwargs = eval(sys.argv[2])
out = pipe(**kwargs, generator=torch.Generator().manual_seed(7), return_dict=False)[0]
assert not any(name.split(".")[0] == "autotune" for name in sys.modules)
np.save("out.npy", out.numpy())
"""


@pytest.mark.parametrize("name", ["flux_pipe", "pixart_pipe", "sd_pipe"])
def test_a_process_without_this_package_makes_the_same_latents(
    name: str, small_args: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pipe = request.getfixturevalue(name)
    kwargs = {**small_args(f"mini-{name.removesuffix('_pipe')}"), "num_inference_steps": 8}
    inventory, n = list_inventory(pipe), n_calls(pipe, kwargs)
    actions = even_actions(n, 3)
    actions[-1] = CacheAction.NEWTON_2
    guidance = None
    if name != "flux_pipe":
        guidance = tuple(GuidanceAction.BOTH if i % 2 == 0 else GuidanceAction.LINEAR for i in range(n))
    schedule = Schedule(n_steps=8, cache=on_sites(actions, inventory, inventory.outermost), guidance=guidance)
    plain = run(pipe, kwargs)
    attach(pipe, schedule)
    expected = run(pipe, kwargs)
    remove(pipe)
    assert not torch.allclose(plain, expected, rtol=1e-3, atol=1e-3)
    pipe.save_pretrained(tmp_path / "model")
    (tmp_path / "plan.py").write_text(diffusers_script(schedule, inventory))
    (tmp_path / "alone.py").write_text(ALONE)
    hidden = tmp_path / "autotune"
    hidden.mkdir()
    (hidden / "__init__.py").write_text("raise ImportError('not here')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": ""}
    command = [sys.executable, "alone.py", str(tmp_path / "model"), repr(kwargs)]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300)
    torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "out.npy")), expected, rtol=1e-5, atol=1e-5)


def test_what_a_script_cannot_do(pixart_pipe: Any) -> None:
    inventory = list_inventory(pixart_pipe)
    table = np.zeros((4, len(inventory)), np.uint8)
    with pytest.raises(ScheduleError, match="only a schedule that caches"):
        diffusers_script(Schedule(n_steps=4, cache=CachePlan.from_array(table)), inventory)
    with pytest.raises(ScheduleError, match="only a schedule that caches"):
        diffusers_script(Schedule(n_steps=4), inventory)
    table[3, 0] = CacheAction.REUSE
    column = (GuidanceAction.CONDITIONAL,) * 3 + (GuidanceAction.BOTH,)
    with pytest.raises(ScheduleError, match=r"call 3 reads a value of final .* run both branches in the first call"):
        diffusers_script(Schedule(n_steps=4, cache=CachePlan.from_array(table), guidance=column), inventory)


def test_streams_are_those_of_the_adapters(random_pipes: dict[str, Any], flux_pipe: Any, pixart_pipe: Any) -> None:
    for pipe in (*random_pipes.values(), flux_pipe, pixart_pipe):
        denoiser = denoiser_of(pipe)
        name = type(denoiser).__name__
        for span in ADAPTERS[name].list_spans(denoiser).values():
            assert (len(span.streams) == 2) == (name in exporter.TWO_STREAMS)


def test_copied_components_are_those_of_the_adapters() -> None:
    assert frozenset().union(*(adapter.copied for adapter in ADAPTERS.values())) == exporter.COPIED


def test_batched_guidance_is_that_of_the_adapters() -> None:
    assert {name for name, adapter in ADAPTERS.items() if adapter.guidance == "batch"} == exporter.BATCHED


def test_the_template_itself_has_no_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile(exporter._TEMPLATE.read_text(), "cached_pipeline.py", "exec")
