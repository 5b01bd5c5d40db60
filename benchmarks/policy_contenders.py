"""What the policy's benchmark compares: the full run, fewer steps, uniform refreshes, BAC's plans."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from autotune.evaluators.policy.simulator import TASKS
from autotune.evaluators.worker import Worker
from autotune.search.bac import bac_schedules
from autotune.search.searcher import SearchContext
from autotune.spaces.blockwise_plan import blockwise_plan, refreshed_share, refreshes_to_fresh
from autotune.spaces.cache_unit import cache_units
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.solvers import make_solver

COUNTS = (10, 7)
"""Refreshes of BAC's plans."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A schedule on the table."""

    kind: str
    label: str
    schedule: Schedule


def episodes(name: str, n_per_task: int, first_seed: int) -> Fidelity:
    """Episodes of all tasks in turn."""
    n = n_per_task * len(TASKS)
    return Fidelity(name=name, prompts=TASKS * n_per_task, seeds=tuple(range(first_seed, first_seed + n)))


def known(worker: Worker) -> list[Contender]:
    """The full run, fewer steps, and refreshes that are evenly spread."""
    found = [Contender(kind="full", label="DDPM 100", schedule=Schedule(n_steps=100))]
    noise, inventory = worker.condition.noise_schedule, worker.inventory
    for label, solver, counts in (("DDIM", "euler", (20, 16, 10, 5, 3)), ("DPM-Solver++ 2M", "dpmpp-2m", (5, 3))):
        for n in counts:
            schedule = Schedule(n_steps=n, time=worker.own_timesteps(n), solver=make_solver(solver, n, noise))
            found.append(Contender(kind="fewer steps", label=f"{label} {n}", schedule=schedule))
    n_units = len(cache_units(inventory))
    for count in (15, 10):
        calls = np.linspace(0, 100, count, endpoint=False).round().astype(int).tolist()
        plan = blockwise_plan(refreshes_to_fresh([calls] * n_units, 100), inventory)
        schedule = as_program(Schedule(n_steps=100, cache=plan), worker.own_timesteps)
        found.append(Contender(kind="uniform", label=f"uniform, {count} refreshes", schedule=schedule))
    return found


def planned(context: SearchContext) -> list[Contender]:
    """BAC's plans by anchored cosine, with its paper's unions in simulation and on a robot, and with none."""
    assert context.branch_tables is not None
    found = []
    for label, schedule in bac_schedules(context, context.branch_tables(), counts=COUNTS):
        if "anchored cosine" in label:
            kind = "BAC" if "union of 0" in label else "BAC + union"
            found.append(Contender(kind=kind, label=label, schedule=as_program(schedule, context.own_timesteps)))
    return found


def as_program(schedule: Schedule, own_timesteps: Callable[[int], tuple[float, ...]]) -> Schedule:
    """The same on the default sampler as a program."""
    if schedule.solver is not None:
        return schedule
    row = SolverStep(view="data", domain="lambda", order=1, stochastic=1.0)
    return replace(schedule, time=own_timesteps(schedule.n_steps), solver=(row,) * schedule.n_steps)


def branch_share(schedule: Schedule, inventory: Inventory) -> float:
    """Share of the decoder's MACs that a plan of the full run refreshes; NaN for other schedules."""
    if schedule.cache is None or schedule.n_steps != 100:
        return float("nan")
    return refreshed_share(schedule.cache, inventory).branches
