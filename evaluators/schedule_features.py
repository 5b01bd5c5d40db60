"""Schedules as vectors of fixed length: what a surrogate of their quality reads."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan, cell_use
from autotune.spaces.condition import Condition
from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import Inventory
from autotune.spaces.noise_schedule import Flow
from autotune.spaces.program_encoding import unrolled
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_formula import levels_of
from autotune.spaces.solver_program import compile_program

Array = NDArray[np.float64]

N_PHASES = 5
"""Parts of a run over which a site's reuse is summed."""

N_LEVELS = 9
N_WEIGHTS = 5
N_LAGS = 3
"""Positions along a run at which its levels and the weights of its last outputs are read."""


def cache_features(plan: CachePlan | None, inventory: Inventory, n_calls: int) -> Array:
    """How stale the values are that a plan reuses: logarithms of 1 + age, summed in several ways.

    The age of a reused value is the number of calls since it was computed. It is summed for each site over each of
    `N_PHASES` parts of the run, for each call over the sites, and over all, where its square and its occurrence are
    summed too. All are 0 for no plan.
    """
    if plan is None:
        return np.zeros(len(inventory) * min(N_PHASES, n_calls) + n_calls + 3)
    use = cell_use(plan, inventory)
    calls = np.arange(plan.n_calls)[:, None]
    age = (calls - np.maximum.accumulate(np.where(use.runs, calls, 0), axis=0)) * use.reads
    phases = np.array_split(age, min(N_PHASES, plan.n_calls))
    by_site = np.concatenate([phase.sum(axis=0) for phase in phases])
    overall = [age.sum(), (age > 0).sum(), (age**2).sum()]
    return np.asarray(np.log1p(np.concatenate([by_site, age.sum(axis=1), overall])))


def forecast_features(plan: CachePlan, inventory: Inventory, n_calls: int) -> Array:
    """Those of the cache, and how far values are forecast, for orders 1 and 2 apart: by call, and in all.

    Ages are those of the newest value that a forecast reads. Kinds of one order count alike.
    """
    use = cell_use(plan, inventory)
    calls = np.arange(plan.n_calls)[:, None]
    age = calls - np.maximum.accumulate(np.where(use.runs, calls, 0), axis=0)
    forecasts = [age * use.reads * (use.order == order) for order in (1, 2)]
    sums = [np.append(ages.sum(axis=1), [ages.sum(), (ages > 0).sum(), (ages**2).sum()]) for ages in forecasts]
    return np.concatenate([cache_features(plan, inventory, n_calls), *np.log1p(sums)])


def solver_features(schedule: Schedule, condition: Condition) -> Array:
    """Where a solver schedule calls the network, and with what weights it uses the last outputs.

    Levels in lambda and weights are read at fixed fractions of the run, so that any number of steps has the same
    length; the logarithm of that number comes first.

    Raises:
        ScheduleError: the schedule is no valid program.
    """
    noise = condition.noise_schedule
    program = compile_program(schedule, noise, condition.prediction)
    n = program.n_steps
    times = program.timesteps
    lam = np.asarray(noise.lam(np.minimum(times, noise.t_max - 1.0) if isinstance(noise, Flow) else times))
    levels = levels_of(tuple(times.tolist()), noise)
    alpha = np.ones(n) if levels.flow else np.array(levels.alpha[1:])
    _, on_outputs = unrolled(program)
    per_step = np.diff(on_outputs / alpha[:, None], axis=0, prepend=0.0)
    steps = np.diff(levels.straight)
    weights = per_step / np.where(steps == 0.0, 1.0, steps)[:, None]
    lags = [np.concatenate([np.zeros(min(k, n)), np.diagonal(weights, -k)]) for k in range(N_LAGS)]
    read = [_read(lam, N_LEVELS), *(_read(lag, N_WEIGHTS) for lag in lags)]
    return np.concatenate([[np.log(n), program.initial_scale], *read])


def _read(values: Array, n: int) -> Array:
    """The values at `n` even positions from first to last, interpolated."""
    return np.interp(np.linspace(0.0, len(values) - 1.0, n), np.arange(len(values)), values)


Encode = Callable[[Schedule, Condition, Inventory, int], Array | None]


def _is_cached_default(schedule: Schedule, condition: Condition) -> bool:
    others = (schedule.policy, schedule.time, schedule.guidance, schedule.unconditional_cache)
    plain = not schedule.tables and all(column is None for column in others)
    return plain and schedule.n_steps == condition.n_steps


def _forecasts(plan: CachePlan | None) -> bool:
    return plan is not None and bool((plan.table > CacheAction.REUSE).any())


def _cache(schedule: Schedule, condition: Condition, inventory: Inventory, n_calls: int) -> Array | None:
    if not _is_cached_default(schedule, condition) or _forecasts(schedule.cache):
        return None
    return cache_features(schedule.cache, inventory, n_calls)


def _forecast(schedule: Schedule, condition: Condition, inventory: Inventory, n_calls: int) -> Array | None:
    if schedule.cache is None or not _forecasts(schedule.cache) or not _is_cached_default(schedule, condition):
        return None
    return forecast_features(schedule.cache, inventory, n_calls)


def _solver(schedule: Schedule, condition: Condition, inventory: Inventory, n_calls: int) -> Array | None:
    others = (schedule.cache, schedule.guidance, schedule.policy)
    if schedule.tables or any(column is not None for column in others) or not schedule.time:
        return None
    try:
        return solver_features(schedule, condition)
    except ScheduleError:
        return None


ENCODINGS: Mapping[str, Encode] = MappingProxyType({"cache": _cache, "forecast": _forecast, "solver": _solver})
"""By kind of schedule: its features, or None where it is not of this kind.

A schedule of kind `cache` has a cache plan without forecasts, or nothing, on the pipeline's own sampler and number of
steps; one of kind `forecast` has a plan with some; one of kind `solver` has time, solver, and what belongs to them, and
no more.
"""
