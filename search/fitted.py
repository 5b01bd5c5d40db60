"""Families that fit a column by gradient to known solvers: DC-Solver's compensation, and additive corrections."""

from collections.abc import Iterator

from autotune.search.fewer_steps import RECIPES, Recipe, recipe_schedule, step_counts
from autotune.search.planned import PlannedSearcher
from autotune.spaces.column_fit import FitColumn
from autotune.spaces.compensation_regression import CompensationRegression, RatioSample, leave_one_out_error
from autotune.spaces.errors import ScheduleError
from autotune.spaces.schedule import Schedule

DC = "dc"
SOLVER_DISTILL = "solver-distill"

N_FITTED = 4
"""Step counts at which the ratios of a solver are fitted before the regression predicts those at the others."""


class FittedSearcher(PlannedSearcher):
    """Fits one column to the solvers of `fewer-steps`, the best known one first, at one step count after another.

    Proposals are what the fits give, so asking takes as long as a fit.
    """

    column: FitColumn

    def _candidates(self) -> Iterator[tuple[str, Schedule]]:
        tried: set[Recipe] = set()
        solvers = [recipe for recipe in RECIPES if recipe.solver is not None]
        while len(tried) < len(solvers):
            recipe = min((r for r in solvers if r not in tried), key=self._mean_rank)
            tried.add(recipe)
            yield from self._of_recipe(recipe)

    def _of_recipe(self, recipe: Recipe) -> Iterator[tuple[str, Schedule]]:
        for n in step_counts(self._context.condition.n_steps):
            fitted = self._fitted(recipe, n)
            if fitted is not None:
                yield self._label(recipe, n), fitted

    def _fitted(self, recipe: Recipe, n: int) -> Schedule | None:
        """The recipe at n steps with its column fitted; None where it has no such schedule."""
        base = recipe_schedule(recipe, self._context, n)
        if base is None:
            return None
        try:
            return self._context.fit(base, self.column).schedule
        except ScheduleError:  # too few steps
            return None

    def _label(self, recipe: Recipe, n: int) -> str:
        return f"{recipe.label(n)}, {self.column} fitted"

    def _mean_rank(self, recipe: Recipe) -> float:
        """The recipe's mean rank among the others over the step counts where it was measured; 1000 where it was not."""
        ranks = []
        for n in step_counts(self._context.condition.n_steps):
            own = self._error.get(recipe.label(n))
            if own is not None:
                ranks.append(sum(self._error.get(other.label(n), own) < own for other in RECIPES))
        return sum(ranks) / len(ranks) if ranks else 1000.0


class DistillSearcher(FittedSearcher):
    """Additive corrections to a solver's coefficients and timesteps, distilled from the converged run."""

    family = SOLVER_DISTILL
    column = FitColumn.CORRECTION


class CompensationSearcher(FittedSearcher):
    """DC-Solver (Zhao et al. 2024, arXiv 2409.03755): ratios fitted at a few step counts, predicted at the others.

    A study has one guidance scale, so its regression predicts over step counts alone; how well one over guidance does,
    `benchmarks/solvers.py` measures. A label says to what root mean square error it predicts the ratios of a fit that
    it is not told of, or, where no fit lies between others, those that it was fitted to. Where predictions fall short,
    the fits at the other counts follow.
    """

    family = DC
    column = FitColumn.COMPENSATION

    def _of_recipe(self, recipe: Recipe) -> Iterator[tuple[str, Schedule]]:
        counts = step_counts(self._context.condition.n_steps)
        first = sorted({counts[round(i * (len(counts) - 1) / (N_FITTED - 1))] for i in range(N_FITTED)})
        samples = []
        for n in first:
            fitted = self._fitted(recipe, n)
            if fitted is not None:
                guidance = self._context.condition.guidance_scale
                samples.append(RatioSample.of(fitted, guidance))
                yield self._label(recipe, n), fitted
        others = [n for n in counts if n not in first]
        if len(samples) >= 2:
            regression = CompensationRegression.fit(samples)
            error = leave_one_out_error(samples)
            precision = f" to {regression.rms_error if error is None else error:.2g}"
            for n in others:
                base = recipe_schedule(recipe, self._context, n)
                if base is not None and regression.covers(n, self._context.condition.guidance_scale):
                    label = f"{recipe.label(n)}, compensation predicted{precision}"
                    yield label, regression.compensated(base, self._context.condition.guidance_scale)
        for n in others:
            fitted = self._fitted(recipe, n)
            if fitted is not None:
                yield self._label(recipe, n), fitted
