"""Guidance whose strength changes from call to call, as part of a solver."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.apply import attach, remove
from autotune.evaluators.fit_column import fit_column
from autotune.evaluators.gradient_fit import FitSettings
from autotune.evaluators.gradient_run import ProgramTensors, flatten
from autotune.evaluators.load import load_model
from autotune.evaluators.noise import noise_schedule_of, own_timesteps
from autotune.evaluators.worker import Worker
from autotune.spaces.cache_policy import CachePolicy, PolicyKind
from autotune.spaces.column_fit import FitColumn
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

from .gradient_cases import PROMPTS, gradient_case
from .mini_pipelines import random_plan, run, state
from .random_pipelines import random_args

N = 4
Case = tuple[Any, dict[str, Any], str]


@pytest.fixture(params=["mini-pixart", "mini-sd", "sd3", "sdxl", "qwen-image", "wan", "mini-flux"])
def guided(
    request: pytest.FixtureRequest, random_pipes: dict[str, Any], small_args: Callable[..., Any]
) -> Iterator[Case]:
    """A pipeline, a guided run of it, and what its guidance scale is called."""
    name = request.param
    if name in random_pipes:
        pipe, kwargs = random_pipes[name], random_args(name, steps=N)
    else:
        pipe = request.getfixturevalue(name.removeprefix("mini-") + "_pipe")
        kwargs = small_args(name, steps=N)
        kwargs |= {"negative_prompt": "a dog", "true_cfg_scale": 2.5} if name == "mini-flux" else {}
    yield pipe, kwargs, "true_cfg_scale" if name in ("qwen-image", "mini-flux") else "guidance_scale"
    remove(pipe)


def schedule_of(pipe: Any, *gains: float) -> Schedule:
    noise = noise_schedule_of(pipe.scheduler, 0.0)
    times = uniform_lambda(noise, N, t_start=own_timesteps(pipe.scheduler, 20, 0.5)[0], t_end=30.0)
    rows = zip(make_solver("unipc-2", N, noise), gains, strict=True)
    solver = tuple(replace(row, guidance_gain=gain) for row, gain in rows if isinstance(row, SolverStep))
    return Schedule(n_steps=N, time=times, solver=solver)


def drawn(pipe: Any, schedule: Schedule, kwargs: dict[str, Any], **changes: Any) -> torch.Tensor:
    attach(pipe, schedule)
    return run(pipe, kwargs, **changes)


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    assert torch.isfinite(a).all()
    return float((a - b).double().norm() / b.double().norm())


def states_of(pipe: Any, schedule: Schedule, kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """What each step of a schedule is called with."""
    attach(pipe, schedule)
    states: list[torch.Tensor] = []
    step = pipe.scheduler.step

    def keep(output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **options: Any) -> Any:
        states.append(sample.clone())
        return step(output, timestep, sample, *args, **options)

    pipe.scheduler.step = keep
    run(pipe, kwargs)
    pipe.scheduler.step = step
    return states


@pytest.mark.parametrize("columns", ["alone", "cached", "one branch"])
def test_a_gain_is_another_guidance_scale(guided: Case, columns: str) -> None:
    """With the same gain in all rows: 1 + gain (s - 1), also where a branch is estimated or outputs are reused."""
    pipe, kwargs, name = guided
    schedule, scale, gain = schedule_of(pipe, *[1.0] * N), kwargs[name], 0.6
    gained = schedule_of(pipe, *[gain] * N)
    more: dict[str, Any] = {}
    if columns == "cached":
        steps = N - (type(pipe.scheduler).__name__ == "PNDMScheduler")  # which calls the network once more than others
        more = {"cache": random_plan(pipe, {**kwargs, "num_inference_steps": steps}, 0, forecasts=True)}
    elif columns == "one branch":
        more = {"guidance": (*(GuidanceAction.BOTH,) * (N - 2), GuidanceAction.LINEAR, GuidanceAction.STORED)}
    schedule, gained = replace(schedule, **more), replace(gained, **more)
    expected = drawn(pipe, schedule, kwargs, **{name: 1.0 + gain * (scale - 1.0)})
    found = drawn(pipe, gained, kwargs)
    assert gap(found, expected) < 1e-5
    assert gap(found, drawn(pipe, schedule, kwargs)) > 1e-3


def test_a_policy_goes_with_a_gain(pixart_pipe: Any, small_args: Callable[..., Any]) -> None:
    """One that skips every second call, whatever its outputs are."""
    kwargs = small_args("mini-pixart", steps=N)
    policy = CachePolicy(kind=PolicyKind.FIRST_BLOCK, threshold=1e9, max_skips=1)
    plan, gained = (replace(schedule_of(pixart_pipe, *[gain] * N), policy=policy) for gain in (1.0, 0.6))
    expected = drawn(pixart_pipe, plan, kwargs, guidance_scale=1.0 + 0.6 * (kwargs["guidance_scale"] - 1.0))
    found = drawn(pixart_pipe, gained, kwargs)
    remove(pixart_pipe)
    assert gap(found, expected) < 1e-5


def test_each_row_has_its_own(guided: Case) -> None:
    """What a gain changes begins in its row; the pipeline is as before after the schedule is gone."""
    pipe, kwargs, _ = guided
    plain, before = run(pipe, kwargs), state(pipe)
    plan, gained = (states_of(pipe, schedule_of(pipe, 1.0, gain, 1.0, 1.0), kwargs) for gain in (1.0, 0.7))
    assert len(plan) == N
    assert [torch.equal(a, b) for a, b in zip(plan, gained, strict=True)] == [True, True, False, False]
    remove(pipe)
    assert state(pipe) == before
    assert torch.equal(run(pipe, kwargs), plain)


def test_it_needs_guidance(pixart_pipe: Any, flux_pipe: Any, small_args: Callable[..., Any]) -> None:
    with pytest.raises(ScheduleMismatchError, match="a guidance_gain, need classifier-free guidance; this run"):
        drawn(pixart_pipe, schedule_of(pixart_pipe, *[0.5] * N), small_args("mini-pixart", steps=N), guidance_scale=1.0)
    remove(pixart_pipe)
    with pytest.raises(ScheduleMismatchError, match="need classifier-free guidance"):
        drawn(flux_pipe, schedule_of(flux_pipe, *[0.5] * N), small_args("mini-flux", steps=N))
    remove(flux_pipe)


@pytest.mark.parametrize("column", [FitColumn.SOLVER, FitColumn.CORRECTION])
def test_a_fit_finds_the_gains_that_a_run_was_made_with(column: FitColumn) -> None:
    """Of other numbers the run has its own, and the fit may move those, too."""
    case, worker = gradient_case("mini-pixart"), Worker(load_model("mini-pixart"))
    plan, made_with = case.schedule("plain"), (0.6, 1.3, 0.8)
    rows = zip(plan.solver_columns[1], made_with, strict=True)
    target = replace(plan, solver=tuple(replace(r, guidance_gain=g) for r, g in rows if isinstance(r, SolverStep)))
    fitted = fit_column(
        case.pipe,
        plan,
        column,
        condition=worker.condition,
        embeddings=case.embeddings,
        seeds=PROMPTS.seeds,
        reference=case.run(target, ProgramTensors.unflatten(flatten(case.program(target)).float())).detach(),
        arguments=case.arguments,
        settings=FitSettings(rounds=((20, None),) * 2, batch=2, penalty=0.0, damping=1e-3),
        guided=True,
    )
    assert fitted.after < 0.05 * fitted.before
    gains = [row.guidance_gain for row in fitted.schedule.solver_columns[1] if isinstance(row, SolverStep)]
    assert np.linalg.norm(np.subtract(gains, made_with)) < 0.7 * np.linalg.norm(np.subtract(1.0, made_with))
