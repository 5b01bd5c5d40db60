"""Optuna (Akiba et al. 2019, arXiv 1907.10902) on the low-dimensional encoding of solver schedules."""

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, get_args

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, TPESampler
from optuna.trial import Trial, TrialState, create_trial

from autotune.search.fewer_steps import N_FIRST, RECIPES, coarse_counts, recipe_schedule, step_counts
from autotune.search.searcher import Proposal, Result, SearchContext
from autotune.search.solver_encoding import BOUNDS, MAX_ORDER, SolverEncoding, SolverPoint
from autotune.spaces.error_scale import error_value
from autotune.spaces.errors import ScheduleError, UsageError
from autotune.spaces.evaluation import Failure, Measurement
from autotune.spaces.objective import objective_value
from autotune.spaces.schedule import canonical_schedule, schedule_hash
from autotune.spaces.solver_program import compile_program
from autotune.spaces.solver_step import Relaxation

Sampler = Literal["tpe", "nsga2", "nsga3", "gp"]

LARGE = 1e12
"""Stands in for infinity."""

MAX_TRIES = 200
"""Trials without a new schedule after which the space counts as exhausted."""

NEAR = 0.15
"""The result of a schedule whose grid is so close to a point's (`SolverEncoding.grid_error`) counts as the point's."""


