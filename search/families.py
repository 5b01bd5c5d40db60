"""The searchers by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType

from autotune.search.searcher import SearchContext, Searcher
from autotune.spaces.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A searcher: the columns of a schedule that it decides, how it does so in one line, and where its class is.

    `columns` are fields of `Schedule`; `target` is `module:class`, imported when it is made. With
    `needs_convergence` it fits or learns from a converged run; samplers that draw noise at every step have none.
    `extra_objectives` are minimised besides latency and quality unless a study names its objectives.
    """

    name: str
    columns: tuple[str, ...]
    method: str
    target: str
    needs_convergence: bool = False
    extra_objectives: tuple[str, ...] = ()


_ALL = (
    Family(
        name="joint",
        columns=(
            "n_steps",
            "time",
            "solver",
            "start",
            "correction",
            "cache",
            "cache_correction",
            "guidance",
            "policy",
            "quantization",
        ),
        method="whole schedules evolve beside ecad, s3, policies, fits, bits if asked; a bandit shares the budget",
        target="autotune.search.joint:JointSearcher",
    ),
    Family(
        name="ecad",
        columns=("cache", "guidance"),
        method="NSGA-II on cache actions and guidance branches, from plans and known patterns on",
        target="autotune.search.ecad:EcadSearcher",
        extra_objectives=("cache-memory",),
    ),
    Family(
        name="ecad-published",
        columns=("cache",),
        method="ECAD with the population, operators and seeds of its paper, to compare with",
        target="autotune.search.ecad:PublishedEcadSearcher",
    ),
    Family(
        name="cache-plan",
        columns=("cache",),
        method="the cheapest refreshes and forecasts by dynamic programming on a trace, for every budget",
        target="autotune.search.cache_plans:CachePlanSearcher",
    ),
    Family(
        name="cachequant",
        columns=("cache", "cache_correction", "quantization"),
        method="CacheQuant's dynamic programme, plain, corrected, and quantized if bits are an objective",
        target="autotune.search.cachequant:CacheQuantSearcher",
    ),
    Family(
        name="bac",
        columns=("cache",),
        method="BAC: branches refreshed in calls of their own, planned on traces, volatile ones in unions",
        target="autotune.search.bac:BacSearcher",
    ),
    Family(
        name="evo",
        columns=("cache",),
        method="EVO-style evolution of the branches' refreshes, from BAC's plans and random sets on",
        target="autotune.search.evo:EvoSearcher",
    ),
    Family(
        name="s3",
        columns=("n_steps", "time", "solver", "start"),
        method="staged evolution of solver schedules with a learned predictor, the best fitted by gradient",
        target="autotune.search.s3:S3Searcher",
        needs_convergence=True,
    ),
    Family(
        name="optuna",
        columns=("n_steps", "time", "solver", "start"),
        method="Optuna's TPE on solver schedules in 13 numbers",
        target="autotune.search.optuna_search:OptunaSearcher",
    ),
    Family(
        name="optuna-nsga2",
        columns=("n_steps", "time", "solver", "start"),
        method="Optuna's NSGA-II on the same numbers",
        target="autotune.search.optuna_search:Nsga2Searcher",
    ),
    Family(
        name="optuna-nsga3",
        columns=("n_steps", "time", "solver", "start"),
        method="Optuna's NSGA-III, for three objectives and more",
        target="autotune.search.optuna_search:Nsga3Searcher",
    ),
    Family(
        name="optuna-gp",
        columns=("n_steps", "time", "solver", "start"),
        method="Optuna's Gaussian process, for models that take a minute per evaluation",
        target="autotune.search.optuna_search:GpSearcher",
    ),
    Family(
        name="dc",
        columns=("compensation",),
        method="DC-Solver's ratios for known solvers, by gradient, and predicted for other step counts",
        target="autotune.search.fitted:CompensationSearcher",
        needs_convergence=True,
    ),
    Family(
        name="solver-distill",
        columns=("correction",),
        method="corrections to known solvers' coefficients and timesteps, by gradient to a converged run",
        target="autotune.search.fitted:DistillSearcher",
        needs_convergence=True,
    ),
    Family(
        name="policies",
        columns=("policy",),
        method="the five below in turns; rivals on the plot of every family that decides a cache",
        target="autotune.search.policies:EveryPolicySearcher",
    ),
    Family(
        name="sada",
        columns=("policy",),
        method="SADA: calls skipped where states and slopes agree; proper, multi-step, as released",
        target="autotune.search.policies:SadaSearcher",
    ),
    Family(
        name="teacache",
        columns=("policy",),
        method="TeaCache's accumulated change of the modulated input, its polynomial calibrated here",
        target="autotune.search.policies:TeaCacheSearcher",
    ),
    Family(
        name="first-block",
        columns=("policy",),
        method="the stack reused while what the first block adds changes little (FBCache)",
        target="autotune.search.policies:FirstBlockSearcher",
    ),
    Family(
        name="magcache",
        columns=("policy",),
        method="MagCache's accumulated error of the stack's residuals, their ratios calibrated here",
        target="autotune.search.policies:MagCacheSearcher",
    ),
    Family(
        name="diffusers-caches",
        columns=("policy",),
        method="diffusers' own first-block, TaylorSeer, MagCache, PAB and FasterCache, where supported",
        target="autotune.search.policies:DiffusersCachesSearcher",
    ),
    Family(
        name="random",
        columns=("cache",),
        method="random cache masks: the floor that every other search has to beat",
        target="autotune.search.random_search:RandomSearcher",
    ),
    Family(
        name="fewer-steps",
        columns=("n_steps", "time", "solver"),
        method="known solvers on known time grids: the rival, which every study begins with",
        target="autotune.search.fewer_steps:FewerStepsSearcher",
    ),
    Family(
        name="given",
        columns=(),
        method="the schedules of `--start` and nothing else; every study that has some tries them first",
        target="autotune.search.given:GivenSearcher",
    ),
)

FAMILIES: Mapping[str, Family] = MappingProxyType({family.name: family for family in _ALL})


def make_searcher(name: str, context: SearchContext, seed: int = 0) -> Searcher:
    """The searcher of a family; its module is imported now and not before.

    Raises:
        UsageError: no family has this name.
    """
    check_family(name)
    module, attribute = FAMILIES[name].target.split(":")
    make: Callable[[SearchContext, int], Searcher] = getattr(import_module(module), attribute)
    return make(context, seed)


def check_family(name: str, *, unconverging: str | None = None) -> None:
    """Raise a UsageError if no family has this name, or if it needs a converged run, which `unconverging` has not."""
    if name not in FAMILIES:
        raise UsageError(f"a family must be one of {', '.join(FAMILIES)}; got {name!r}")
    if FAMILIES[name].needs_convergence and unconverging is not None:
        others = ", ".join(family.name for family in _ALL if not family.needs_convergence)
        raise UsageError(
            f"the family {name} needs a converged run, and {unconverging} has none, since its sampler draws noise at "
            f"every step; choose one of {others}"
        )
