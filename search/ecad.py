"""Evolutionary search of cache and guidance columns: NSGA-II over the table network call x gene."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from autotune.search.cache_masks import literature_masks
from autotune.search.cache_plans import planned_schedules
from autotune.search.fitness import Fitness
from autotune.search.gene_grid import GeneGrid, Genome
from autotune.search.guidance_plans import guidance_gram, guided_plans
from autotune.search.nsga2 import Individual, Ranked, survivors, tournament
from autotune.search.published_seeds import has_cross_attention, published_seeds
from autotune.search.searcher import Novelty, Proposal, Result, SearchContext
from autotune.search.seed_queue import Seed, SeedQueue, in_turns
from autotune.search.variation import PublishedVariation, StructuredVariation, Variation
from autotune.search.within_budget import BudgetSpentError
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.evaluation import Measurement
from autotune.spaces.granularity import Granularity
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.schedule_macs import schedule_macs

FLUX_POPULATION, PIXART_POPULATION = 24, 72
"""Of ECAD's published runs."""

MAX_MUTATIONS = 100
"""Mutations in a row after which an offspring that is still known gives way to a random plan."""

MAX_MATINGS = 1000
"""Matings in a row without a new child, after which the published search is at its end."""

READS = (CacheAction.REUSE, CacheAction.TAYLOR_1, CacheAction.TAYLOR_2, CacheAction.HERMITE_1, CacheAction.NEWTON_2)
"""What cells may do besides recompute; second-order Hermite lost to the others on all reference models."""


def _structured(grid: GeneGrid) -> Variation:
    return StructuredVariation(grid=grid)


def _published(grid: GeneGrid) -> Variation:
    return PublishedVariation(grid=grid)


def planned_and_known(context: SearchContext) -> Iterator[Seed]:
    """Planned schedules, those with a guidance column, and masks of the literature in turns.

    All are made after one measurement of edges; where the budget has no room for it, there are no plans.
    """
    errors: Mapping[str, NDArray[np.float64]] = {}
    if context.edge_costs is not None and context.n_calls >= 3:
        try:
            costs = context.edge_costs()
        except BudgetSpentError:
            context = replace(context, edge_costs=None)
        else:
            errors = costs.leaf_errors
            context = replace(context, edge_costs=lambda: costs)
    masks = iter(literature_masks(context.inventory, context.n_calls, errors, guided=context.guided))
    known = ((mask.label, mask.schedule(context.condition.n_steps)) for mask in masks)
    yield from in_turns(planned_schedules(context), guided_plans(context), known)


@dataclass(frozen=True, kw_only=True)
class EcadSettings:
    """Sizes and operators.

    `n_offspring` candidates are tried between two selections, out of `population` survivors. The first `n_seeds`
    candidates are those of `seeds`. `reads` is what cells may do besides recompute, `granularity` what a gene decides.
    `guidance` adds a gene per call for the guidance branches, where the model has two.
    """

    population: int = 24
    n_offspring: int = 4
    n_seeds: int = 24
    seeds: Callable[[SearchContext], Iterator[Seed]] = field(default=planned_and_known)
    reads: tuple[CacheAction, ...] = READS
    granularity: Granularity = Granularity.COMPONENTS
    guidance: bool = True
    make_variation: Callable[[GeneGrid], Variation] = field(default=_structured)


