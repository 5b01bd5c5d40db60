"""Evolutionary search of cache plans: NSGA-II over the table step x site."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from autotune.search.cache_masks import CacheMask, literature_masks
from autotune.search.nsga2 import Individual, Ranked, survivors, tournament
from autotune.search.searcher import Novelty, Proposal, Result, SearchContext
from autotune.search.site_grid import SiteGrid
from autotune.search.variation import Genome, PublishedVariation, StructuredVariation, Variation
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan, plan_macs
from autotune.spaces.evaluation import Measurement
from autotune.spaces.front import DEVIATION_FLOOR
from autotune.spaces.objective import objective_value, total_violation
from autotune.spaces.schedule import Schedule

FAMILY = "ecad"
MAX_MUTATIONS = 100
"""Mutations in a row after which an offspring that is still known gives way to a random plan."""


def _structured(grid: SiteGrid) -> Variation:
    return StructuredVariation(grid=grid)


def _published(grid: SiteGrid) -> Variation:
    return PublishedVariation()


@dataclass(frozen=True, kw_only=True)
class EcadSettings:
    """Sizes and operators.

    `n_offspring` candidates are tried between two selections, out of `population` survivors. The first `n_seeds`
    candidates are plans of the literature.
    """

    population: int = 24
    n_offspring: int = 4
    n_seeds: int = 24
    make_variation: Callable[[SiteGrid], Variation] = field(default=_structured)

    @classmethod
    def published(cls, population: int = 24) -> "EcadSettings":
        """ECAD as published: population 24 for FLUX, 72 for PixArt, as many offspring, its own operators."""
        return cls(population=population, n_offspring=population, n_seeds=population, make_variation=_published)


class EcadSearcher:
    """NSGA-II on cache plans at the pipeline's own sampler and step count (ECAD, Aggarwal et al. 2025).

    We deviate from the paper by default: structured operators, plans of the literature as seeds, selection several
    times per generation, canonical genomes that are never tried twice, and constrained domination. Failed candidates
    are counted but never survive.
    """

    def __init__(self, context: SearchContext, seed: int = 0, settings: EcadSettings | None = None) -> None:
        self._context = context
        self._rng = np.random.default_rng(seed)
        self._novelty = Novelty(context.inventory)
        self._grid = SiteGrid.of(context.inventory, context.n_calls)
        settings = settings or EcadSettings()
        self._variation = settings.make_variation(self._grid)
        self._size, self._n_offspring = settings.population, settings.n_offspring
        masks = literature_masks(context.inventory, context.n_calls)
        self._seeds: list[CacheMask] = masks[: settings.n_seeds][::-1]
        self._population: list[Ranked] = []
        self._arrived: list[Individual] = []
        self._n_told = 0
        self._generation = 0

    def ask(self, n: int) -> list[Proposal]:
        """Up to `n` plans: seeds first, then offspring of the survivors."""
        proposals: list[Proposal] = []
        while len(proposals) < n:
            proposal = self._next_seed() or self._offspring()
            if proposal is None:
                break
            proposals.append(proposal)
        return proposals

    def tell(self, results: Sequence[Result]) -> None:
        """Take results in; others' are used where they are cache plans of the same run, such as the baseline."""
        for result in results:
            self._novelty.mark(result.proposal)
            genome = self._genome_of(result.proposal.schedule)
            if genome is None:
                continue
            self._n_told += 1
            if result.measurement is not None:
                self._arrived.append(self._individual(genome, result.measurement))
        if not self._seeds and self._n_told >= self._n_offspring:
            self._select()

    def _select(self) -> None:
        members = [ranked.individual for ranked in self._population] + self._arrived
        self._population = survivors(members, self._size)
        self._arrived, self._n_told = [], 0
        self._generation += 1

    def _next_seed(self) -> Proposal | None:
        while self._seeds:
            mask = self._seeds.pop()
            proposal = self._novelty.admit(
                mask.schedule(self._context.condition.n_steps), family=FAMILY, label=mask.label
            )
            if proposal is not None:
                return proposal
        return None

    def _offspring(self) -> Proposal | None:
        parents = self._population or survivors(self._arrived, self._size)
        if parents:
            first, second = tournament(parents, self._rng), tournament(parents, self._rng)
            child = self._variation.crossover(first.genome, second.genome, self._rng)
        else:
            child = self._random_genome()
        for attempt in range(2 * MAX_MUTATIONS):
            child = self._variation.mutate(child, self._rng) if attempt < MAX_MUTATIONS else self._random_genome()
            proposal = self._admit(child)
            if proposal is not None:
                return proposal
        return None

    def _admit(self, genome: Genome) -> Proposal | None:
        context = self._context
        plan = CachePlan.from_array(genome)
        share = plan_macs(plan, context.inventory, context.n_calls) / plan_macs(
            None, context.inventory, context.n_calls
        )
        label = f"evolved, round {self._generation}, {share:.0%} of MACs"
        return self._novelty.admit(Schedule(n_steps=context.condition.n_steps, cache=plan), family=FAMILY, label=label)

    def _random_genome(self) -> Genome:
        genome: Genome = self._rng.random((self._grid.n_calls, self._grid.n_sites)) < self._rng.uniform(0.05, 0.95)
        genome[0] = False
        return genome

    def _genome_of(self, schedule: Schedule) -> Genome | None:
        own = (
            schedule.time is None and schedule.guidance is None and schedule.n_steps == self._context.condition.n_steps
        )
        if not own:
            return None
        if schedule.cache is None:
            return np.zeros((self._grid.n_calls, self._grid.n_sites), bool)
        if schedule.cache.table.shape != (self._grid.n_calls, self._grid.n_sites):
            return None
        return np.asarray(schedule.cache.table == CacheAction.REUSE)

    def _individual(self, genome: Genome, measurement: Measurement) -> Individual:
        values = []
        for name in self._context.objectives:
            value = objective_value(name, measurement)
            values.append(math.log10(max(value, DEVIATION_FLOOR)) if name == "deviation" else value)
        violation = total_violation(self._context.constraints, measurement)
        return Individual(genome=genome, values=tuple(values), violation=violation)
