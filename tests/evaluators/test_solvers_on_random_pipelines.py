"""Solver schedules inside SD3, SDXL, Qwen-Image and Wan, whose schedulers shift, stretch or round their grids."""

import functools
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.apply import apply, attach, remove
from autotune.evaluators.inventory import list_inventory
from autotune.evaluators.noise import flow_mu, noise_schedule_of, own_timesteps
from autotune.evaluators.solver_scheduler import SolverProgramScheduler
from autotune.spaces.noise_schedule import Flow
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.schedule_file import ScheduleFile, save_schedule_file
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import shift_flow_times

from .mini_pipelines import denoiser_of, random_plan, run, state
from .naive_cache import Naive
from .random_pipelines import QWEN_SCHEDULER, SEQUENTIAL, random_args
from .schedule_files import condition_of

D: Any = diffusers  # its constructors are untyped
UNIPC: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
N = 6

CASES: list[tuple[str, Any, str]] = [
    ("sd3", D.FlowMatchEulerDiscreteScheduler(shift=3.0), "euler"),
    ("sd3", D.UniPCMultistepScheduler(flow_shift=3.0, **UNIPC), "unipc-2"),
    ("qwen-image", D.FlowMatchEulerDiscreteScheduler(**QWEN_SCHEDULER), "euler"),
    ("qwen-image", D.UniPCMultistepScheduler(use_dynamic_shifting=True, shift_terminal=0.02, **UNIPC), "unipc-2"),
    ("wan", D.UniPCMultistepScheduler(flow_shift=3.0, **UNIPC), "unipc-2"),
    ("wan", D.FlowMatchEulerDiscreteScheduler(shift=3.0), "euler"),
]


@pytest.fixture
def pipes(random_pipes: dict[str, Any]) -> Any:
    """The random pipelines, without schedules and with their own schedulers afterwards."""
    before = {name: pipe.scheduler for name, pipe in random_pipes.items()}
    yield random_pipes
    for name, pipe in random_pipes.items():
        remove(pipe)
        pipe.scheduler = before[name]


def run_with_levels(pipe: Any, kwargs: dict[str, Any]) -> tuple[torch.Tensor, list[float]]:
    """Latents of a run, and the scheduler's level of noise at each of its steps."""
    levels: list[float] = []
    step = pipe.scheduler.step

    @functools.wraps(step)
    def watched(*args: Any, **options: Any) -> Any:
        levels.append(float(pipe.scheduler.sigmas[len(levels)]))
        return step(*args, **options)

    pipe.scheduler.step = watched
    latents = run(pipe, kwargs)
    del pipe.scheduler.step
    return latents, levels


def own_grid(pipe: Any, kwargs: dict[str, Any]) -> tuple[tuple[float, ...], Any]:
    """The pipeline's own timesteps for a run, and what they stand for."""
    dynamic = pipe.scheduler.config.get("use_dynamic_shifting")
    mu = flow_mu(pipe, kwargs["height"], kwargs["width"]) if dynamic else None
    times = own_timesteps(pipe.scheduler, N, mu, even_sigmas=find_adapter(pipe).even_sigmas)
    return times, noise_schedule_of(pipe.scheduler, mu)


def own_schedule(pipe: Any, kwargs: dict[str, Any], solver: str) -> tuple[Schedule, Any]:
    times, noise = own_grid(pipe, kwargs)
    return Schedule(n_steps=N, time=times, solver=make_solver(solver, N, noise)), noise


@pytest.mark.parametrize(("name", "scheduler", "solver"), CASES)
def test_schedule_of_the_pipelines_own_solver_equals_it(
    pipes: dict[str, Any], name: str, scheduler: Any, solver: str
) -> None:
    pipe, kwargs = pipes[name], random_args(name, steps=N)
    pipe.scheduler = scheduler
    plain, levels = run_with_levels(pipe, kwargs)
    before = state(pipe)
    schedule, noise = own_schedule(pipe, kwargs, solver)
    np.testing.assert_allclose(schedule.time or (), 1000 * np.array(levels), rtol=1e-6)
    attach(pipe, schedule, noise=noise)
    program = pipe.scheduler.program
    if scheduler.config.get("use_flow_sigmas"):
        # Theirs calls the network at timesteps rounded down.
        pipe.scheduler.program = replace(program, timesteps=np.floor(program.timesteps))
    ours = run(pipe, kwargs)
    assert float((ours - plain).norm() / plain.norm()) < 1e-3
    remove(pipe)
    assert torch.equal(run(pipe, kwargs), plain)
    assert state(pipe) == before