class EcadSearcher:
    """NSGA-II on cache plans at the pipeline's own sampler and step count (ECAD, Aggarwal et al. 2025).

    We deviate from the paper by default: forecasts, whole blocks and the hidden state besides leaves; structured
    operators; planned schedules and those of the literature as seeds; selection several times per generation; canonical
    genomes that are never tried twice; constrained domination. Failed candidates are counted but never survive.
    """

    family = "ecad"

    def __init__(self, context: SearchContext, seed: int = 0, settings: EcadSettings | None = None) -> None:
        edges = context.edge_costs  # which seeds and the guidance gene share
        context = replace(context, edge_costs=edges and functools.cache(edges))
        self._context = context
        self._rng = np.random.default_rng(seed)
        self._novelty = Novelty(context.inventory)
        settings = settings or EcadSettings(granularity=context.granularity)
        self._grid = GeneGrid.of(
            context.inventory,
            context.n_calls,
            settings.reads,
            granularity=settings.granularity,
            guided=settings.guidance and context.guided,
            guidance_gram=lambda: guidance_gram(context),
        )
        self._variation = settings.make_variation(self._grid)
        self._fitness = Fitness(context)
        self._size, self._n_offspring = settings.population, settings.n_offspring
        self._seeds = SeedQueue(
            lambda: self._fitting(settings.seeds(context)), settings.n_seeds, self._novelty, self._fitness
        )
        self._population: list[Ranked[Genome]] = []
        self._arrived: list[Individual[Genome]] = []
        self._n_told = 0
        self._generation = 0

    def _fitting(self, seeds: Iterator[Seed]) -> Iterator[Seed]:
        """Where the user asks for a granularity, the seeds that it can say."""
        asked, inventory = self._context.granularity is not Granularity.COMPONENTS, self._context.inventory
        for label, schedule in seeds:
            if not asked or self._grid.genome(canonical_schedule(schedule, inventory)) is not None:
                yield label, schedule

    def ask(self, n: int) -> list[Proposal]:
        """Up to `n` plans: seeds first, then offspring of the survivors."""
        proposals: list[Proposal] = []
        while len(proposals) < n:
            proposal = self._seeds.take(self.family) or self._offspring()
            if proposal is None:
                break
            proposals.append(proposal)
        return proposals

    def tell(self, results: Sequence[Result]) -> None:
        """Take results in; others' are used where they are cache plans of the same run, such as the baseline."""
        for result in results:
            self._novelty.mark(result.proposal)
            schedule = result.proposal.schedule
            own = schedule.n_steps == self._context.condition.n_steps and schedule.time is None
            genome = self._grid.genome(schedule) if own else None
            if genome is None:
                continue
            self._n_told += 1
            if result.measurement is not None:
                self._arrived.append(self._individual(genome, result.measurement))
        if self._seeds.is_empty and self._n_told >= self._n_offspring:
            self._select()

    def _select(self) -> None:
        members = [ranked.individual for ranked in self._population] + self._arrived
        self._population = survivors(members, self._size)
        self._arrived, self._n_told = [], 0
        self._generation += 1

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
            if proposal is not None and self._fitness.refuses(proposal.schedule):
                child = first.genome if parents else self._random_genome()  # further mutations would lead further away
            elif proposal is not None:
                return proposal
        return None

    def _admit(self, genome: Genome) -> Proposal | None:
        schedule = self._grid.schedule(genome, self._context.condition.n_steps)
        share = self._share(schedule)
        label = f"evolved, round {self._generation}, {share:.0%} of MACs"
        return self._novelty.admit(schedule, family=self.family, label=label)

    def _share(self, schedule: Schedule) -> float:
        """MACs over the default run's."""
        context = self._context
        sizes = (context.inventory, context.n_calls, 2 if context.guided else 1)
        return schedule_macs(schedule, *sizes) / schedule_macs(Schedule(n_steps=schedule.n_steps), *sizes)

    def _random_genome(self) -> Genome:
        leaves = self._grid.leaves
        reads = self._rng.random((self._grid.n_calls, len(leaves))) < self._rng.uniform(0.05, 0.95)
        if self._fitness.limits_costs:  # of all sites, few schedules would keep to a limit of memory
            reads &= self._rng.random(len(leaves)) < self._rng.random()
        genome: Genome = np.zeros((self._grid.n_calls, self._grid.n_genes), np.uint8)
        genome[:, leaves] = reads * self._rng.choice(self._grid.reads, size=reads.shape)
        genome[0] = CacheAction.RECOMPUTE
        return genome

    def _individual(self, genome: Genome, measurement: Measurement) -> Individual[Genome]:
        values, violation = self._fitness.values(measurement), self._fitness.violation(measurement)
        return Individual(genome=genome, values=values, violation=violation)


class PublishedEcadSearcher(EcadSearcher):
    """ECAD as published: population 24 for FLUX, 72 for PixArt, as many offspring, its own operators and seeds.

    Leaves recompute or reuse; both guidance branches always run. As in pymoo, which it ran on, an offspring that is
    known gives way to one of newly drawn parents, and is never mutated further.

    What still differs: objectives are the study's, in the paper ImageReward of 1000 images and MACs. Known is what was
    ever tried, in canonical form, where pymoo compares genes with the present population. A mating gives one child, not
    two. The first call always computes, so that the genes of its leaves say nothing. Members of the initial population
    that the paper names by ranges alone are a choice of ours (`published_seeds`), and FLUX's crossovers and mutants of
    its seeds are left to the search.
    """

    family = "ecad-published"

    def __init__(self, context: SearchContext, seed: int = 0) -> None:
        population = PIXART_POPULATION if has_cross_attention(context.inventory) else FLUX_POPULATION
        settings = EcadSettings(
            population=population,
            n_offspring=population,
            n_seeds=population,
            seeds=published_seeds,
            reads=(CacheAction.REUSE,),
            granularity=Granularity.LEAVES,
            guidance=False,
            make_variation=_published,
        )
        super().__init__(context, seed, settings)

    def _offspring(self) -> Proposal | None:
        parents = self._population or survivors(self._arrived, self._size)
        for _ in range(MAX_MATINGS):
            if parents:
                first, second = tournament(parents, self._rng), tournament(parents, self._rng)
                child = self._variation.crossover(first.genome, second.genome, self._rng)
            else:
                child = self._random_genome()
            proposal = self._admit(self._variation.mutate(child, self._rng))
            if proposal is not None and not self._fitness.refuses(proposal.schedule):
                return proposal
        return None