@dataclass(frozen=True, kw_only=True)
class OptunaSettings:
    """The sampler, and how it begins.

    `tpe` is the Tree-structured Parzen Estimator (Bergstra et al. 2011), in Optuna's default form: multivariate for
    one objective, one estimator per number for several. `nsga2` is NSGA-II (Deb et al. 2002) and `nsga3` NSGA-III
    (Deb & Jain 2014) with generations of `population_size`, `gp` a Gaussian process with expected hypervolume
    improvement, whose proposals take a second and more, the longer the more is known. `tpe` and `gp` draw at random
    until `n_startup` schedules are measured. The first `n_presets` recipes of `fewer-steps` come first, at its middle
    step count.

    Raises:
        UsageError: the sampler is unknown, or a number is too small.
    """

    sampler: Sampler = "tpe"
    n_startup: int = 10
    population_size: int = 20
    n_presets: int = N_FIRST

    def __post_init__(self) -> None:
        if self.sampler not in get_args(Sampler):
            raise UsageError(f"sampler must be one of {', '.join(get_args(Sampler))}; got {self.sampler!r}")
        for name, least in (("n_startup", 0), ("population_size", 2), ("n_presets", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}; got {getattr(self, name)}")

    def make_sampler(self, seed: int) -> BaseSampler:
        """Optuna's sampler, with random states of its own."""
        if self.sampler == "nsga2":
            return NSGAIISampler(population_size=self.population_size, seed=seed)
        if self.sampler == "nsga3":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return NSGAIIISampler(population_size=self.population_size, seed=seed)
        if self.sampler == "gp":
            return GPSampler(n_startup_trials=self.n_startup, seed=seed, warn_independent_sampling=False)
        return TPESampler(n_startup_trials=self.n_startup, constant_liar=True, seed=seed)


class OptunaSearcher:
    """Ask and tell of an Optuna study that lives in memory; our database is the record. Its sampler is TPE by default.

    The study minimises the context's objectives, an error by its logarithm, and is told by how much each
    constraint is broken; a failure ends its trial as FAIL. A trial that stands for a known schedule gets the known
    result. Results of other families become trials where a point has their formulas and nearly their grid.
    """

    family: ClassVar[str] = "optuna"
    sampler: ClassVar[Sampler] = "tpe"

    def __init__(self, context: SearchContext, seed: int = 0, settings: OptunaSettings | None = None) -> None:
        self._context = context
        self._settings = settings or OptunaSettings(sampler=self.sampler)
        self._encoding = SolverEncoding(context.condition, context.inventory)
        self._space = _distributions(self._encoding)
        with _quiet():
            self._study = optuna.create_study(
                study_name=self.family,
                directions=["minimize"] * len(context.objectives),
                sampler=self._settings.make_sampler(seed),
            )
        self._outcomes: dict[str, Measurement | Failure] = {}
        self._waiting: dict[str, list[Trial]] = {}
        self._queued = False

    def ask(self, n: int) -> list[Proposal]:
        """Up to `n` new schedules: presets first, then what the sampler draws."""
        if not self._queued:
            self._enqueue_presets()
        proposals: list[Proposal] = []
        n_tries = 0
        while len(proposals) < n and n_tries < MAX_TRIES:
            n_tries += 1
            with _quiet():
                trial = self._study.ask(self._space)
            proposal = self._proposal(SolverPoint(**trial.params))
            if proposal is None:
                self._study.tell(trial, state=TrialState.FAIL)
            elif proposal.schedule_hash in self._outcomes:
                self._finish(trial, self._outcomes[proposal.schedule_hash])
            elif proposal.schedule_hash in self._waiting:
                self._waiting[proposal.schedule_hash].append(trial)
            else:
                self._waiting[proposal.schedule_hash] = [trial]
                proposals.append(proposal)
                n_tries = 0
        return proposals

    def tell(self, results: Sequence[Result]) -> None:
        """Finish the trials of own proposals; of others' results, add those that the encoding can express."""
        for result in results:
            digest = result.proposal.schedule_hash
            trials = self._waiting.pop(digest, [])
            for trial in trials:
                self._finish(trial, result.outcome)
            if not trials and digest not in self._outcomes:
                self._add(result)
            self._outcomes[digest] = result.outcome

    def _enqueue_presets(self) -> None:
        self._queued = True
        default = self._context.condition.n_steps
        count = coarse_counts(step_counts(default), default)[0]
        for recipe in RECIPES[: self._settings.n_presets]:
            made = recipe_schedule(recipe, self._context, count)
            if made is None:
                continue
            preset = canonical_schedule(made, self._context.inventory)
            point = self._encoding.encode(preset)
            if point is not None and schedule_hash(preset) not in self._outcomes:
                self._study.enqueue_trial(_parameters(point, self._space), skip_if_exists=True)

    def _proposal(self, point: SolverPoint) -> Proposal | None:
        """The schedule of a point; None where it is no valid program."""
        condition = self._context.condition
        try:
            schedule = self._encoding.decode(point)
            compile_program(schedule, condition.noise_schedule, condition.prediction)
        except ScheduleError:
            return None
        extras = [name for name in ("corrector", "analytic_start") if getattr(point, name)]
        label = ", ".join([f"{point.n_steps} steps", f"{point.form} view", f"order {point.order}", *extras])
        return Proposal(schedule=schedule, family=self.family, label=label.replace("_", " "))

    def _finish(self, trial: Trial, outcome: Measurement | Failure) -> None:
        values = self._values(outcome)
        if values is None or isinstance(outcome, Failure):
            self._study.tell(trial, state=TrialState.FAIL)
            return
        for name, violation in self._violations(outcome).items():
            trial.set_constraint(name, violation)
        self._study.tell(trial, values)

    def _add(self, result: Result) -> None:
        schedule, measurement, values = result.proposal.schedule, result.measurement, self._values(result.outcome)
        point = self._encoding.encode(schedule)
        if measurement is None or values is None or point is None:
            return
        if self._encoding.grid_error(point, schedule) <= NEAR:
            self._study.add_trial(
                create_trial(
                    params=_parameters(point, self._space),
                    distributions=self._space,
                    values=values,
                    constraints=self._violations(measurement),
                )
            )

    def _values(self, outcome: Measurement | Failure) -> list[float] | None:
        """What Optuna minimises; None of a failure, or where a value is not a number."""
        if isinstance(outcome, Failure):
            return None
        values = {name: objective_value(name, outcome) for name in self._context.objectives}
        if any(math.isnan(value) for value in values.values()):
            return None
        errors = {name: error for name in values if (error := error_value(name, outcome)) is not None}
        values |= {name: math.log(error) for name, error in errors.items()}
        return [_finite(value) for value in values.values()]

    def _violations(self, measurement: Measurement) -> dict[str, float]:
        return {str(c): _finite(c.violation(measurement)) for c in self._context.constraints}


class Nsga2Searcher(OptunaSearcher):
    """The same with Optuna's NSGA-II."""

    family, sampler = "optuna-nsga2", "nsga2"


class Nsga3Searcher(OptunaSearcher):
    """The same with Optuna's NSGA-III, for three objectives and more."""

    family, sampler = "optuna-nsga3", "nsga3"


class GpSearcher(OptunaSearcher):
    """The same with Optuna's Gaussian process: for models of which an evaluation takes a minute or more."""

    family, sampler = "optuna-gp", "gp"


def _distributions(encoding: SolverEncoding) -> dict[str, BaseDistribution]:
    """Optuna's distributions of a point's fields."""
    low, high = encoding.step_range
    return {
        "n_steps": IntDistribution(low, high, log=True),
        "form": CategoricalDistribution(tuple(encoding.forms)),
        "order": IntDistribution(1, MAX_ORDER),
        "relaxation": CategoricalDistribution(get_args(Relaxation)),
        "corrector": CategoricalDistribution((False, True)),
        "analytic_start": CategoricalDistribution((False, True) if encoding.allows_analytic_start else (False,)),
        **{name: FloatDistribution(*bounds) for name, bounds in BOUNDS.items()},
    }


def _parameters(point: SolverPoint, space: dict[str, BaseDistribution]) -> dict[str, object]:
    return {name: asdict(point)[name] for name in space}


def _finite(value: float) -> float:
    return max(-LARGE, min(LARGE, value))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from announcing studies and giving advice, and leave its logging as it was."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
