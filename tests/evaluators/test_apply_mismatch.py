"""What `apply` refuses or warns of when a schedule file meets another model, sampler or machine."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.apply import applied, apply, attach, remove
from autotune.evaluators.inventory import list_inventory
from autotune.evaluators.noise import noise_schedule_of, prediction_of
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.condition import Condition
from autotune.spaces.errors import ScheduleError, ScheduleMismatchError
from autotune.spaces.noise_schedule import VariancePreserving
from autotune.spaces.schedule import Schedule
from autotune.spaces.schedule_file import ScheduleFile

from .mini_pipelines import run, state
from .schedule_files import all_columns, condition_of, make_scheduler, rows_only


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


def condition_of_plain(pipe: Any) -> Condition:
    """The condition of the pipeline's own scheduler, whatever is applied."""
    own = make_scheduler("DPMSolverMultistepScheduler", pipe.scheduler.config)
    return condition_of(
        pipe, scheduler_class=type(own).__name__, noise_schedule=noise_schedule_of(own), prediction=prediction_of(own)
    )


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


def test_inventory_of_another_class_is_refused(pixart_pipe: Any, flux_pipe: Any) -> None:
    with pytest.raises(ScheduleMismatchError, match="got one of FluxTransformer2DModel for a PixArtTransformer2DModel"):
        attach(pixart_pipe, rows_only(flux_pipe), inventory=list_inventory(flux_pipe))
