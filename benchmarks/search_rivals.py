"""What `search.py` compares: our searchers, and those of Optuna and pymoo, on cache plans.

All search the same plans, a bool table of network calls x sites, True is reuse, at the pipeline's own sampler: the
forecasts that `ecad` knows too are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler

from autotune.search.ecad import EcadSearcher, EcadSettings, PublishedEcadSearcher
from autotune.search.optuna_search import OptunaSettings, Sampler
from autotune.search.random_search import RandomSearcher
from autotune.search.searcher import Proposal, Result, SearchContext, Searcher
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.error_scale import ERROR_FLOOR
from autotune.spaces.evaluation import Measurement
from autotune.spaces.schedule import Schedule, canonical_schedule

Mask = NDArray[np.bool_]

POPULATION = 24
"""Of every NSGA-II here: ECAD's for FLUX."""

MAX_REFRESH_POWER = 2.0


class Contestant(Protocol):
    """Asks for one schedule at a time and is told what came of it; it may ask for what is known."""

    def ask(self) -> Proposal | None:
        """The next one; None if there are no more."""
        ...

    def tell(self, result: Result) -> None:
        """Learn from the result of what was asked for last, or of the baseline."""
        ...


class Own:
    """One of our searchers."""

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher

    def ask(self) -> Proposal | None:
        """Its next proposal."""
        return next(iter(self._searcher.ask(1)), None)

    def tell(self, result: Result) -> None:
        """Pass the result on."""
        self._searcher.tell([result])


class Pymoo:
    """NSGA-II of pymoo (Blank and Deb 2020) on the bits themselves.

    Binary sampling, two-point crossover, bit flips at rate 1/n, and removal of duplicates: its defaults for such a
    problem. The first call is never reused, which the canonical form would undo.
    """

    def __init__(self, context: SearchContext, seed: int) -> None:
        from pymoo.algorithms.moo.nsga2 import NSGA2  # needed by this one only: pip install pymoo
        from pymoo.core.problem import Problem
        from pymoo.operators.crossover.pntx import TwoPointCrossover
        from pymoo.operators.mutation.bitflip import BitflipMutation
        from pymoo.operators.sampling.rnd import BinaryRandomSampling

        self._context = context
        n_bits = (context.n_calls - 1) * len(context.inventory)
        self._problem = Problem(n_var=n_bits, n_obj=2, xl=0, xu=1, vtype=bool)
        self._algorithm = NSGA2(
            pop_size=POPULATION,
            sampling=BinaryRandomSampling(),
            crossover=TwoPointCrossover(),
            mutation=BitflipMutation(),
            eliminate_duplicates=True,
        )
        self._algorithm.setup(self._problem, termination=("n_gen", 10**9), seed=seed, verbose=False)
        self._infills: Any = None
        self._values: list[tuple[float, float]] = []

    def ask(self) -> Proposal | None:
        """The next individual of the generation."""
        if self._infills is None:
            self._infills, self._values = self._algorithm.ask(), []
        if self._infills is None or len(self._infills) == 0:
            return None
        bits = self._infills[len(self._values)].X
        later = np.asarray(bits, bool).reshape(self._context.n_calls - 1, -1)
        return proposal(self._context, np.vstack([np.zeros_like(later[:1]), later]), "pymoo")

    def tell(self, result: Result) -> None:
        """Note the values; a whole generation goes to the algorithm."""
        if self._infills is None:
            return  # the baseline
        self._values.append(objectives(result))
        if len(self._values) == len(self._infills):
            from pymoo.core.evaluator import Evaluator
            from pymoo.problems.static import StaticProblem

            Evaluator().eval(StaticProblem(self._problem, F=np.array(self._values)), self._infills)
            self._algorithm.tell(infills=self._infills)
            self._infills = None


