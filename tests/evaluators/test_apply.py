"""Applying schedule files to pipelines that a user built, and taking them off."""

import dataclasses
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from autotune.evaluators.apply import applied, apply, attach, remove
from autotune.evaluators.hardware import device_name
from autotune.evaluators.inventory import list_inventory
from autotune.evaluators.noise import flow_mu, noise_schedule_of, own_timesteps, prediction_of
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.condition import Condition
from autotune.spaces.errors import ScheduleError, ScheduleMismatchError, UnsupportedModelError
from autotune.spaces.noise_schedule import VariancePreserving
from autotune.spaces.schedule import GuidanceAction, Schedule, canonical_schedule
from autotune.spaces.schedule_file import ScheduleFile, save_schedule_file
from autotune.spaces.solver_step import SolverStep

Case = tuple[Any, dict[str, Any]]
BOTH, STORED = GuidanceAction.BOTH, GuidanceAction.STORED


@pytest.fixture(autouse=True)
def _clean(flux_pipe: Any, pixart_pipe: Any, sd_pipe: Any) -> Iterator[None]:
    yield
    for pipe in (flux_pipe, pixart_pipe, sd_pipe):
        remove(pipe)


def run(pipe: Any, kwargs: dict[str, Any], **changes: Any) -> torch.Tensor:
    images = pipe(**{**kwargs, **changes}, generator=torch.Generator().manual_seed(7)).images
    assert isinstance(images, torch.Tensor)
    return images


def make_scheduler(name: str, config: Any) -> Any:
    return getattr(diffusers, name).from_config(config)


def condition_of(pipe: Any, **changes: Any) -> Condition:
    condition = Condition(
        model=Path(pipe.config._name_or_path).name,
        revision="r",
        pipeline_class=type(pipe).__name__,
        inventory_hash=list_inventory(pipe).hash,
        noise_schedule=noise_schedule_of(pipe.scheduler, flow_mu(pipe, 32, 32)),
        prediction=prediction_of(pipe.scheduler),
        scheduler_class=type(pipe.scheduler).__name__,
        start_timestep=999.0,
        height=32,
        width=32,
        batch_size=1,
        dtype="float32",
        guidance_scale=3.0,
        n_steps=4,
        device=device_name(torch.device("cpu")),
    )
    return dataclasses.replace(condition, **changes)


def all_columns(pipe: Any, n_steps: int = 4) -> Schedule:
    """Time, solver, cache and, where the model is guided, guidance."""
    inventory = list_inventory(pipe)
    flow = type(pipe).__name__ == "FluxPipeline"
    time = own_timesteps(pipe.scheduler, n_steps, flow_mu(pipe, 32, 32))
    if type(pipe.scheduler).__name__ == "PNDMScheduler":
        time = tuple(sorted(set(time), reverse=True))
    view, domain = ("velocity", "sigma") if flow else ("data", "lambda")
    step = SolverStep(view=view, domain=domain, order=2)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    schedule = Schedule(
        n_steps=n_steps,
        time=time,
        solver=(step,) * n_steps,
        cache=CachePlan.from_array(rng.random((n_steps, len(inventory))) < 0.3),
        guidance=None if flow else (BOTH, STORED, BOTH, STORED)[:n_steps],
    )
    return canonical_schedule(schedule, inventory)


def rows_only(pipe: Any, n_rows: int = 4) -> Schedule:
    inventory = list_inventory(pipe)
    table = np.zeros((n_rows, len(inventory)))
    table[2, 1::2] = 1
    plan = canonical_schedule(Schedule(n_steps=4, cache=CachePlan.from_array(table)), inventory)
    return plan


def state(pipe: Any) -> Any:
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    owners = (pipe, pipe.scheduler, *denoiser.modules())
    return [sorted(vars(owner)) for owner in owners], dict(pipe.config), id(pipe.scheduler)


def test_every_column_works_together_and_removal_is_exact(pipe_case: Case, tmp_path: Path) -> None:
    pipe, kwargs = pipe_case
    plain = run(pipe, kwargs)
    before = state(pipe)
    file = ScheduleFile(schedule=all_columns(pipe), condition=condition_of(pipe))
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


def other_inventory(pipe: Any) -> dict[str, Any]:
    return {"inventory_hash": "f" * 64}


def other_noise(pipe: Any) -> dict[str, Any]:
    return {"noise_schedule": VariancePreserving(beta_schedule="linear", beta_start=0.0001, beta_end=0.03)}


def other_prediction(pipe: Any) -> dict[str, Any]:
    return {"prediction": "data"}


def other_scheduler(pipe: Any) -> dict[str, Any]:
    return {"scheduler_class": "DDIMScheduler"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (other_inventory, r"inventory hash is ffffffffffff, the PixArtTransformer2DModel here has [0-9a-f]{12}"),
        (other_noise, r"beta_end=0.03.*DPMSolverMultistepScheduler has .*beta_end=0.02.*load mini-pixart"),
        (other_prediction, r"made for 'data'.*DPMSolverMultistepScheduler says 'noise'"),
        (other_scheduler, r"made for DDIMScheduler, the pipeline has DPMSolver.*DDIMScheduler.from_config"),
    ],
)
def test_schedule_of_another_model_or_sampler_is_refused_and_nothing_changes(
    pixart_pipe: Any, change: Callable[[Any], dict[str, Any]], says: str
) -> None:
    run_before = state(pixart_pipe)
    condition = condition_of(pixart_pipe, **change(pixart_pipe))
    with pytest.raises(ScheduleMismatchError, match=says):
        apply(pixart_pipe, ScheduleFile(schedule=rows_only(pixart_pipe), condition=condition))
    assert state(pixart_pipe) == run_before


