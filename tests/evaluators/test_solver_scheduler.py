"""What the scheduler owes to pipelines: its config, its errors and warnings, its memory."""

import copy
import logging
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from autotune.evaluators.noise import noise_schedule_of, own_timesteps
from autotune.evaluators.solver_scheduler import SolverProgramScheduler
from autotune.spaces.errors import ScheduleError
from autotune.spaces.mean_reverting import MeanReverting
from autotune.spaces.noise_schedule import Flow
from autotune.spaces.schedule import Schedule
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import shift_flow_times, uniform_lambda

D: Any = diffusers  # its constructors are untyped


def latents(pipe: Any, n: int, **kwargs: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    images = pipe(
        "a truck", height=32, width=32, num_inference_steps=n, generator=generator, output_type="latent", **kwargs
    ).images
    assert isinstance(images, torch.Tensor)
    return images


def gap(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert torch.isfinite(ours).all()
    assert torch.isfinite(theirs).all()
    return float((ours - theirs).double().norm() / theirs.double().norm())


def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
    """A smooth flow network."""
    return torch.sin(2 * x) - t / 1000


def flow_scheduler(n: int = 4, *, mu: float = 0.5, name: str = "unipc-2") -> SolverProgramScheduler:
    original = D.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    noise = Flow(mu=mu, dynamic=True)
    plan = Schedule(n_steps=n, time=own_timesteps(original, n, mu), solver=make_solver(name, n, noise))
    return SolverProgramScheduler.from_schedule(plan, original, noise, "velocity")


def sample_with(scheduler: SolverProgramScheduler) -> torch.Tensor:
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, float(t)), t, x).prev_sample
    return x


def test_config_is_the_original_ones_without_its_class_name() -> None:
    scheduler = flow_scheduler()
    assert scheduler.config["base_image_seq_len"] == 256
    assert scheduler.config["use_dynamic_shifting"] is True
    assert not [name for name in scheduler.config if name.startswith("_")]
    restored = D.FlowMatchEulerDiscreteScheduler.from_config(scheduler.config)
    assert restored.config["max_shift"] == 1.15
    assert '"_class_name": "SolverProgramScheduler"' in scheduler.to_json_string()
    assert len(scheduler) == 1000


def test_another_step_count_is_ignored_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    scheduler = flow_scheduler(4)
    with caplog.at_level(logging.WARNING):
        scheduler.set_timesteps(sigmas=np.linspace(1, 0.05, 20), mu=0.5)
        scheduler.set_timesteps(sigmas=np.linspace(1, 0.05, 20), mu=0.5)
    assert [r.message for r in caplog.records] == [
        "the applied schedule has 4 steps; the 20 that were asked for are ignored"
    ]
    assert len(scheduler.timesteps) == scheduler.num_inference_steps == 4
    caplog.clear()
    scheduler.set_timesteps(4, mu=0.5)
    assert not caplog.records


def test_another_resolution_translates_the_grid_in_lambda(caplog: pytest.LogCaptureFixture) -> None:
    scheduler, native = flow_scheduler(5, mu=0.5), flow_scheduler(5, mu=1.15)
    scheduler.set_timesteps(5, mu=1.15)
    assert "time shift" in caplog.text
    np.testing.assert_allclose(scheduler.timesteps, native.timesteps, rtol=1e-6)
    assert float(scheduler.timesteps[0]) == 1000.0
    native.set_timesteps(5, mu=1.15)
    assert gap(sample_with(scheduler), sample_with(native)) < 1e-5
    scheduler.set_timesteps(5, mu=0.5)
    np.testing.assert_allclose(scheduler.timesteps, flow_scheduler(5).timesteps)


def test_a_static_flow_ignores_the_mu_that_flux_passes() -> None:
    original = D.FlowMatchEulerDiscreteScheduler(shift=3.0)
    noise = noise_schedule_of(original)
    plan = Schedule(n_steps=4, time=own_timesteps(original, 4), solver=make_solver("ab2", 4, noise))
    scheduler = SolverProgramScheduler.from_schedule(plan, original, noise, "velocity")
    scheduler.set_timesteps(sigmas=[1, 0.75, 0.5, 0.25], mu=0.63)
    np.testing.assert_allclose(scheduler.timesteps, shift_flow_times([1000, 750, 500, 250], np.log(3)), rtol=1e-6)


def test_starting_in_the_middle_is_refused() -> None:
    scheduler = flow_scheduler()
    scheduler.set_begin_index(0)
    with pytest.raises(ScheduleError, match="image-to-image"):
        scheduler.set_begin_index(2)


def test_one_step_too_many_is_refused_and_a_new_run_starts_clean() -> None:
    scheduler = flow_scheduler(3)
    scheduler.set_timesteps(3, mu=0.5)
    first = sample_with(scheduler)
    x = torch.zeros(1, 4, 4, 4)
    with pytest.raises(ScheduleError, match="3 steps; got step 4"):
        scheduler.step(x, 1.0, x)
    scheduler.set_timesteps(3, mu=0.5)
    scheduler.step(x, 1.0, x)  # a run that is given up
    scheduler.set_timesteps(3, mu=0.5)
    assert scheduler.step_index is None
    assert torch.equal(sample_with(scheduler), first)


