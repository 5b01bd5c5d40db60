"""S3: multi-stage search of solver schedules with a learned predictor (Liu et al. 2024, arXiv 2312.07243)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autotune.search.fewer_steps import RECIPES, by_importance, recipe_schedule
from autotune.search.s3_presets import first_presets
from autotune.search.searcher import Novelty, Proposal, Result, SearchContext
from autotune.search.solver_predictor import SolverPredictor, held_out_tau, spread_out
from autotune.search.solver_variation import SolverVariation
from autotune.spaces.column_fit import FitColumn
from autotune.spaces.error_scale import error_value, scale_of
from autotune.spaces.errors import ScheduleError
from autotune.spaces.evaluation import Measurement
from autotune.spaces.objective import OBJECTIVES, objective_value, total_violation
from autotune.spaces.program_encoding import encode_program
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.solver_program import compile_program
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.trace import Trace
from autotune.spaces.traced_run import RESPONSES, TracedRun

Array = NDArray[np.float64]

FAMILY = "s3"
STEP_COUNTS = (4, 5, 6, 8, 10, 12, 15, 20)
FIRST_FITTED = 2
FIRST_PREDICTED = 3
"""The first stage that a predictor guides."""

MAX_TRIES = 10_000
LAG = 4
"""A step count starts this many stages after the one before it, and learns from it."""


@dataclass(frozen=True, kw_only=True)
class S3Settings:
    """Sizes of the search; they hold for each of `step_counts`, None is `STEP_COUNTS` below the pipeline's own.

    A stage scores `stage_size` schedules. In the first they are presets and the best of other step counts, in the
    second offspring of the best so far. Before each later one a predictor is trained on everything scored until then,
    and `n_generations` of `n_offspring` schedules evolve on its predictions. Of the last `n_survivors` the most
    promising and diverse make up the share `guided` of the stage; the rest are offspring as in the second one, which
    keep the search from following its own errors. A prediction counts as its mean minus `optimism` standard deviations.
    `n_parents` is the size of the parent pool, `crossover` the share of offspring with two parents, `toggle` that of
    those that gain or lose the analytic first step. In the second stage and then every `fit_every` ones, 0 for never,
    times and factors of the best schedule that was not fitted yet are fitted by gradient, and the result is tried
    first; the second time with the first step turned analytic, or back: unfitted, none would stand up to fitted ones.
    """

    step_counts: tuple[int, ...] | None = None
    stage_size: int = 6
    n_generations: int = 2
    n_offspring: int = 100
    n_survivors: int = 60
    guided: float = 2 / 3
    optimism: float = 1.5
    n_parents: int = 15
    crossover: float = 0.3
    toggle: float = 0.05
    fit_every: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What a predictor was worth: Kendall's tau on schedules that it had not seen, out of `n_scored`."""

    n_steps: int
    number: int
    n_scored: int
    tau: float


@dataclass(frozen=True, slots=True)
class _Member:
    schedule: Schedule
    encoding: Array
    score: float


@dataclass(slots=True)
class _Population:
    """What is known and planned at one step count; `n_left` schedules of its stage are still to be proposed.

    Of these, the last `n_free` are plain offspring. `fitted` schedules were fitted, or are what came of it, in `n_fits`
    fits. `tau` is what the stage's predictor was worth, None without one.
    """

    lag: int
    members: list[_Member] = field(default_factory=list)
    queue: list[Schedule] = field(default_factory=list)
    stage: int = 0
    n_left: int = 0
    n_free: int = 0
    fitted: set[Schedule] = field(default_factory=set)
    n_fits: int = 0
    tau: float | None = None

    def best(self, n: int) -> list[_Member]:
        """The best `n` members, best first."""
        return sorted(self.members, key=lambda member: member.score)[:n]