def test_failed_apply_keeps_the_schedule_that_is_applied(pixart_pipe: Any, small_args: Any) -> None:
    kwargs = small_args("mini-pixart")
    apply(pixart_pipe, ScheduleFile(schedule=all_columns(pixart_pipe), condition=condition_of_plain(pixart_pipe)))
    fast = run(pixart_pipe, kwargs)
    wrong = dataclasses.replace(condition_of_plain(pixart_pipe), inventory_hash="0" * 64)
    with pytest.raises(ScheduleMismatchError):
        apply(pixart_pipe, ScheduleFile(schedule=rows_only(pixart_pipe), condition=wrong))
    with pytest.raises(ScheduleError, match="one column per site"):
        attach(pixart_pipe, Schedule(n_steps=4, cache=CachePlan.from_array(np.ones((4, 3)))))
    assert torch.equal(run(pixart_pipe, kwargs), fast)


def condition_of_plain(pipe: Any) -> Condition:
    """The condition of the pipeline's own scheduler, whatever is applied."""
    own = make_scheduler("DPMSolverMultistepScheduler", pipe.scheduler.config)
    return condition_of(
        pipe, scheduler_class=type(own).__name__, noise_schedule=noise_schedule_of(own), prediction=prediction_of(own)
    )


def test_a_solver_column_brings_its_own_sampler_so_the_scheduler_may_differ(sd_pipe: Any, small_args: Any) -> None:
    file = ScheduleFile(schedule=all_columns(sd_pipe), condition=condition_of(sd_pipe))
    with applied(sd_pipe, file):
        expected = run(sd_pipe, small_args("mini-sd"))
    scheduler = sd_pipe.scheduler
    sd_pipe.scheduler = make_scheduler("DDIMScheduler", scheduler.config)
    with applied(sd_pipe, file):
        result = run(sd_pipe, small_args("mini-sd"))
    sd_pipe.scheduler = scheduler
    assert torch.equal(result, expected)


def test_dynamic_shift_of_another_resolution_is_no_mismatch(flux_pipe: Any, small_args: Any) -> None:
    file = ScheduleFile(schedule=all_columns(flux_pipe), condition=condition_of(flux_pipe))
    with (
        applied(flux_pipe, file),
        pytest.warns(UserWarning, match=r"latents of shape \(64, 16\); this run has \(144, 16\)"),
    ):
        assert run(flux_pipe, small_args("mini-flux", size=48)).shape[-2] == 144


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dtype": "bfloat16"}, "measured in bfloat16, the pipeline is in float32"),
        ({"device": "NVIDIA Abacus"}, "measured on NVIDIA Abacus, the pipeline is on"),
        ({"model": "PixArt-alpha/PixArt-XL-2-512x512"}, "PixArt-XL-2-512x512, the pipeline was loaded from"),
    ],
)
def test_another_dtype_device_or_model_id_warns(pixart_pipe: Any, change: dict[str, Any], says: str) -> None:
    with pytest.warns(UserWarning, match=says):
        apply(
            pixart_pipe,
            ScheduleFile(schedule=rows_only(pixart_pipe), condition=condition_of(pixart_pipe, **change)),
        )


def test_another_step_count_is_refused_with_the_one_to_pass(pixart_pipe: Any, small_args: Any) -> None:
    attach(pixart_pipe, rows_only(pixart_pipe))
    with pytest.raises(ScheduleMismatchError, match="num_inference_steps=4"):
        run(pixart_pipe, small_args("mini-pixart", steps=6))
    run(pixart_pipe, small_args("mini-pixart"))


def test_scheduler_that_was_replaced_after_applying_is_refused_and_survives_removal(
    pixart_pipe: Any, small_args: Any
) -> None:
    original = pixart_pipe.scheduler
    attach(pixart_pipe, all_columns(pixart_pipe))
    theirs = make_scheduler("DDIMScheduler", original.config)
    pixart_pipe.scheduler = theirs
    with pytest.raises(ScheduleMismatchError, match=r"replaced by a DDIMScheduler; call autotune\.remove"):
        run(pixart_pipe, small_args("mini-pixart"))
    remove(pixart_pipe)
    assert pixart_pipe.scheduler is theirs
    run(pixart_pipe, small_args("mini-pixart"))
    pixart_pipe.scheduler = original


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


def test_inventory_of_another_class_is_refused(pixart_pipe: Any, flux_pipe: Any) -> None:
    with pytest.raises(ScheduleMismatchError, match="got one of FluxTransformer2DModel for a PixArtTransformer2DModel"):
        attach(pixart_pipe, rows_only(flux_pipe), inventory=list_inventory(flux_pipe))


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
