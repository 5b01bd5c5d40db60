"""The path of a preset on SD3, SDXL and Qwen-Image, tiny and with random weights: embed, score, fit and apply."""

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.apply import applied
from autotune.evaluators.inventory import list_inventory
from autotune.evaluators.load import LoadedModel, load_model
from autotune.evaluators.presets import PRESETS, Preset
from autotune.evaluators.prompt_embedding import embed_prompts, embeddings_of
from autotune.evaluators.sampling import run_pipeline
from autotune.evaluators.weightless import describe_model
from autotune.evaluators.worker import Worker
from autotune.spaces.cache_plan import CachePlan, call_macs
from autotune.spaces.column_fit import FitColumn
from autotune.spaces.errors import UnsupportedModelError
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.reference_schedule import reference_schedule
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.schedule_file import ScheduleFile
from autotune.spaces.solvers import make_solver

from .mini_pipelines import run
from .random_pipelines import random_args

PROMPTS = Fidelity(name="calibration", prompts=("a photo of a cat", "a ship"), seeds=(3, 4))
N = 6


def small(name: str) -> Preset:
    """The preset of that name for the random pipeline's size."""
    preset = PRESETS[name]
    kwargs = {key: 16 for key in preset.call_kwargs if key == "max_sequence_length"}
    call_kwargs = {**preset.call_kwargs, **kwargs}
    size = random_args(name)["height"]
    return replace(preset, n_steps=N, height=size, width=size, batch_size=2, call_kwargs=call_kwargs)


@pytest.fixture(scope="module", params=["sd3", "sdxl", "qwen-image"])
def case(request: pytest.FixtureRequest, random_pipes: dict[str, Any]) -> tuple[Any, Preset, Worker]:
    pipe, preset = random_pipes[request.param], small(request.param)
    return pipe, preset, Worker(LoadedModel(preset=preset, pipe=pipe, revision="random"))


def arguments_of(pipe: Any, preset: Preset) -> dict[str, Any]:
    size = {"num_inference_steps": N, "height": preset.height, "width": preset.width}
    return {find_adapter(pipe).guidance_argument: preset.guidance_scale, **size, **preset.call_kwargs}


def drawn(pipe: Any, preset: Preset, rows: slice, output_type: str) -> torch.Tensor:
    """What the pipeline makes of some of the prompts themselves; Qwen-Image guides only with a negative one."""
    prompts = list(PROMPTS.prompts[rows])
    negative = {"negative_prompt": [" "] * len(prompts)} if type(pipe).__name__ == "QwenImagePipeline" else {}
    generators = [torch.Generator().manual_seed(seed) for seed in PROMPTS.seeds[rows]]
    call = {**arguments_of(pipe, preset), **negative, "output_type": output_type}
    images = pipe(prompt=prompts, generator=generators, **call).images
    assert isinstance(images, torch.Tensor)
    if output_type == "latent" and images.ndim == 3:  # Qwen-Image packs them
        return cast(torch.Tensor, pipe._unpack_latents(images, preset.height, preset.width, 8)).squeeze(2)
    return images


def test_embedded_prompts_give_the_pictures_of_the_prompts(case: tuple[Any, Preset, Worker]) -> None:
    pipe, preset, _ = case
    embeddings = embed_prompts(
        pipe, PROMPTS.prompts, guidance_scale=preset.guidance_scale, call_kwargs=preset.call_kwargs
    )
    arguments = arguments_of(pipe, preset)
    samples = run_pipeline(pipe, embeddings, PROMPTS, batch_size=2, arguments=arguments)
    assert torch.equal(samples.images, drawn(pipe, preset, slice(2), "pt"))
    torch.testing.assert_close(samples.latents, drawn(pipe, preset, slice(2), "latent"), rtol=1e-5, atol=1e-5)
    alone = run_pipeline(pipe, embeddings, PROMPTS, batch_size=1, arguments=arguments)
    torch.testing.assert_close(alone.latents[1:], drawn(pipe, preset, slice(1, 2), "latent"), rtol=1e-3, atol=1e-4)


def test_prompts_of_qwen_image_are_as_long_as_without_the_others(random_pipes: dict[str, Any]) -> None:
    """Padding would need a mask, with which attention is slower."""
    pipe = random_pipes["qwen-image"]
    embeddings = embed_prompts(pipe, PROMPTS.prompts, guidance_scale=4.0, call_kwargs={"max_sequence_length": 512})
    assert set(embeddings) == {
        "prompt_embeds", "prompt_embeds_mask", "negative_prompt_embeds", "negative_prompt_embeds_mask",
    }  # fmt: skip
    own, _ = pipe.encode_prompt(["a ship"])
    assert own.shape[1] < embeddings["prompt_embeds"].shape[1]
    short = embeddings_of(embeddings, slice(1, 2))
    torch.testing.assert_close(short["prompt_embeds"], own, rtol=1e-4, atol=1e-5)
    assert bool(short["prompt_embeds_mask"].all())
    assert embeddings_of(embeddings, slice(2))["prompt_embeds"].shape == embeddings["prompt_embeds"].shape


