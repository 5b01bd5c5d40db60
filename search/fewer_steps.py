"""The strongest cheap rival: fewer steps with a good solver."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autotune.search.planned import PlannedSearcher
from autotune.search.searcher import SearchContext
from autotune.spaces.errors import ScheduleError
from autotune.spaces.schedule import Schedule
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

FAMILY = "fewer-steps"

STEP_COUNTS = (4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 25, 30, 40)

LONG = 40
"""A default of more steps is far from where quality begins to fall, so that its half says little."""

OWN_GRID = "own grid"
UNIFORM_LAMBDA = "uniform lambda"
HALFWAY = "halfway grid"
"""Between the other two: the mean of their timesteps."""

LAMBDA_END = 0.25
"""The uniform grid in lambda ends at this share of the own grid's last timestep.

Ending at the cleanest trained timestep, as is usual, spends too many of few steps there: with UniPC-2 at 10 steps it
deviates twice as far on two of the three reference models, and as far on the third.
"""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A solver on a family of time grids; `solver` None is the pipeline's own sampler."""

    solver: str | None
    grid: str = OWN_GRID

    def label(self, n_steps: int) -> str:
        """Such as "unipc-2, uniform lambda, 8 steps"."""
        return ", ".join([*([self.solver, self.grid] if self.solver else ["own sampler"]), f"{n_steps} steps"])


OWN_SAMPLER = Recipe(solver=None)

RECIPES: tuple[Recipe, ...] = (
    Recipe(solver="unipc-2", grid=UNIFORM_LAMBDA),
    Recipe(solver="unipc-2", grid=HALFWAY),
    Recipe(solver="ab2"),
    Recipe(solver="unipc-2"),
    Recipe(solver="unipc-3", grid=UNIFORM_LAMBDA),
    Recipe(solver="ab2", grid=HALFWAY),
    Recipe(solver="unipc-3"),
    Recipe(solver="unipc-3", grid=HALFWAY),
    Recipe(solver="dpmpp-2m", grid=UNIFORM_LAMBDA),
    Recipe(solver="dpmpp-2m"),
    Recipe(solver="dpmpp-2m", grid=HALFWAY),
    Recipe(solver="ab2", grid=UNIFORM_LAMBDA),
    Recipe(solver="euler"),
    Recipe(solver="euler", grid=UNIFORM_LAMBDA),
)
"""In the order in which a small budget tries them."""

N_FIRST = 4
"""Recipes that are tried at the middle step count before the best of them is taken to others."""


class FewerStepsSearcher(PlannedSearcher):
    """Solver x time grid x step count, the most telling first, since a small budget reaches only the beginning.

    The pipeline's own sampler at two step counts; the first recipes at the middle one; the best of them at three more;
    the other recipes at the middle one; then, at all counts, the best recipe and the best on another grid, since the
    better grid changes with the count; then the rest in order of merit. The seed has no effect.
    """

    family = FAMILY

    def _candidates(self) -> Iterator[tuple[str, Schedule]]:
        for recipe, n in self._order():
            schedule = recipe_schedule(recipe, self._context, n)
            if schedule is not None:
                yield recipe.label(n), schedule

    def _order(self) -> Iterator[tuple[Recipe, int]]:
        default = self._context.condition.n_steps
        counts = step_counts(default)
        coarse = coarse_counts(counts, default)
        pivot, others = coarse[0], coarse[1:]
        fine = [n for n in counts if n not in coarse]
        for n in coarse[:2]:
            yield OWN_SAMPLER, n
        for recipe in RECIPES[:N_FIRST]:
            yield recipe, pivot
        best = self._ranked(RECIPES[:N_FIRST], pivot)[0]
        for n in others:
            yield best, n
        for recipe in RECIPES[N_FIRST:]:
            yield recipe, pivot
        ranked = self._ranked(RECIPES, pivot)
        leaders = [ranked[0], *(r for r in ranked[1:] if r.grid != ranked[0].grid)][:2]
        for n in [*others, *fine]:
            for recipe in leaders:
                yield recipe, n
        for n in [*others, *fine]:
            yield OWN_SAMPLER, n
        for recipe in ranked:
            for n in [*others, *fine]:
                yield recipe, n

    def _ranked(self, recipes: Sequence[Recipe], n_steps: int) -> list[Recipe]:
        """Recipes by their error at `n_steps`, the best first; what failed comes last."""
        return sorted(recipes, key=lambda recipe: self._error.get(recipe.label(n_steps), float("inf")))


def step_counts(default: int) -> list[int]:
    """The step counts that are tried where the pipeline takes `default`."""
    return sorted({n for n in STEP_COUNTS if n < default} | {default})


def recipe_schedule(recipe: Recipe, context: SearchContext, n: int) -> Schedule | None:
    """A recipe at n steps; None where it has no such schedule, or where that is the baseline."""
    condition = context.condition
    if recipe.solver is None:
        return Schedule(n_steps=n) if n != condition.n_steps else None
    try:
        solver = make_solver(recipe.solver, n, condition.noise_schedule)
        return Schedule(n_steps=n, time=_grid(recipe.grid, context, n), solver=solver)
    except ScheduleError:
        return None


def own_grid(context: SearchContext, n: int) -> tuple[float, ...]:
    """The pipeline's own grid from the condition's starting noise level on, as the reference has it.

    A sampler that calls the network more often than it steps has no grid of n calls; even spacing stands in.
    """
    start = context.condition.start_timestep
    own = context.own_timesteps(n)
    return (start, *own[1:]) if len(own) == n else tuple(start * (1.0 - i / n) for i in range(n))


def _grid(name: str, context: SearchContext, n: int) -> tuple[float, ...]:
    """A time grid that begins at the condition's starting noise level."""
    own = own_grid(context, n)
    if name == OWN_GRID:
        return own
    even = uniform_lambda(context.condition.noise_schedule, n, t_start=own[0], t_end=LAMBDA_END * own[-1])
    if name == UNIFORM_LAMBDA:
        return even
    return tuple(0.5 * (a + b) for a, b in zip(own, even, strict=True))


def by_importance(counts: Sequence[int], default: int) -> list[int]:
    """Step counts up to `default`, about a half, a quarter, seven tenths and a third of it first."""
    counts = sorted({n for n in counts if n < default} or {default})
    coarse = coarse_counts(counts, default)
    return [*coarse, *(n for n in counts if n not in coarse)]


def coarse_counts(counts: Sequence[int], n_steps: int) -> list[int]:
    """Up to four counts: about a half, a quarter, seven tenths and a third of the default, or of `LONG`."""
    chosen: list[int] = []
    n_steps = min(n_steps, LONG)
    for share in (0.5, 0.25, 0.7, 0.35):
        nearest = min(counts, key=lambda n: abs(n - share * n_steps))
        if nearest not in chosen:
            chosen.append(nearest)
    return chosen
