"""The analytic first step on real pipelines: the prepared latents are scaled, and nothing else changes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autotune.evaluators.apply import apply, attach, remove
from autotune.evaluators.image_workload import ImageWorkload
from autotune.evaluators.load import load_model
from autotune.evaluators.noise import noise_schedule_of
from autotune.evaluators.quality import score_deviation
from autotune.evaluators.sampling import run_pipeline
from autotune.evaluators.worker import Worker
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.schedule import Schedule
from autotune.spaces.schedule_file import ScheduleFile, save_schedule_file
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

from .mini_pipelines import run, state
from .schedule_files import condition_of

Case = tuple[Any, dict[str, Any]]
PROMPTS = Fidelity(name="calibration", prompts=("a photo of a cat", "a photo of a ship"), seeds=(3, 4))


def started(pipe: Any, n: int = 4) -> Schedule:
    noise = noise_schedule_of(pipe.scheduler, 0.0)
    times = uniform_lambda(noise, n, t_start=800.0, t_end=30.0)
    return Schedule(n_steps=n, time=times, solver=make_solver("unipc-2", n, noise), start=noise.t_max)


def scale(pipe: Any) -> float:
    noise = noise_schedule_of(pipe.scheduler, 0.0)
    return float(noise.sigma(800.0) / noise.sigma(noise.t_max))


def first_input(pipe: Any, call: Callable[[], object]) -> torch.Tensor:
    """The latents that the denoiser is first called with."""
    seen: list[torch.Tensor] = []
    denoiser = getattr(pipe, "transformer", None) or pipe.unet

    def keep(module: torch.nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append(args[0] if args else named["hidden_states"])

    hook = denoiser.register_forward_pre_hook(keep, with_kwargs=True)
    call()
    hook.remove()
    return seen[0]


def prepared(pipe: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    return first_input(pipe, lambda: run(pipe, kwargs))


def test_the_noise_that_the_pipeline_draws_is_scaled(pipe_case: Case) -> None:
    pipe, kwargs = pipe_case
    plain_run, before = run(pipe, kwargs), state(pipe)
    attach(pipe, replace(started(pipe), start=None))
    plain = prepared(pipe, kwargs)
    attach(pipe, started(pipe))
    torch.testing.assert_close(prepared(pipe, kwargs), plain * scale(pipe), rtol=1e-6, atol=1e-7)
    remove(pipe)
    assert state(pipe) == before
    assert torch.equal(run(pipe, kwargs), plain_run)


def test_a_run_equals_one_from_scaled_noise(pipe_case: Case) -> None:
    """Also where the caller passes the noise himself."""
    pipe, kwargs = pipe_case
    attach(pipe, replace(started(pipe), start=None))
    noise = prepared(pipe, kwargs)
    noise = noise[: noise.shape[0] // 2] if noise.shape[0] == 2 else noise  # guided batches hold it twice
    expected = run(pipe, {**kwargs, "latents": noise * scale(pipe)})
    attach(pipe, started(pipe))
    torch.testing.assert_close(run(pipe, kwargs), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(run(pipe, {**kwargs, "latents": noise}), expected, rtol=1e-5, atol=1e-5)


def test_a_file_applies_it_in_the_same_way(pipe_case: Case, tmp_path: Path) -> None:
    pipe, kwargs = pipe_case
    plain, before = run(pipe, kwargs), state(pipe)
    attach(pipe, started(pipe))
    expected = run(pipe, kwargs)
    remove(pipe)
    file = ScheduleFile(schedule=started(pipe), condition=condition_of(pipe))
    save_schedule_file(tmp_path / "s.json", file)
    apply(pipe, tmp_path / "s.json")
    assert torch.equal(run(pipe, kwargs), expected)
    assert torch.equal(run(pipe, kwargs), expected)
    remove(pipe)
    assert state(pipe) == before
    assert torch.equal(run(pipe, kwargs), plain)


def test_applying_twice_scales_once(flux_pipe: Any, small_args: Any) -> None:
    kwargs = small_args("mini-flux")
    attach(flux_pipe, started(flux_pipe))
    once = run(flux_pipe, kwargs)
    attach(flux_pipe, started(flux_pipe))
    assert torch.equal(run(flux_pipe, kwargs), once)


def test_a_schedule_without_a_start_does_not_touch_the_latents(flux_pipe: Any) -> None:
    attach(flux_pipe, replace(started(flux_pipe), start=None))
    assert "prepare_latents" not in vars(flux_pipe)


def test_the_worker_scores_it_as_a_run_from_scaled_noise() -> None:
    model = load_model("mini-flux")
    worker, images, pipe = Worker(model), ImageWorkload(model), model.pipe
    plan = started(pipe)
    score = worker.score(plan, PROMPTS)
    assert isinstance(score, Measurement)
    assert score.network_calls == 4
    attach(pipe, replace(plan, start=None))
    noise = torch.cat([first_latents(pipe, images, i) for i in range(2)])
    samples = run_pipeline(
        pipe,
        images.embedded(PROMPTS),
        PROMPTS,
        batch_size=2,
        arguments={"num_inference_steps": 4, "latents": noise * scale(pipe), **images.arguments},
    )
    remove(pipe)
    expected = score_deviation(samples.latents, worker.reference(PROMPTS).latents)
    np.testing.assert_allclose(score.quality["deviation"], expected, rtol=1e-4)


def first_latents(pipe: Any, images: ImageWorkload, i: int) -> torch.Tensor:
    """What the denoiser is first called with for prompt i."""
    embeddings = {name: tensor[i : i + 1] for name, tensor in images.embedded(PROMPTS).items()}
    generator = torch.Generator().manual_seed(PROMPTS.seeds[i])
    arguments = {**images.arguments, "num_inference_steps": 4, "output_type": "latent", "prompt": None}
    return first_input(pipe, lambda: pipe(generator=generator, **embeddings, **arguments))
