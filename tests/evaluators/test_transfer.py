"""Schedule files taken over to other runs of real models, from their configuration alone."""

import dataclasses

import numpy as np
import pytest

from autotune.evaluators.noise import noise_schedule_of, own_timesteps, prediction_of
from autotune.evaluators.transfer import transfer_schedule
from autotune.evaluators.weightless import WeightlessModel, describe_model
from autotune.spaces.cache_plan import CachePlan, cell_use
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.noise_schedule import Flow
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.schedule_file import ScheduleFile
from autotune.spaces.solvers import make_solver


@pytest.fixture(scope="module")
def flux() -> WeightlessModel:
    return describe_model("mini-flux")


@pytest.fixture(scope="module")
def pixart() -> WeightlessModel:
    return describe_model("mini-pixart")


def even(model: WeightlessModel, n_calls: int, every: int, *, n_steps: int | None = None) -> Schedule:
    table = np.ones((n_calls, len(model.inventory)), np.uint8)
    table[::every] = 0
    schedule = Schedule(n_steps=n_steps or n_calls, cache=CachePlan.from_array(table))
    return canonical_schedule(schedule, model.inventory)


def file_of(model: WeightlessModel, schedule: Schedule, **size: int) -> ScheduleFile:
    return ScheduleFile(schedule=schedule, condition=model.condition(20, **size))


@pytest.mark.parametrize("n_steps", [12, 20, 30, 50])
def test_another_step_count(flux: WeightlessModel, n_steps: int) -> None:
    schedule = even(flux, 20, 2)
    preset = dataclasses.replace(flux.preset, n_steps=n_steps)
    given = transfer_schedule(file_of(flux, schedule), flux.pipe, preset)
    assert given.schedule.n_steps == n_steps
    assert (given.schedule == schedule) == (n_steps == 20) == given.label.startswith("given")
    assert given.schedule.cache is not None
    runs = cell_use(given.schedule.cache, flux.inventory).runs.any(axis=1)
    assert runs.tolist() == [i % 2 == 0 for i in range(n_steps)]


def test_a_schedule_of_half_the_steps_keeps_the_ratio(flux: WeightlessModel) -> None:
    condition = flux.condition(20)
    times = tuple(np.linspace(1000.0, 50.0, 10).tolist())
    schedule = Schedule(n_steps=10, time=times, solver=make_solver("ab2", 10, condition.noise_schedule))
    schedule = canonical_schedule(schedule, flux.inventory)
    preset = dataclasses.replace(flux.preset, n_steps=30)
    moved = transfer_schedule(file_of(flux, schedule), flux.pipe, preset).schedule
    assert moved.n_steps == 15
    assert moved.time is not None
    assert (moved.time[0], moved.time[-1]) == (1000.0, 50.0)


def test_another_resolution_has_another_shift(flux: WeightlessModel) -> None:
    """What refreshes down to a noise level at the source does so for more calls where more calls are noisy."""
    table = np.zeros((20, len(flux.inventory)), np.uint8)
    table[10:] = 1
    table[14] = 0
    schedule = canonical_schedule(Schedule(n_steps=20, cache=CachePlan.from_array(table)), flux.inventory)
    preset = dataclasses.replace(flux.preset, n_steps=20, height=1024, width=1024)
    file = file_of(flux, schedule)
    noise, larger = file.condition.noise_schedule, flux.condition(20, height=1024, width=1024).noise_schedule
    assert isinstance(noise, Flow)
    assert isinstance(larger, Flow)
    assert larger.mu > noise.mu + 0.5
    moved = transfer_schedule(file, flux.pipe, preset).schedule.cache
    assert moved is not None
    runs = cell_use(moved, flux.inventory).runs.any(axis=1)
    assert np.flatnonzero(runs)[-1] > 14
    assert runs.sum() == 11


def test_the_sampler_of_stable_diffusion_calls_once_more_than_it_steps() -> None:
    sd = describe_model("mini-sd")
    schedule = even(sd, 21, 3, n_steps=20)
    flux = describe_model("mini-flux").condition(20)
    pipe_class = type(sd.pipe.scheduler).__name__
    condition = dataclasses.replace(
        flux,
        model="mini-sd",
        inventory_hash=sd.inventory.hash,
        scheduler_class=pipe_class,
        noise_schedule=noise_schedule_of(sd.pipe.scheduler),
        prediction=prediction_of(sd.pipe.scheduler),
        start_timestep=own_timesteps(sd.pipe.scheduler, 20)[0],
    )
    file = ScheduleFile(schedule=schedule, condition=condition)
    same = transfer_schedule(file, sd.pipe, dataclasses.replace(sd.preset, n_steps=20))
    assert same.schedule == schedule
    fewer = transfer_schedule(file, sd.pipe, dataclasses.replace(sd.preset, n_steps=12)).schedule
    assert fewer.n_steps == 12
    assert fewer.cache is not None
    assert fewer.cache.n_calls == 13
    other = ScheduleFile(schedule=schedule, condition=dataclasses.replace(condition, start_timestep=999.0))
    with pytest.raises(ScheduleMismatchError, match=r"begins at timestep 999, the PNDMScheduler here at 951"):
        transfer_schedule(other, sd.pipe, sd.preset)


def test_other_modules_are_refused_by_name(flux: WeightlessModel, pixart: WeightlessModel) -> None:
    file = file_of(flux, even(flux, 20, 2))
    with pytest.raises(ScheduleMismatchError, match=r"made for a FluxTransformer2DModel, not for the PixArt"):
        transfer_schedule(file, pixart.pipe, pixart.preset)
    unknown = dataclasses.replace(file, condition=dataclasses.replace(file.condition, inventory_hash="0" * 64))
    with pytest.raises(ScheduleMismatchError, match=r"made for inventory 000000000000, .* has "):
        transfer_schedule(unknown, flux.pipe, flux.preset)


def test_other_samplers_are_refused(flux: WeightlessModel, pixart: WeightlessModel) -> None:
    plain = file_of(flux, Schedule(n_steps=10))
    with pytest.raises(ScheduleMismatchError, match=r"made for FlowMatchEulerDiscreteScheduler, .* has DPMSolver"):
        transfer_schedule(plain, pixart.pipe, pixart.preset)
    times = tuple(np.linspace(1000.0, 50.0, 10).tolist())
    solver = make_solver("ab2", 10, plain.condition.noise_schedule)
    with pytest.raises(ScheduleMismatchError, match="one kind of prediction; it was made for 'velocity'"):
        transfer_schedule(file_of(flux, Schedule(n_steps=10, time=times, solver=solver)), pixart.pipe, pixart.preset)


def test_what_the_file_measured_comes_along(flux: WeightlessModel) -> None:
    figures = {"speedup": 2.0, "latency_ms": [3.0, 1.0, 2.0], "quality_mean": {"deviation": 0.1}, "network_calls": 20}
    file = dataclasses.replace(file_of(flux, even(flux, 20, 2)), measured={"calibration": {}, "held_out": figures})
    source = transfer_schedule(file, flux.pipe, flux.preset).source
    assert {"deviation": 0.1, "latency_ms": 2.0, "speedup": 2.0, "measured_on": "held_out"}.items() <= source.items()
    assert (source["model"], source["n_steps"], source["width"]) == ("mini-flux", 20, 32)
