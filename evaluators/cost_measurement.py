"""The cost-model job: timers on default runs, then a few designed runs that a latency model is fitted to."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from autotune.evaluators.adapters import Adapter, find_adapter
from autotune.evaluators.cost_designs import designed_schedules
from autotune.evaluators.latency_fit import SiteFigures, TimedRun, fit_latency
from autotune.evaluators.reference import ArtifactCache
from autotune.evaluators.site_timing import DeviceClock, SiteTimer, StepTimer
from autotune.spaces.cache_memory import CacheMemory
from autotune.spaces.condition import Condition
from autotune.spaces.cost_model import CostModel, cost_model_from_bytes
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule

VERSION = 8

Run = Callable[[Schedule, StepTimer], float]
"""Executes a schedule on the timed batch while a timer watches; the seconds that it took."""


def load_or_measure_costs(
    pipe: Any,
    condition: Condition,
    inventory: Inventory,
    n_calls: int,
    n_images: int,
    rounds: int,
    run: Run,
    artifacts: ArtifactCache | None,
) -> CostModel:
    """What schedules cost, read back if it was measured before.

    Timers say what each site takes and how large its value is. They add some time of their own, and a site that is
    left out changes what the others find in the processor's caches: so the times of each kind of site are scaled, and
    what remains of a call is found, by what the calls of designed runs take.

    Args:
        pipe: the pipeline.
        condition: what the runs are made under.
        inventory: the sites.
        n_calls: network calls of the default run.
        n_images: images of a timed run.
        rounds: how often designed runs are made, other ones each time. One fit is off by 1 to 4 % where the speed of a
            processor wanders, by its luck with the runs; four together by half as much.
        run: executes a schedule.
        artifacts: where the model is kept, as JSON.
    """
    name = f"costs/{VERSION}/{n_images}/{rounds}/{condition.hash}"
    stored = artifacts.load(name) if artifacts is not None else None
    if stored is not None:
        return cost_model_from_bytes(stored)
    model = _measured(pipe, condition, inventory, n_calls, n_images, rounds, run)
    if artifacts is not None:
        artifacts.save(name, model.to_bytes(), "costs")
    return model


def _measured(
    pipe: Any, condition: Condition, inventory: Inventory, n_calls: int, n_images: int, rounds: int, run: Run
) -> CostModel:
    adapter = find_adapter(pipe)
    default = Schedule(n_steps=condition.n_steps)
    drops = adapter.guidance != "embedded" and condition.guidance_scale > 1
    clock = DeviceClock(pipe._execution_device)
    run(replace(default, n_steps=2), StepTimer(clock))  # warm-up: allocates and picks kernels
    timer = _watched_sites(pipe, adapter, inventory, default, run)
    half = timer
    if drops:
        conditional = replace(default, guidance=(GuidanceAction.CONDITIONAL,) * n_calls)
        half = _watched_sites(pipe, adapter, inventory, conditional, run)
    figures = SiteFigures(
        seconds=timer.site_seconds(),
        half_seconds=half.site_seconds(),
        value_bytes=np.array(timer.value_bytes(), float).sum(axis=0),
        moved=_moved(pipe, adapter, inventory),
    )
    schedules = [default]
    for seed in range(rounds):
        schedules += [*designed_schedules(condition, inventory, n_calls, drops=drops, seed=seed), default]
    runs = [_timed(schedule, run, clock) for schedule in schedules]
    return CostModel(
        latency=fit_latency(runs, figures, inventory, n_images),
        memory=CacheMemory(
            value_bytes=tuple(tuple(size // n_images for size in row) for row in timer.value_bytes()),
            order=timer.order(),
            difference_bytes=timer.difference_bytes() // n_images if drops else 0,
        ),
        inventory=inventory,
        n_steps=condition.n_steps,
        n_calls=n_calls,
        batch_size=n_images,
    )


def _timed(schedule: Schedule, run: Run, clock: DeviceClock) -> TimedRun:
    steps = StepTimer(clock)
    seconds = run(schedule, steps)
    return TimedRun(
        schedule=schedule, call_seconds=steps.call_seconds(), seconds=seconds, step_seconds=steps.step_seconds()
    )


def _watched_sites(pipe: Any, adapter: Adapter, inventory: Inventory, schedule: Schedule, run: Run) -> SiteTimer:
    """One run of a schedule without a cache, with timers on the sites."""
    denoiser = adapter.denoiser_of(pipe)
    clock, spans = DeviceClock(pipe._execution_device), adapter.list_spans(denoiser)
    timer = SiteTimer(clock, denoiser, inventory, spans, adapter.list_norms(denoiser))
    run(schedule, timer)
    return timer


def _moved(pipe: Any, adapter: Adapter, inventory: Inventory) -> np.ndarray[Any, np.dtype[np.float64]]:
    """How often a value is read or written in the store besides a forecast: see `SiteFigures`."""
    spans = adapter.list_spans(adapter.denoiser_of(pipe))
    residual = {name for name, span in spans.items() if span.residual}
    return np.array([float(site.name in residual or site.component in adapter.copied) for site in inventory.sites])
