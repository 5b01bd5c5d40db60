"""Schedule files made for a reference model."""

import dataclasses
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from autotune.evaluators.hardware import device_name
from autotune.evaluators.inventory import list_inventory
from autotune.evaluators.noise import flow_mu, noise_schedule_of, own_timesteps, prediction_of
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.condition import Condition
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.solver_step import SolverStep

BOTH, STORED = GuidanceAction.BOTH, GuidanceAction.STORED


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
