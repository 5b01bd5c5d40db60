"""Where S3 begins: the first recipes of `fewer-steps`, and good solvers on grids that take a trace or seconds."""

from collections.abc import Callable
from functools import lru_cache

from autotune.search.dmn_grid import dmn
from autotune.search.fewer_steps import LAMBDA_END, RECIPES, own_grid, recipe_schedule
from autotune.search.searcher import SearchContext
from autotune.spaces.errors import ScheduleError
from autotune.spaces.noise_schedule import NoiseSchedule
from autotune.spaces.schedule import Schedule
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import karras
from autotune.spaces.trace import Trace
from autotune.spaces.traced_grid import gits

N_RECIPES = 8

GITS_DISCOUNT = 0.9
"""Of 0.8 to 1.2, what the rivals of `benchmarks/solvers.py` take."""

DMN_ENDS_EARLY = 8
"""From so many calls on, the bound of a DMN grid is taken where the other grids end, not at the clean end."""


def first_presets(context: SearchContext, n: int, trace: Trace | None) -> list[Schedule]:
    """Schedules of `n` calls, each on a grid of its own kind or of another solver; GITS only where there is a trace."""
    condition = context.condition
    noise, start, prediction = condition.noise_schedule, condition.start_timestep, condition.prediction
    end = LAMBDA_END * own_grid(context, n)[-1]
    grids: list[tuple[str, Callable[[], tuple[float, ...]]]] = [
        ("unipc-2", lambda: _dmn(noise, n, start, end if n >= DMN_ENDS_EARLY else None)),
        ("unipc-2", lambda: karras(noise, n, t_start=start, t_end=end)),
    ]
    if trace is not None:
        grids.insert(0, ("ab2", lambda: gits(trace, noise, prediction, n, discount=GITS_DISCOUNT)))
    found = [made for recipe in RECIPES[:N_RECIPES] if (made := recipe_schedule(recipe, context, n)) is not None]
    for solver, grid in grids:
        try:
            found.append(Schedule(n_steps=n, time=grid(), solver=make_solver(solver, n, noise)))
        except ScheduleError:  # more calls than the trace has levels
            continue
    return found


@lru_cache(maxsize=64)
def _dmn(noise: NoiseSchedule, n: int, start: float, end: float | None) -> tuple[float, ...]:
    return dmn(noise, n, t_start=start, t_end=end)