def test_sdxl_equals_its_own_solver_without_churn(pipes: dict[str, Any]) -> None:
    pipe, kwargs = pipes["sdxl"], random_args("sdxl", steps=N)
    pipe.scheduler = D.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    plain = run(pipe, kwargs)
    schedule, noise = own_schedule(pipe, kwargs, "dpmpp-2m")
    attach(pipe, schedule, noise=noise)
    assert float((run(pipe, kwargs) - plain).norm() / plain.norm()) < 1e-3


@pytest.mark.parametrize("name", ["sd3", "sdxl", "qwen-image", "wan"])
def test_cache_and_solver_together_equal_the_naive_cache_under_the_solver(pipes: dict[str, Any], name: str) -> None:
    pipe, kwargs = pipes[name], random_args(name, steps=N)
    _, noise = own_grid(pipe, kwargs)
    times = tuple(np.linspace(0.9, 0.05, N) * noise.t_max)
    solver = Schedule(n_steps=N, time=times, solver=make_solver("dpmpp-3m", N, noise))
    plan = random_plan(pipe, kwargs, 8)
    attach(pipe, solver)
    with Naive(pipe, plan, calls_per_row=2 if name in SEQUENTIAL else 1):
        expected = run(pipe, kwargs)
    attach(pipe, replace(solver, cache=plan))
    assert torch.equal(run(pipe, kwargs), expected)
    assert torch.equal(run(pipe, kwargs), expected)


@pytest.mark.parametrize("name", ["sd3", "sdxl", "qwen-image", "wan"])
def test_a_file_applies_and_tells_another_size(
    pipes: dict[str, Any], name: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Wan's size is that of the pipeline's default number of frames."""
    pipe, kwargs = pipes[name], random_args(name, steps=N)
    schedule, noise = own_schedule(pipe, kwargs, "dpmpp-2m")
    schedule = canonical_schedule(replace(schedule, cache=random_plan(pipe, kwargs, 9)), list_inventory(pipe))
    attach(pipe, schedule, noise=noise)
    expected = run(pipe, kwargs)
    size = {"height": kwargs["height"], "width": kwargs["width"], "noise_schedule": noise}
    file = ScheduleFile(schedule=schedule, condition=condition_of(pipe, **size))
    save_schedule_file(tmp_path / "s.json", file)
    recwarn.clear()
    apply(pipe, tmp_path / "s.json")
    assert torch.equal(run(pipe, kwargs), expected)
    told = [str(w.message) for w in recwarn if "measured for latents" in str(w.message)]
    assert told == (
        ["the schedule was measured for latents of shape (4, 21, 4, 4); this run has (4, 2, 4, 4): its speed and "
         "quality may differ"] if name == "wan" else []
    )  # fmt: skip


def test_grid_of_qwen_image_moves_with_the_resolution(pipes: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    pipe, kwargs = pipes["qwen-image"], random_args("qwen-image", steps=N)
    schedule, noise = own_schedule(pipe, kwargs, "unipc-2")
    called: list[float] = []
    hook = denoiser_of(pipe).register_forward_pre_hook(
        lambda m, a, k: called.append(1000 * float(k["timestep"][0])), with_kwargs=True
    )
    larger = {**kwargs, "height": 128}
    attach(pipe, schedule, noise=noise)
    with caplog.at_level(logging.WARNING, "autotune"):
        run(pipe, larger)
    assert "time shift" in caplog.text
    change = (flow_mu(pipe, 128, 64) or 0.0) - (flow_mu(pipe, 64, 64) or 0.0)
    assert change > 0
    assert called[::2] == pytest.approx(shift_flow_times(schedule.time or (), change), rel=1e-5)
    called.clear()
    attach(pipe, schedule)  # made for these very timesteps
    run(pipe, larger)
    hook.remove()
    assert called[::2] == pytest.approx(schedule.time, rel=1e-5)


@pytest.mark.parametrize(
    "theirs",
    [
        D.FlowMatchEulerDiscreteScheduler(shift=3.0),
        D.EulerDiscreteScheduler(timestep_spacing="leading"),
        D.DPMSolverMultistepScheduler(),
    ],
)
def test_sigmas_are_those_of_diffusers(theirs: Any) -> None:
    """Wan's pipeline reads them."""
    noise = noise_schedule_of(theirs)
    times = own_timesteps(theirs, 5, even_sigmas=False)
    plan = Schedule(n_steps=5, time=times, solver=make_solver("euler", 5, noise))
    ours = SolverProgramScheduler.from_schedule(plan, theirs, noise, "velocity" if isinstance(noise, Flow) else "noise")
    theirs.set_timesteps(5)
    ours.set_timesteps(5)
    torch.testing.assert_close(ours.sigmas, theirs.sigmas, rtol=2e-4, atol=0)
