"""Applying schedule files to pipelines that a user built, and taking them off."""

import dataclasses
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from autotune.evaluators.apply import applied, apply, attach, remove
from autotune.evaluators.inventory import list_inventory
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.errors import UnsupportedModelError
from autotune.spaces.schedule import Schedule
from autotune.spaces.schedule_file import ScheduleFile, save_schedule_file

from .mini_pipelines import run, state
from .schedule_files import all_columns, condition_of

Case = tuple[Any, dict[str, Any]]


def test_every_column_works_together_and_removal_is_exact(pipe_case: Case, tmp_path: Path) -> None:
    pipe, kwargs = pipe_case
    plain = run(pipe, kwargs)
    before = state(pipe)
    condition = condition_of(pipe, guidance_scale=kwargs.get("guidance_scale", 1.0))
    file = ScheduleFile(schedule=all_columns(pipe), condition=condition)
    save_schedule_file(tmp_path / "s.json", file)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        apply(pipe, tmp_path / "s.json")
        fast = run(pipe, kwargs)
        assert torch.equal(run(pipe, kwargs), fast)
        apply(pipe, file)
        assert torch.equal(run(pipe, kwargs), fast)
    assert not torch.equal(fast, plain)
    remove(pipe)
    assert state(pipe) == before
    assert torch.equal(run(pipe, kwargs), plain)
    remove(pipe)
    assert state(pipe) == before


def test_context_manager_removes_also_after_an_error(pixart_pipe: Any, small_args: Any) -> None:
    kwargs = small_args("mini-pixart")
    plain, before = run(pixart_pipe, kwargs), state(pixart_pipe)
    file = ScheduleFile(schedule=all_columns(pixart_pipe), condition=condition_of(pixart_pipe))

    def fail_inside() -> None:
        with applied(pixart_pipe, file):
            assert not torch.equal(run(pixart_pipe, kwargs), plain)
            raise KeyError("planned")

    with pytest.raises(KeyError, match="planned"):
        fail_inside()
    assert state(pixart_pipe) == before


def test_forward_that_was_set_before_is_called_and_restored(sd_pipe: Any, small_args: Any) -> None:
    kwargs = small_args("mini-sd")
    plain = run(sd_pipe, kwargs)
    module, calls = sd_pipe.unet.mid_block, []
    original = module.forward

    def hooked(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs)

    module.forward = hooked
    inventory = list_inventory(sd_pipe)
    table = np.zeros((5, len(inventory)))
    table[1:3, [i for i, s in enumerate(inventory.sites) if s.name == "mid_block"]] = 1
    attach(sd_pipe, Schedule(n_steps=4, cache=CachePlan.from_array(table)))
    run(sd_pipe, kwargs)
    assert len(calls) == 3
    remove(sd_pipe)
    assert vars(module)["forward"] is hooked
    assert torch.equal(run(sd_pipe, kwargs), plain)
    del module.forward


def test_forward_that_was_set_since_stays_and_runs_the_plain_network(pixart_pipe: Any, small_args: Any) -> None:
    kwargs, transformer = small_args("mini-pixart"), pixart_pipe.transformer
    plain = run(pixart_pipe, kwargs)
    attach(pixart_pipe, all_columns(pixart_pipe))
    wrapped = transformer.forward
    transformer.forward = lambda *args, **kwargs: wrapped(*args, **kwargs)
    with pytest.warns(UserWarning, match=r"PixArtTransformer2DModel\.forward was replaced"):
        remove(pixart_pipe)
    assert torch.equal(run(pixart_pipe, kwargs), plain)
    del transformer.forward


def test_solver_column_alone_needs_no_adapter(pixart_pipe: Any) -> None:
    class Unknown(torch.nn.Module):
        pass

    transformer = pixart_pipe.transformer
    solver_only = dataclasses.replace(all_columns(pixart_pipe), cache=None, guidance=None)
    pixart_pipe.transformer = Unknown()
    try:
        attach(pixart_pipe, solver_only)
        remove(pixart_pipe)
        with pytest.raises(UnsupportedModelError, match="got Unknown"):
            attach(pixart_pipe, Schedule(n_steps=1, cache=CachePlan.from_array([[0]])))
    finally:
        pixart_pipe.transformer = transformer


def test_image_to_image_begins_at_its_row(flux_pipe: Any, small_args: Any) -> None:
    make_pipe: Any = diffusers.FluxImg2ImgPipeline
    pipe = make_pipe(
        **{k: v for k, v in flux_pipe.components.items() if k not in ("image_encoder", "feature_extractor")}
    )
    pipe.set_progress_bar_config(disable=True)
    kwargs = {**small_args("mini-flux"), "image": torch.zeros(1, 3, 32, 32), "strength": 0.5}
    plain = run(pipe, kwargs)
    inventory = list_inventory(pipe)
    table = np.zeros((4, len(inventory)))
    table[1] = 1
    attach(pipe, Schedule(n_steps=4, cache=CachePlan.from_array(table)))
    assert torch.equal(run(pipe, kwargs), plain)  # the run covers rows 2 and 3, which recompute all
    table[3] = 1
    attach(pipe, Schedule(n_steps=4, cache=CachePlan.from_array(table)))
    assert not torch.equal(run(pipe, kwargs), plain)
    remove(pipe)


def test_applying_loads_no_search_or_database_library() -> None:
    code = (
        "import sys, autotune.evaluators.apply as a; a.apply, a.remove, a.applied; "
        "print([m for m in ('ray', 'optuna', 'deap', 'sqlalchemy', 'matplotlib', 'typer') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