class S3Searcher:
    """Evolution of the columns `time` and `solver`, stage by stage, at several step counts in turn.

    The score is the study's first objective of quality, by default the error; results that failed or break a
    constraint are left out. We deviate from the paper in the predictor, a Gaussian process on the compiled coefficients
    and on their errors on a trace, and in the gradient that now and then finishes what evolution has begun.

    From the released search we deviate in the operators (`SolverVariation`). A step count stays what its population
    has, so that a step is inserted and another deleted at once, in one offspring of twenty; there, one in five inserts
    and one in five deletes. Times move in lambda, in units of their gaps, where there they are multiplied. One choice
    of one step is redrawn, in two offspring of five, where there every choice of every step has a chance of 0.2 to 0.5;
    formulas cross step by step, where there a group of decisions crosses whole before steps are mixed; and one
    offspring in twenty toggles the analytic first step, where there three in ten do. On a landscape with a known best
    program, rates closer to the released ones and whole groups, together, found worse schedules than these.
    """

    def __init__(self, context: SearchContext, seed: int = 0, settings: S3Settings | None = None) -> None:
        self._context = context
        self._settings = settings or S3Settings()
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._novelty = Novelty(context.inventory)
        condition = context.condition
        self._noise, self._prediction = condition.noise_schedule, condition.prediction
        self._variation = SolverVariation(self._noise, condition.start_timestep, guided=context.guided)
        self._quality = next((name for name in context.objectives if not OBJECTIVES[name].is_cost), None)
        counts = self._settings.step_counts or by_importance(STEP_COUNTS, condition.n_steps)
        self._populations = {n: _Population(lag=LAG * i) for i, n in enumerate(counts)}
        self.stages: list[Stage] = []

    def ask(self, n: int) -> list[Proposal]:
        """Up to `n` schedules; a stage is finished before the next one, of the step count that has come least far."""
        proposals: list[Proposal] = []
        for _ in range(MAX_TRIES):
            if len(proposals) == n:
                break
            count, population = min(
                self._populations.items(), key=lambda item: (item[1].n_left == 0, item[1].stage + item[1].lag)
            )
            if population.n_left == 0:
                self._begin_stage(count, population)
            if population.queue and population.n_left > population.n_free:
                schedule = population.queue.pop(0)
            elif population.stage > 1 and population.members:
                schedule = self._offspring([member.schedule for member in population.best(self._settings.n_parents)])
            else:
                population.n_left = 0
                continue
            label = f"stage {population.stage}, {count} steps" + ", fitted" * (schedule in population.fitted)
            label += "" if population.tau is None else f", tau {population.tau:.2f}"
            proposal = self._novelty.admit(schedule, family=FAMILY, label=label)
            if proposal is not None and self._encoding(schedule) is not None:
                population.n_left -= 1
                proposals.append(proposal)
        return proposals

    def tell(self, results: Sequence[Result]) -> None:
        """Take results in, also those of other families that choose nothing but `time` and `solver`."""
        for result in results:
            self._novelty.mark(result.proposal)
            schedule, measurement = result.proposal.schedule, result.measurement
            population = self._populations.get(schedule.n_steps)
            encoding = self._encoding(schedule) if _is_pure(schedule) else None
            if population is None or measurement is None or encoding is None:
                continue
            if total_violation(self._context.constraints, measurement) == 0.0:
                population.members.append(_Member(schedule, encoding, self._score(measurement)))

    def _score(self, measurement: Measurement) -> float:
        """The quality, less is better; of an error its logarithm."""
        quality = self._quality or scale_of(measurement).metric
        error = error_value(quality, measurement)
        return objective_value(quality, measurement) if error is None else float(np.log(error))

    def _begin_stage(self, count: int, population: _Population) -> None:
        population.stage += 1
        population.n_left, population.n_free = self._settings.stage_size, 0
        population.tau = None
        if population.stage == 1:
            presets = first_presets(self._context, count, self._trace)
            population.queue = [*presets, *self._transferred(count)]
            population.n_left = len(population.queue)
        elif not population.members:  # all failed so far
            recipes = (recipe_schedule(recipe, self._context, count) for recipe in RECIPES)
            population.queue = [schedule for schedule in recipes if schedule is not None]
            population.n_left = len(population.queue)
        elif population.stage >= FIRST_PREDICTED and len(population.members) > self._settings.stage_size:
            population.queue = self._promising(count, population)
            population.n_free = round((1.0 - self._settings.guided) * self._settings.stage_size)
        if self._settings.fit_every and population.stage % self._settings.fit_every == FIRST_FITTED:
            population.queue = [*self._fitted(population), *population.queue]

    def _fitted(self, population: _Population) -> list[Schedule]:
        """The best schedule that has not been fitted, enriched, and with its times and factors fitted."""
        tried = population.fitted
        best = next((m.schedule for m in population.best(len(population.members)) if m.schedule not in tried), None)
        if best is None:
            return []
        start = self._variation.toggle_start(best, self._rng) if population.n_fits == 1 else best
        try:
            made = self._context.fit(self._variation.enriched(start), FitColumn.SOLVER).schedule
        except ScheduleError:
            made = best
        made = canonical_schedule(made, self._context.inventory)
        population.fitted |= {best, made}
        population.n_fits += 1
        return [made]

    def _transferred(self, count: int) -> list[Schedule]:
        """The best schedules of the nearest step counts, steps inserted or left out."""
        found: list[Schedule] = []
        others = sorted(
            (n for n, p in self._populations.items() if n != count and p.members), key=lambda n: abs(n - count)
        )
        for other in others[:2]:
            for member in self._populations[other].best(2):
                schedule = member.schedule
                while schedule.n_steps != count:
                    change = self._variation.lengthened if schedule.n_steps < count else self._variation.shortened
                    schedule = change(schedule, self._rng)
                found.append(schedule)
        return found

    def _offspring(self, parents: Sequence[Schedule]) -> Schedule:
        """A child of parents sorted by merit: the better of two random ones, sometimes crossed with a third."""
        rng, settings = self._rng, self._settings
        first, second, third = rng.integers(0, len(parents), size=3)
        child = parents[min(first, second)]
        if rng.random() < settings.crossover:
            child = self._variation.cross(child, parents[third], rng)
        if rng.random() < settings.toggle:
            child = self._variation.toggle_start(child, rng)
        return self._variation.mutate(child, rng)

    def _promising(self, count: int, population: _Population) -> list[Schedule]:
        """Train a predictor, evolve on its predictions, and put the survivors into the order of their trial."""
        settings = self._settings
        encodings = [member.encoding for member in population.members]
        scores = [member.score for member in population.members]
        n_errors = 0 if self._traced is None else len(RESPONSES)
        predictor = SolverPredictor(encodings, scores, n_errors=n_errors)
        tau = held_out_tau(encodings, scores, self._seed, n_errors=n_errors)
        population.tau = tau
        self.stages.append(Stage(n_steps=count, number=population.stage, n_scored=len(scores), tau=tau))
        best = population.best(settings.n_parents)
        pool = [member.schedule for member in best]
        codes = np.array([member.encoding for member in best])
        for _ in range(settings.n_generations):
            children = [self._offspring(pool[: settings.n_parents]) for _ in range(settings.n_offspring)]
            encoded = [(child, code) for child in children if (code := self._encoding(child)) is not None]
            pool = [*pool, *(child for child, _ in encoded)]
            codes = np.concatenate([codes, *(code[None] for _, code in encoded)])
            mean, deviation = predictor.predict(codes)
            order = np.argsort(mean - settings.optimism * deviation, kind="stable")[: settings.n_survivors]
            pool, codes = [pool[i] for i in order], codes[order]
        return [pool[i] for i in spread_out(predictor.scaled(codes))]

    def _encoding(self, schedule: Schedule) -> Array | None:
        """The schedule as its predictor sees it; None where it is no valid program."""
        try:
            program = compile_program(schedule, self._noise, self._prediction)
        except ScheduleError:
            return None
        encoded = encode_program(program, self._noise)
        return encoded if self._traced is None else np.concatenate([encoded, self._traced.log_errors(program)])

    @cached_property
    def _traced(self) -> TracedRun | None:
        """What tells a program's error without the network; None where nothing can be traced."""
        return None if self._trace is None else TracedRun(self._trace, self._noise, self._prediction)

    @cached_property
    def _trace(self) -> Trace | None:
        return None if self._context.trace is None else self._context.trace()


def _is_pure(schedule: Schedule) -> bool:
    """Whether a schedule chooses nothing but what is varied here: no other column, no single-step or SDE rows."""
    if any(
        column is not None for column in (schedule.cache, schedule.guidance, schedule.compensation, schedule.policy)
    ):
        return False
    rows = schedule.solver or ()
    plain = all(row.origin == 0 and not (isinstance(row, SolverStep) and row.stochastic) for row in rows)
    return schedule.time is not None and schedule.correction is None and plain
