"""The differentiable run: the pipeline's own, with exact gradients, and nothing left behind."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.apply import attach, remove
from autotune.evaluators.gradient_run import ProgramTensors, flatten, run_with_gradient
from autotune.evaluators.noise import noise_schedule_of, own_timesteps, prediction_of
from autotune.evaluators.sampling import run_pipeline
from autotune.evaluators.solver_scheduler import SolverProgramScheduler
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_program import compile_program
from autotune.spaces.solvers import make_solver

from .gradient_cases import MODELS, PROMPTS, GradientCase, gradient_case, leaf
from .mini_pipelines import denoiser_of, state
from .random_pipelines import random_args

KINDS = ("plain", "start", "correction", "both", "compensation", "cached", "gained")


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> Iterator[GradientCase]:
    made = gradient_case(request.param)
    yield made
    remove(made.pipe)


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    assert torch.isfinite(a).all()
    return float((a - b).double().norm() / b.double().norm())


def measured(case: GradientCase, schedule: Schedule) -> torch.Tensor:
    """Latents of the same schedule as a user runs it."""
    attach(case.pipe, schedule)
    arguments = {"num_inference_steps": schedule.n_steps, **case.arguments}
    samples = run_pipeline(case.pipe, case.embeddings, PROMPTS, batch_size=2, arguments=arguments)
    remove(case.pipe)
    return samples.latents


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_those_of_the_applied_schedule(case: GradientCase, kind: str) -> None:
    schedule = case.schedule(kind)
    expected = measured(case, schedule)
    latents = case.run(schedule, ProgramTensors.unflatten(leaf(case.program(schedule))))
    assert latents.requires_grad
    assert gap(latents.detach(), expected) < 1e-5


@pytest.mark.parametrize("kind", ["plain", "start", "correction", "cached"])
def test_the_schedule_has_an_effect(case: GradientCase, kind: str) -> None:
    """Else the test above would compare equal mistakes."""
    others = {"plain": "compensation", "start": "plain", "correction": "plain", "cached": "plain"}
    assert gap(measured(case, case.schedule(kind)), measured(case, case.schedule(others[kind]))) > 1e-3


def gradient(case: GradientCase, schedule: Schedule, *, checkpointed: bool) -> torch.Tensor:
    flat = leaf(case.program(schedule))
    latents = case.run(schedule, ProgramTensors.unflatten(flat), checkpointed=checkpointed)
    (latents * weights_like(latents)).sum().backward()  # type: ignore[no-untyped-call]
    assert flat.grad is not None
    return flat.grad


def weights_like(latents: torch.Tensor) -> torch.Tensor:
    return torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))


def test_checkpointing_changes_no_gradient(case: GradientCase) -> None:
    schedule = case.schedule("both")
    assert gap(gradient(case, schedule, checkpointed=True), gradient(case, schedule, checkpointed=False)) < 1e-5


def test_checkpoints_are_at_blocks_within_those_of_calls(case: GradientCase) -> None:
    """A block computes in the call, again where its call's backward pass begins, and again before its own."""
    block = next(m for m in denoiser_of(case.pipe).modules() if type(m).__name__.endswith(("Block", "ResnetBlock2D")))
    n_steps, calls = 3, [0]
    hook = block.register_forward_pre_hook(lambda *_: calls.append(calls.pop() + 1))
    gradient(case, case.schedule("plain"), checkpointed=False)
    assert calls == [n_steps]
    gradient(case, case.schedule("plain"), checkpointed=True)
    hook.remove()
    assert calls == [n_steps + 3 * n_steps]