class Optuna:
    """A sampler of Optuna on few numbers, since one parameter per bit would be hundreds.

    Each kind of leaf is recomputed in a number of calls, which lie at n (k / count)^power, as in DeepCache's uneven
    plans; so many blocks at the entry and at the exit of the stack are recomputed in a number of calls of their own.
    """

    def __init__(self, context: SearchContext, seed: int, sampler: BaseSampler) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._context = context
        self._study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
        self._trial: optuna.Trial | None = None
        sites = context.inventory.sites
        self._kinds = list(dict.fromkeys(site.component for site in sites))
        self._blocks = list(dict.fromkeys(site.block for site in sites))

    def ask(self) -> Proposal | None:
        """What the sampler draws next."""
        self._trial = self._study.ask()
        return proposal(self._context, self._mask(self._trial), "optuna")

    def tell(self, result: Result) -> None:
        """End the trial."""
        if self._trial is not None:
            self._study.tell(self._trial, objectives(result))
            self._trial = None

    def _mask(self, trial: optuna.Trial) -> Mask:
        sites, n_calls = self._context.inventory.sites, self._context.n_calls
        n_edge = max(1, len(self._blocks) // 4)
        n_entry, n_exit = (trial.suggest_int(name, 0, n_edge) for name in ("entry blocks", "exit blocks"))
        edge = {*self._blocks[:n_entry], *self._blocks[len(self._blocks) - n_exit :]}
        edge_rows = self._refreshed(trial, "edge", n_calls)
        rows = {kind: self._refreshed(trial, kind, n_calls) for kind in self._kinds}
        columns = [edge_rows if site.block in edge else rows[site.component] for site in sites]
        return ~np.stack(columns, axis=1)

    def _refreshed(self, trial: optuna.Trial, name: str, n_calls: int) -> Mask:
        count = trial.suggest_int(f"{name} calls", 1, n_calls)
        power = trial.suggest_float(f"{name} power", 1.0 / MAX_REFRESH_POWER, MAX_REFRESH_POWER, log=True)
        refreshed = np.zeros(n_calls, bool)
        refreshed[np.floor(n_calls * (np.arange(count) / count) ** power).astype(int)] = True
        return refreshed


def proposal(context: SearchContext, reuse: Mask, family: str) -> Proposal:
    """The canonical schedule of a mask."""
    plan = CachePlan.from_array(reuse)
    schedule = canonical_schedule(Schedule(n_steps=context.condition.n_steps, cache=plan), context.inventory)
    return Proposal(schedule=schedule, family=family, label="")


def objectives(result: Result) -> tuple[float, float]:
    """Relative MACs and the logarithm of the deviation, which all contestants minimise."""
    measurement = result.measurement
    assert isinstance(measurement, Measurement), result.outcome  # every cache plan can be predicted
    return measurement.relative_macs, float(np.log10(max(measurement.mean("deviation"), ERROR_FLOOR)))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A contestant by name, whether the ladder measures for it, and how many schedules it may try, None for any."""

    name: str
    make: Callable[[SearchContext, int], Contestant]
    has_ladder: bool = False
    max_tried: int | None = None


def _sampler(name: Sampler) -> Callable[[SearchContext, int], Contestant]:
    settings = OptunaSettings(sampler=name, population_size=POPULATION)
    return lambda context, seed: Optuna(context, seed, settings.make_sampler(seed))


def _ecad(context: SearchContext, seed: int) -> Contestant:
    return Own(EcadSearcher(context, seed, EcadSettings(reads=(CacheAction.REUSE,))))


BASELINE = "random"

TPE_TRIED, GP_TRIED = 250, 50
"""How far the samplers go that think longer the more they know: for most of a second per proposal by then."""

ENTRIES: tuple[Entry, ...] = (
    Entry(name=BASELINE, make=lambda context, seed: Own(RandomSearcher(context, seed))),
    Entry(name="ecad", make=_ecad),
    Entry(name="ecad with ladder", make=_ecad, has_ladder=True),
    Entry(
        name="ecad as published",
        make=lambda context, seed: Own(PublishedEcadSearcher(context, seed)),
    ),
    Entry(name="pymoo NSGA-II", make=Pymoo),
    Entry(name="optuna NSGA-II", make=_sampler("nsga2")),
    Entry(name=f"optuna TPE, first {TPE_TRIED}", make=_sampler("tpe"), max_tried=TPE_TRIED),
    Entry(name=f"optuna GP, first {GP_TRIED}", make=_sampler("gp"), max_tried=GP_TRIED),
)