def test_prompts_of_a_video_pipeline_are_refused(random_pipes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match=r"to be searched, .*StableDiffusionXLPipeline; got WanPipeline"):
        embed_prompts(random_pipes["wan"], PROMPTS.prompts, guidance_scale=5.0, call_kwargs={})


@pytest.mark.parametrize("name", ["sd3", "sdxl"])
def test_a_saved_pipeline_loads_with_the_defaults_of_its_preset(
    random_pipes: dict[str, Any], name: str, tmp_path: Path
) -> None:
    random_pipes[name].save_pretrained(tmp_path, safe_serialization=True)
    loaded = load_model(str(tmp_path), device="cpu", dtype="float32")
    preset, like = loaded.preset, PRESETS[name]
    assert (preset.pipeline_class, preset.n_steps) == (like.pipeline_class, like.n_steps)
    assert preset.guidance_scale == like.guidance_scale
    assert (preset.height, preset.width) == (16, 16)
    assert preset.call_kwargs == ({"max_sequence_length": 16} if name == "sd3" else {})
    assert list_inventory(loaded.pipe).hash == list_inventory(random_pipes[name]).hash
    described, worker = describe_model(str(tmp_path)), Worker(loaded)
    assert described.inventory.hash == worker.inventory.hash
    condition = described.condition(preset.n_steps)
    assert (condition.start_timestep, condition.noise_schedule) == (
        worker.condition.start_timestep,
        worker.condition.noise_schedule,
    )
    kwargs = random_args(name, steps=2)
    assert torch.equal(run(loaded.pipe, kwargs), run(random_pipes[name], kwargs))


def test_a_schedule_with_all_columns_is_scored_and_applied(case: tuple[Any, Preset, Worker]) -> None:
    pipe, _, worker = case
    assert worker.condition.start_timestep == worker.own_timesteps(N)[0]
    inventory, noise = worker.inventory, worker.condition.noise_schedule
    table = torch.rand(N, len(inventory), generator=torch.Generator().manual_seed(0)) < 0.3
    both, stored = GuidanceAction.BOTH, GuidanceAction.STORED
    schedule = canonical_schedule(
        Schedule(
            n_steps=N,
            time=worker.own_timesteps(N),
            solver=make_solver("unipc-2", N, noise),
            cache=CachePlan.from_array(table.numpy()),
            guidance=(both, both, stored, both, stored, stored),
        ),
        inventory,
    )
    measurement = worker.score(schedule, PROMPTS)
    assert isinstance(measurement, Measurement), measurement
    assert set(measurement.quality) == {"deviation", "psnr", "ssim"}
    assert all(0 < d < math.inf for d in measurement.quality["deviation"])
    assert measurement.baseline_macs == 2 * N * inventory.total_macs
    branches = np.array([2, 2, 1, 2, 1, 1])
    assert measurement.macs == int((call_macs(schedule.cache, inventory, N) * branches).sum()) > 0
    assert measurement.network_calls == N
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with applied(pipe, ScheduleFile(schedule=schedule, condition=worker.condition)):
            assert type(pipe.scheduler).__name__ == "SolverProgramScheduler"


def test_a_dropped_branch_has_measured_times_of_its_own(case: tuple[Any, Preset, Worker]) -> None:
    _, _, worker = case
    assert worker.guided
    latency = worker.cost_model(PROMPTS).latency
    assert latency.half_site_ms != latency.site_ms  # where nothing is dropped, they are the same


def test_more_steps_approach_the_reference(case: tuple[Any, Preset, Worker]) -> None:
    _, _, worker = case
    deviations = []
    for n in (5, 40):
        measurement = worker.score(reference_schedule(worker.condition, n), PROMPTS)
        assert isinstance(measurement, Measurement), measurement
        deviations.append(sum(measurement.quality["deviation"]))
    assert deviations[1] < deviations[0] / 4


def test_ratios_are_fitted_through_the_pipeline(case: tuple[Any, Preset, Worker]) -> None:
    _, _, worker = case
    noise = worker.condition.noise_schedule
    plan = Schedule(n_steps=4, time=worker.own_timesteps(4), solver=make_solver("dpmpp-2m", 4, noise))
    fit = worker.fit(plan, FitColumn.COMPENSATION, PROMPTS, max_image_runs=12)
    assert fit.schedule.compensation is not None