@pytest.mark.parametrize("kind", ["start", "cached", "gained"])
def test_gradients_are_central_differences_of_the_run(case: GradientCase, kind: str) -> None:
    """Of a coefficient of each kind: timesteps, states, outputs, gains of guidance, the scale of the starting noise.

    They flow through what a cache hands out and what stands in for a dropped branch, too.
    """
    schedule = case.schedule(kind)
    grads = gradient(case, schedule, checkpointed=False)
    base = flatten(case.program(schedule))
    n = 3
    # Networks see timesteps through sines of up to 1 radian per timestep: only small moves are linear. What
    # forecasts make of a move is less so; stored values without their graph would halve one of these at least.
    sizes = {2: 0.1, n: 4e-3, n + n: 4e-3, n + n * n: 4e-3, n + n * n + n + 1: 4e-3}
    sizes |= {2 * n * n + n: 4e-3, 2 * n * n + n + 2: 4e-3, 2 * n * n + 2 * n: 4e-3}
    precision = {"start": 1e-2, "cached": 3e-2, "gained": 5e-2}[kind]
    moves_guidance = kind == "gained" and case.is_guided
    assert moves_guidance == bool(grads[2 * n * n + n : 2 * n * n + 2 * n].all())
    for i, size in sizes.items():
        values = []
        for sign in (1.0, -1.0):
            moved = base.clone()
            moved[i] += sign * size
            with torch.no_grad():
                latents = case.run(schedule, ProgramTensors.unflatten(moved.float()))
            values.append(float((latents.double() * weights_like(latents)).sum()))
        assert float(grads[i]) == pytest.approx((values[0] - values[1]) / (2.0 * size), rel=precision), i


def test_the_pipeline_is_as_before(case: GradientCase) -> None:
    pipe = case.pipe
    schedule = case.schedule("both")
    tensors = ProgramTensors.unflatten(leaf(case.program(schedule)))
    before_image, before = measured(case, Schedule(n_steps=3)), state(pipe)
    case.run(schedule, tensors, checkpointed=True).square().sum().backward()  # type: ignore[no-untyped-call]
    assert state(pipe) == before
    assert torch.equal(measured(case, Schedule(n_steps=3)), before_image)
    assert all(p.grad is None for p in denoiser_of(pipe).parameters())


@pytest.mark.parametrize("call", [0, 2])
def test_the_pipeline_is_as_before_also_when_the_call_raises(case: GradientCase, call: int) -> None:
    pipe, n_calls = case.pipe, 0
    schedule = case.schedule("start")
    tensors = ProgramTensors.unflatten(leaf(case.program(schedule)))
    before_image, before = measured(case, Schedule(n_steps=3)), state(pipe)

    def fail(*_: object) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls > call:
            raise MemoryError("planned")

    hook = denoiser_of(pipe).register_forward_pre_hook(fail)
    with pytest.raises(MemoryError, match="planned"):
        case.run(schedule, tensors)
    hook.remove()
    assert state(pipe) == before
    assert torch.equal(measured(case, Schedule(n_steps=3)), before_image)


def test_flat_coefficients_are_a_program(case: GradientCase) -> None:
    program = case.program(case.schedule("both", 5))
    tensors: Any = ProgramTensors.unflatten(flatten(program))
    for name in ("timesteps", "state_coefs", "output_coefs"):
        np.testing.assert_array_equal(getattr(tensors, name), getattr(program, name))
    assert float(tensors.initial_scale) == program.initial_scale != 1.0


def test_an_autoencoder_that_decodes_in_float32_goes_back_to_half_precision(random_pipes: dict[str, Any]) -> None:
    """SDXL's pipeline raises its precision before it decodes, where the call ends."""
    pipe = random_pipes["sdxl"]
    noise, prediction = noise_schedule_of(pipe.scheduler, 0.0), prediction_of(pipe.scheduler)
    times = own_timesteps(pipe.scheduler, 3, 0.0)
    schedule = Schedule(n_steps=3, time=times, solver=make_solver("euler", 3, noise))
    tensors = ProgramTensors.unflatten(leaf(compile_program(schedule, noise, prediction)))
    scheduler = SolverProgramScheduler.from_schedule(schedule, pipe.scheduler, noise, prediction)
    arguments = {name: value for name, value in random_args("sdxl").items() if name != "output_type"}
    assert pipe.vae.config.force_upcast
    pipe.vae.to(torch.float16)
    try:
        latents = run_with_gradient(pipe, scheduler, tensors, {}, [0, 1], arguments)
        assert torch.isfinite(latents).all()
        assert pipe.vae.dtype == torch.float16
    finally:
        pipe.vae.to(torch.float32)
