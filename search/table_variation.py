"""Variation of whole schedules: moves on one column, and on all of them together."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from autotune.search.cache_plans import even_actions, on_sites
from autotune.search.ecad import READS
from autotune.search.fewer_steps import RECIPES, recipe_schedule
from autotune.search.gene_grid import GeneGrid
from autotune.search.guidance_plans import guidance_column, guidance_gram
from autotune.search.searcher import SearchContext
from autotune.search.solver_variation import SolverVariation
from autotune.search.variation import StructuredVariation
from autotune.spaces.cache_plan import cell_use
from autotune.spaces.granularity import Granularity
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.retiming import RunLevels, retime
from autotune.spaces.schedule import Schedule

Rng = np.random.Generator

Move = Callable[["TableVariation", Schedule, Schedule, Rng], Schedule]
"""(variation, parent, another schedule, rng) -> child, equal to the parent where the move does not apply."""

MIN_STEPS = 2


class TableVariation:
    """Moves on schedules of one model; what they return need be neither canonical nor valid."""

    def __init__(self, context: SearchContext) -> None:
        condition = context.condition
        self._context, self._inventory = context, context.inventory
        self._noise, self._start = condition.noise_schedule, condition.start_timestep
        self._solvers = SolverVariation(self._noise, self._start, guided=context.guided)
        self._grids: dict[tuple[int, Granularity], GeneGrid] = {}

    def n_calls(self, schedule: Schedule) -> int:
        """Network calls of a run."""
        return schedule.n_steps if schedule.time is not None else len(self._context.own_timesteps(schedule.n_steps))

    def retimed(self, schedule: Schedule, n_steps: int) -> Schedule:
        """All columns at another number of steps."""
        own = self._context.own_timesteps(n_steps)
        return retime(schedule, self._inventory, self._levels(schedule), self._own_levels(own), n_steps).schedule

    def on_solver(self, columns: Schedule, solver: Schedule) -> Schedule:
        """The cache and guidance columns of one schedule on the steps and solver of another."""
        moved = replace(columns, time=None, solver=None, compensation=None, start=None, correction=None)
        levels = self._levels(columns), self._levels(solver)
        moved = retime(moved, self._inventory, *levels, solver.n_steps).schedule
        return _with_plans_of(moved, solver)

    def vary_cache(self, schedule: Schedule, rng: Rng) -> Schedule:
        """A structured move on the cache and guidance columns, at a random granularity that can say them."""
        able = [Granularity.STEPS, Granularity.GROUPS, Granularity.COMPONENTS]
        able = able if schedule.unconditional_cache is None else [Granularity.BRANCHES]
        for granularity in rng.permutation(able).tolist():
            grid = self._grid(self.n_calls(schedule), Granularity(granularity))
            genome = grid.genome(schedule)
            if genome is not None:
                changed = StructuredVariation(grid=grid, mutation_probability=1.0).mutate(genome, rng)
                varied = grid.schedule(changed, schedule.n_steps)
                return _with_plans_of(varied, schedule)
        return schedule

    def cross_cache(self, schedule: Schedule, other: Schedule, rng: Rng) -> Schedule:
        """Rows or blocks of another schedule's cache and guidance columns, re-timed if need be."""
        grid = self._grid(self.n_calls(schedule), Granularity.COMPONENTS)
        first, second = grid.genome(schedule), grid.genome(self.on_solver(other, schedule))
        if first is None or second is None:
            return schedule
        variation = StructuredVariation(grid=grid, crossover_probability=1.0, mutation_probability=0.0)
        crossed = grid.schedule(variation.mutate(variation.crossover(first, second, rng), rng), schedule.n_steps)
        return _with_plans_of(crossed, schedule)

    def vary_solver(self, schedule: Schedule, rng: Rng) -> Schedule:
        """A mutation of S3 on times and formulas; the pipeline's own sampler gives way to a known solver first."""
        if schedule.time is None:
            return self.swap_solver(schedule, rng)
        return self._solvers.mutate(replace(schedule, correction=None, compensation=None), rng)

    def swap_solver(self, schedule: Schedule, rng: Rng) -> Schedule:
        """Another known solver or time grid at the same number of steps."""
        recipe = RECIPES[rng.integers(len(RECIPES))]
        solver = recipe_schedule(recipe, self._context, schedule.n_steps)
        return schedule if solver is None else self.on_solver(schedule, solver)

    def change_steps(self, schedule: Schedule, rng: Rng) -> Schedule:
        """A few steps more or fewer, at most those of the default run, all columns re-timed."""
        change = int(rng.integers(1, max(2, schedule.n_steps // 4) + 1)) * (1 if rng.random() < 0.5 else -1)
        n_steps = min(max(MIN_STEPS, schedule.n_steps + change), self._context.condition.n_steps)
        return schedule if n_steps == schedule.n_steps else self.retimed(schedule, n_steps)

    def spread_refreshes(self, schedule: Schedule, rng: Rng) -> Schedule:
        """Run the network in a random number of evenly spread calls; forecast the hidden state in the others."""
        n_calls = self.n_calls(schedule)
        if n_calls < 3:
            return schedule
        actions = even_actions(n_calls, int(rng.integers(max(1, n_calls // 3), n_calls)))
        cache = on_sites(actions, self._inventory, self._inventory.outermost)
        return replace(schedule, cache=cache, unconditional_cache=None, guidance=None)

    def drop_branches(self, schedule: Schedule, rng: Rng) -> Schedule:
        """Run both guidance branches in every second to fourth computed call; or in all, where some are dropped."""
        if not self._context.guided:
            return schedule
        if schedule.guidance is not None and rng.random() < 0.3:
            return replace(schedule, guidance=None)
        calls = list(range(self.n_calls(schedule)))
        if schedule.cache is not None:
            runs = cell_use(schedule.cache, self._inventory).runs[:, list(self._inventory.outermost)].any(axis=1)
            calls = np.flatnonzero(runs).tolist()
        estimate = (GuidanceAction.LINEAR, GuidanceAction.QUADRATIC)[rng.integers(2)]
        column = guidance_column(calls, self.n_calls(schedule), int(rng.integers(2, 5)), estimate)
        return replace(schedule, guidance=column)

    def drop_cache(self, schedule: Schedule, rng: Rng) -> Schedule:
        """The schedule without its cache column; guidance as well, which was made for it."""
        return replace(schedule, cache=None, unconditional_cache=None, guidance=None)

    def _grid(self, n_calls: int, granularity: Granularity) -> GeneGrid:
        key = (n_calls, granularity)
        if key not in self._grids:
            context = self._context
            recorded = n_calls == context.n_calls
            self._grids[key] = GeneGrid.of(
                self._inventory,
                n_calls,
                READS,
                granularity=granularity,
                guided=context.guided,
                guidance_gram=lambda: guidance_gram(context) if recorded else None,
            )
        return self._grids[key]

    def _levels(self, schedule: Schedule) -> RunLevels:
        return self._own_levels(schedule.time or self._context.own_timesteps(schedule.n_steps))

    def _own_levels(self, times: tuple[float, ...]) -> RunLevels:
        return RunLevels(noise=self._noise, start=self._start, times=times)


def _with_plans_of(source: Schedule, schedule: Schedule) -> Schedule:
    """A schedule with the cache and guidance columns of another one."""
    plans = source.cache, source.unconditional_cache
    return replace(schedule, cache=plans[0], unconditional_cache=plans[1], guidance=source.guidance)


MOVES: Mapping[str, Move] = MappingProxyType(
    {
        "cache": lambda v, one, other, rng: v.vary_cache(one, rng),
        "cache crossover": lambda v, one, other, rng: v.cross_cache(one, other, rng),
        "columns of two": lambda v, one, other, rng: v.on_solver(one, other),
        "solver": lambda v, one, other, rng: v.vary_solver(one, rng),
        "other solver": lambda v, one, other, rng: v.swap_solver(one, rng),
        "steps": lambda v, one, other, rng: v.change_steps(one, rng),
        "even refreshes": lambda v, one, other, rng: v.spread_refreshes(one, rng),
        "guidance branches": lambda v, one, other, rng: v.drop_branches(one, rng),
        "no cache": lambda v, one, other, rng: v.drop_cache(one, rng),
    }
)
