"""The strongest cheap rival: fewer steps with a good solver."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autotune.search.searcher import Novelty, Proposal, Result, SearchContext
from autotune.spaces.errors import ScheduleError
from autotune.spaces.schedule import Schedule
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

FAMILY = "fewer-steps"

STEP_COUNTS = (4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 25, 30, 40)

OWN_GRID = "own grid"
UNIFORM_LAMBDA = "uniform lambda"


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
    Recipe(solver="dpmpp-2m"),
    Recipe(solver="unipc-2"),
    Recipe(solver="ab2"),
    Recipe(solver="unipc-2", grid=UNIFORM_LAMBDA),
    Recipe(solver="dpmpp-2m", grid=UNIFORM_LAMBDA),
    Recipe(solver="unipc-3"),
    Recipe(solver="unipc-3", grid=UNIFORM_LAMBDA),
    Recipe(solver="ab2", grid=UNIFORM_LAMBDA),
    Recipe(solver="euler"),
    Recipe(solver="euler", grid=UNIFORM_LAMBDA),
)
"""In the order in which a small budget tries them."""


class FewerStepsSearcher:
    """Solver x time grid x step count, the most telling first, since a small budget reaches only the beginning.

    First the pipeline's own sampler at four step counts, then every recipe at the middle one, then the two
    recipes that came out best there at all counts, then the rest in order of merit. The seed has no effect.
    """

    def __init__(self, context: SearchContext, seed: int = 0) -> None:
        self._context = context
        self._novelty = Novelty(context.inventory)
        self._deviation: dict[str, float] = {}
        self._n_steps: dict[str, int] = {}
        self._plan = self._candidates()

    def ask(self, n: int) -> list[Proposal]:
        """The next `n` combinations; the ranking of recipes uses what has been told by then."""
        proposals: list[Proposal] = []
        while len(proposals) < n:
            entry = next(self._plan, None)
            if entry is None:
                break
            schedule = self._schedule(*entry)
            if schedule is None:
                continue
            proposal = self._novelty.admit(schedule, family=FAMILY, label=entry[0].label(entry[1]))
            if proposal is not None:
                proposals.append(proposal)
        return proposals

    def tell(self, results: Sequence[Result]) -> None:
        """Note how recipes do; a failure counts as the worst."""
        for result in results:
            self._novelty.mark(result.proposal)
            if result.measurement is not None:
                self._deviation[result.proposal.label] = result.measurement.mean("deviation")

    def _candidates(self) -> Iterator[tuple[Recipe, int]]:
        default = self._context.condition.n_steps
        counts = sorted({n for n in STEP_COUNTS if n < default} | {default})
        coarse = _coarse(counts, default)
        pivot = coarse[0]
        for n in coarse:
            yield OWN_SAMPLER, n
        for recipe in RECIPES:
            yield recipe, pivot
        ranked = sorted(RECIPES, key=lambda recipe: self._deviation.get(recipe.label(pivot), float("inf")))
        fine = [n for n in counts if n not in coarse]
        for n in [*coarse[1:], *fine]:
            for recipe in ranked[:2]:
                yield recipe, n
        for n in fine:
            yield OWN_SAMPLER, n
        for recipe in ranked[2:]:
            for n in [*coarse[1:], *fine]:
                yield recipe, n

    def _schedule(self, recipe: Recipe, n: int) -> Schedule | None:
        """The recipe at n steps; None where it has no such schedule, or where that is the baseline."""
        condition = self._context.condition
        if recipe.solver is None:
            return Schedule(n_steps=n) if n != condition.n_steps else None
        try:
            time = self._grid(recipe.grid, n)
            if time is None:
                return None
            return Schedule(n_steps=n, time=time, solver=make_solver(recipe.solver, n, condition.noise_schedule))
        except ScheduleError:
            return None

    def _grid(self, name: str, n: int) -> tuple[float, ...] | None:
        """A time grid that begins at the condition's starting noise level, as the reference does."""
        condition = self._context.condition
        start = condition.start_timestep
        if name == UNIFORM_LAMBDA:
            return uniform_lambda(condition.noise_schedule, n, t_start=start)
        own = self._context.own_timesteps(n)
        if len(own) != n:
            return None
        return (start, *own[1:])


def _coarse(counts: Sequence[int], n_steps: int) -> list[int]:
    """Up to four counts: about a half, a quarter, seven tenths and a third of the default."""
    chosen: list[int] = []
    for share in (0.5, 0.25, 0.7, 0.35):
        nearest = min(counts, key=lambda n: abs(n - share * n_steps))
        if nearest not in chosen:
            chosen.append(nearest)
    return chosen