def test_a_changed_shape_is_refused() -> None:
    scheduler = flow_scheduler(3)
    x = torch.zeros(1, 4, 4, 4)
    scheduler.step(x, 1.0, x)
    with pytest.raises(ScheduleError, match="one shape"):
        scheduler.step(torch.zeros(2, 4, 4, 4), 1.0, torch.zeros(2, 4, 4, 4))


def test_callers_may_reuse_their_buffers() -> None:
    scheduler = flow_scheduler(4)
    expected = sample_with(scheduler)
    scheduler.set_timesteps(4, mu=0.5)
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    output = torch.empty_like(x)
    for t in scheduler.timesteps:
        output.copy_(velocity(x, float(t)))
        x.copy_(scheduler.step(output, t, x, return_dict=False)[0])
    assert torch.equal(x, expected)


def test_only_needed_history_is_kept() -> None:
    for name, kept in (("euler", 0), ("ab2", 1), ("ab3", 2)):
        scheduler = flow_scheduler(6, name=name)
        x = torch.zeros(1, 4, 4, 4)
        for _ in range(4):
            scheduler.step(x, 1.0, x)
        assert len(scheduler._outputs) == kept
        assert not scheduler._states


def test_half_precision_is_summed_in_float32() -> None:
    scheduler = flow_scheduler(4)
    scheduler.set_timesteps(4, mu=0.5)
    exact = sample_with(scheduler)
    scheduler.set_timesteps(4, mu=0.5)
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1)).bfloat16()
    for t in scheduler.timesteps:
        out = velocity(x.float(), float(t)).bfloat16()
        x = scheduler.step(out, t, x, return_dict=False)[0]
        assert x.dtype == torch.bfloat16
    assert gap(x.float(), exact) < 0.02


def test_a_schedule_without_a_solver_is_refused() -> None:
    original = D.DDIMScheduler()
    with pytest.raises(ScheduleError, match="time and solver"):
        SolverProgramScheduler.from_schedule(Schedule(n_steps=4), original, noise_schedule_of(original), "noise")


def test_it_can_be_copied_and_both_run() -> None:
    scheduler = flow_scheduler(4)
    other = copy.deepcopy(scheduler)
    assert torch.equal(sample_with(scheduler), sample_with(other))


def test_one_step_of_pixart_returns_the_sample(pixart_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """PixArtAlphaPipeline reads the second entry of the tuple where one step is asked for."""
    pipe = pixart_pipe
    noise = noise_schedule_of(pipe.scheduler)
    plan = Schedule(n_steps=1, time=(999.0,), solver=make_solver("euler", 1, noise))
    monkeypatch.setattr(pipe, "scheduler", SolverProgramScheduler.from_schedule(plan, pipe.scheduler, noise, "noise"))
    assert torch.isfinite(
        latents(pipe, 1, max_sequence_length=16, use_resolution_binning=False, clean_caption=False)
    ).all()


def test_float_timesteps_reach_the_network(sd_pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = sd_pipe
    noise = noise_schedule_of(pipe.scheduler)
    times = uniform_lambda(noise, 4, t_end=20.5)
    plan = Schedule(n_steps=4, time=times, solver=make_solver("unipc-2", 4, noise))
    monkeypatch.setattr(pipe, "scheduler", SolverProgramScheduler.from_schedule(plan, pipe.scheduler, noise, "noise"))
    seen = []
    handle = pipe.unet.register_forward_pre_hook(lambda module, args: seen.append(float(args[1])))
    try:
        result = latents(pipe, 4, guidance_scale=5.0)
    finally:
        handle.remove()
    assert seen == pytest.approx(times, rel=1e-6)
    assert seen[1] != round(seen[1])
    assert torch.isfinite(result).all()


def test_a_mean_reverting_run_needs_its_mean_and_is_a_run_around_zero_moved_by_it() -> None:
    noise = MeanReverting(drift="cosine", stationary_std=0.4)
    plan = Schedule(n_steps=6, time=uniform_lambda(noise, 6), solver=make_solver("unipc-2", 6, noise))
    scheduler = SolverProgramScheduler.from_schedule(plan, D.DDPMScheduler(), noise, "noise")
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ScheduleError, match=r"set scheduler\.mean"):
        scheduler.step(x, 1.0, x)
    mean = torch.linspace(-1, 1, 96, dtype=torch.float64).reshape(2, 3, 4, 4)

    def sample(around: torch.Tensor) -> torch.Tensor:
        scheduler.set_timesteps(6)
        scheduler.mean, state = around, around + 0.4 * x
        for t in scheduler.timesteps:
            state = scheduler.step(torch.sin(state - around) * float(t) / 100, t, state).prev_sample
        return state

    assert gap(sample(mean) - mean, sample(torch.zeros_like(mean))) < 1e-12
