import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from autotune.evaluators import pixart_adapter
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.archive import ParetoArchive
from autotune.search.ecad import READS, EcadSearcher, EcadSettings, PublishedEcadSearcher
from autotune.search.gene_grid import GeneGrid, Genome
from autotune.search.random_search import RandomSearcher
from autotune.search.searcher import Proposal, Result, SearchContext, Searcher
from autotune.search.variation import PublishedVariation
from autotune.search.within_budget import BudgetSpentError
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.edge_costs import EdgeCosts
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.granularity import Granularity
from autotune.spaces.inventory import Inventory, Relation, Site
from autotune.spaces.objective import parse_constraint
from autotune.spaces.schedule import Schedule, canonical_schedule

FIDELITY = Fidelity(name="calibration", prompts=("a cat", "a dog"), seeds=(0, 1))


def pixart_inventory(n_blocks: int) -> Inventory:
    blocks = SimpleNamespace(transformer_blocks=range(n_blocks))
    sites = tuple(replace(site, macs=1_000_000) for site in pixart_adapter.list_sites(blocks))
    return Inventory(denoiser_class="PixArtTransformer2DModel", sites=sites, total_macs=2_000_000)


def run(searcher: Searcher, evaluator: TabulatedEvaluator, n: int) -> list[Result]:
    """The baseline and n - 1 candidates."""
    default = Proposal(schedule=Schedule(n_steps=evaluator.condition.n_steps), family="baseline", label="default")
    results = [Result(proposal=default, outcome=evaluator.score(default.schedule, FIDELITY))]
    searcher.tell(results)
    while len(results) < n and (asked := searcher.ask(1)):
        results.append(Result(proposal=asked[0], outcome=evaluator.score(asked[0].schedule, FIDELITY)))
        searcher.tell(results[-1:])
    return results


def hypervolume(results: list[Result]) -> float:
    archive = ParetoArchive(("latency", "deviation"))
    for result in results:
        archive.add(result)
    return archive.hypervolume


def median_of_five(make: Callable[[int], Searcher], evaluator: TabulatedEvaluator, n: int) -> float:
    return statistics.median(hypervolume(run(make(seed), evaluator, n)) for seed in range(5))


def test_without_room_for_a_recording_it_starts_from_known_masks(context: SearchContext) -> None:
    def refuse() -> EdgeCosts:
        raise BudgetSpentError("measuring what reuses cost takes 30 s")

    asked = EcadSearcher(replace(context, edge_costs=refuse), 0).ask(8)
    assert len(asked) == 8
    assert not any("plan" in proposal.label for proposal in asked)


def test_ecad_beats_random_and_its_own_seeds(context: SearchContext, evaluator: TabulatedEvaluator) -> None:
    ecad = [hypervolume(run(EcadSearcher(context, seed), evaluator, 300)) for seed in range(5)]
    other = [hypervolume(run(RandomSearcher(context, seed), evaluator, 300)) for seed in range(5)]
    assert min(ecad) > max(other) + 0.02
    seeds_only = hypervolume(run(EcadSearcher(context, 0), evaluator, 25))
    assert min(ecad) > seeds_only + 0.005


def test_our_operators_beat_the_published_ones(context: SearchContext, evaluator: TabulatedEvaluator) -> None:
    ours = median_of_five(lambda seed: EcadSearcher(context, seed), evaluator, 120)
    published = median_of_five(lambda seed: PublishedEcadSearcher(context, seed), evaluator, 120)
    assert ours > published


def test_the_first_candidates_are_planned_and_of_the_literature_in_turns(context: SearchContext) -> None:
    labels = [p.label for p in EcadSearcher(context).ask(8)]
    assert labels[0].startswith("planned, ")
    assert labels[1] == "FORA, every 2"
    assert any("frozen from call" in label for label in labels)
    assert any("calls refreshed" in label for label in labels)


def test_constraints_draw_the_search_into_the_feasible_part(evaluator: TabulatedEvaluator) -> None:
    limit = parse_constraint("deviation<=0.04")
    context = SearchContext(
        condition=evaluator.condition,
        inventory=evaluator.inventory,
        own_timesteps=evaluator.own_timesteps,
        constraints=(limit,),
    )
    results = run(EcadSearcher(context, 0), evaluator, 150)
    feasible = [limit.violation(r.measurement) == 0.0 for r in results if r.measurement is not None]
    assert np.mean(feasible[-50:]) > 2 * np.mean(feasible[:25])


def test_a_tiny_space_is_searched_to_its_end_and_then_given_up() -> None:
    sites = (
        Site(name="a", block="a", component="attn", macs=3),
        Site(name="b", block="b", component="ff", macs=5),
    )
    inventory = Inventory(denoiser_class="Tiny", sites=sites, total_macs=8)
    flux = TabulatedEvaluator().condition
    condition = type(flux)(**{name: getattr(flux, name) for name in flux.__slots__} | {"n_steps": 3})
    evaluator = TabulatedEvaluator(condition, inventory)
    context = SearchContext(condition=condition, inventory=inventory, own_timesteps=evaluator.own_timesteps)
    results = run(EcadSearcher(context, 0, EcadSettings(reads=(CacheAction.REUSE,))), evaluator, 100)
    assert len(results) == 2 ** (2 * 2)  # two sites in two calls after the first


def test_a_unet_with_nested_sites_is_searched(evaluator: TabulatedEvaluator) -> None:
    sites: list[Site] = []
    for name in ("down.0", "down.1", "mid", "up.0", "up.1"):
        stage = len(sites)
        sites.append(Site(name=name, block=name, component="stage", macs=10_000_000))
        for leaf in ("attn1", "attn2"):
            sites.append(
                Site(
                    name=f"{name}.{leaf}",
                    block=name,
                    component=leaf,
                    macs=3_000_000,
                    parent=stage,
                    relation=Relation.INSIDE,
                )
            )
    inventory = Inventory(denoiser_class="UNet", sites=tuple(sites), total_macs=60_000_000)
    unet = TabulatedEvaluator(evaluator.condition, inventory)
    context = SearchContext(
        condition=unet.condition,
        inventory=inventory,
        own_timesteps=unet.own_timesteps,
        edge_costs=lambda: unet.edge_costs(FIDELITY, 1),
    )
    results = run(EcadSearcher(context, 0), unet, 120)
    assert results[1].proposal.label.startswith("planned, ")
    assert results[2].proposal.label == "inner stages, every 2"
    assert hypervolume(results) > hypervolume(results[:25])
    assert hypervolume(results) > hypervolume(run(RandomSearcher(context, 0), unet, 120))


def test_a_guided_model_gets_guidance_columns_that_evolve(evaluator: TabulatedEvaluator) -> None:
    guided = TabulatedEvaluator(replace(evaluator.condition, guidance_scale=3.0), evaluator.inventory)
    context = SearchContext(
        condition=guided.condition, inventory=guided.inventory, own_timesteps=guided.own_timesteps, guided=True
    )
    results = run(EcadSearcher(context, 0, EcadSettings(n_seeds=6)), guided, 80)
    evolved = [r.proposal.schedule for r in results if r.proposal.label.startswith("evolved")]
    columns = {s.guidance for s in evolved}
    assert len(columns - {None}) >= 10
    shares = [r.proposal.label for r in results if r.proposal.label.startswith("evolved")]
    measured = [r.measurement.relative_macs for r in results if r.proposal.label in shares and r.measurement]
    claimed = [float(label.split()[-3].rstrip("%")) / 100 for label in shares]
    assert np.abs(np.array(claimed) - np.array(measured)).max() < 0.006
    published = run(PublishedEcadSearcher(context, 0), guided, 40)
    assert all(r.proposal.schedule.guidance is None for r in published)


@pytest.mark.parametrize("granularity", Granularity)
def test_offspring_keep_the_granularity(evaluator: TabulatedEvaluator, granularity: Granularity) -> None:
    inventory = pixart_inventory(8)
    guided = granularity is Granularity.BRANCHES
    pixart = TabulatedEvaluator(replace(evaluator.condition, n_steps=8, guidance_scale=1.0 + 2 * guided), inventory)
    context = SearchContext(
        condition=pixart.condition, inventory=inventory, own_timesteps=pixart.own_timesteps, guided=guided
    )
    results = run(EcadSearcher(context, 0, EcadSettings(granularity=granularity, n_seeds=8)), pixart, 60)
    grid = GeneGrid.of(inventory, 8, READS, granularity=granularity, guided=guided)
    evolved = [r.proposal.schedule for r in results if r.proposal.label.startswith("evolved")]
    assert len(evolved) > 20
    for schedule in evolved:
        assert grid.genome(schedule) is not None
    if guided:
        assert sum(schedule.unconditional_cache is not None for schedule in evolved) > 5


def test_the_published_run_on_pixart_starts_from_72_different_schedules(evaluator: TabulatedEvaluator) -> None:
    inventory = pixart_inventory(28)
    context = SearchContext(
        condition=evaluator.condition, inventory=inventory, own_timesteps=evaluator.own_timesteps, guided=True
    )
    labels = [proposal.label for proposal in PublishedEcadSearcher(context, 0).ask(72)]
    assert not any(label.startswith("evolved") for label in labels[:71])
    assert labels[:7] == [f"FORA, every {n}" for n in (2, 3, 4, 5, 7, 10, 20)]
    assert sum(label.startswith("T-GATE") for label in labels) >= 20


@dataclass
class Counted:
    """Operators that count their calls."""

    inner: PublishedVariation
    n_crossovers: int = 0
    n_mutations: int = 0

    def crossover(self, first: Genome, second: Genome, rng: np.random.Generator) -> Genome:
        self.n_crossovers += 1
        return self.inner.crossover(first, second, rng)

    def mutate(self, genome: Genome, rng: np.random.Generator) -> Genome:
        self.n_mutations += 1
        return self.inner.mutate(genome, rng)


@pytest.mark.parametrize(("cross_attention", "population"), [(False, 24), (True, 72)])
def test_the_published_settings(context: SearchContext, cross_attention: bool, population: int) -> None:
    inventory = pixart_inventory(4) if cross_attention else context.inventory
    searcher = PublishedEcadSearcher(replace(context, inventory=inventory, guided=cross_attention), 0)
    assert searcher._size == searcher._n_offspring == searcher._seeds._n == population
    assert next(searcher._seeds._make())[0] == "FORA, every 2"
    assert searcher._grid.reads == (CacheAction.REUSE,)
    assert not searcher._grid.guided
    variation = searcher._variation
    assert isinstance(variation, PublishedVariation)
    assert (variation.crossover_probability, variation.mutation_probability) == (0.9, 0.05)


def test_a_known_offspring_of_the_published_search_is_drawn_anew_and_not_mutated_further(
    context: SearchContext, evaluator: TabulatedEvaluator
) -> None:
    searcher = PublishedEcadSearcher(context, 0)
    assert isinstance(searcher._variation, PublishedVariation)
    counted = searcher._variation = Counted(searcher._variation)
    results = run(searcher, evaluator, 150)
    evolved = [r for r in results if r.proposal.label.startswith("evolved")]
    assert len(results) == 150
    assert counted.n_mutations == counted.n_crossovers > len(evolved) > 100


@pytest.mark.parametrize("seed", range(3))
def test_the_published_search_stays_what_it_is_when_told_of_others_plans(
    context: SearchContext, evaluator: TabulatedEvaluator, seed: int
) -> None:
    """A study tells it of what it began with, too: forecasts, and reuses of the stack, are none of its genes."""
    searcher = PublishedEcadSearcher(context, seed)
    rng = np.random.default_rng(seed)
    told = []
    for i in range(20):
        table = rng.integers(1, len(CacheAction), (context.n_calls, len(context.inventory))).astype(np.uint8)
        table[::2] = CacheAction.RECOMPUTE
        made = Schedule(n_steps=context.condition.n_steps, cache=CachePlan.from_array(table))
        schedule = canonical_schedule(made, context.inventory)
        proposal = Proposal(schedule=schedule, family="given", label=f"given {i}")
        told.append(Result(proposal=proposal, outcome=evaluator.score(schedule, FIDELITY)))
    searcher.tell(told)
    for result in run(searcher, evaluator, 120)[1:]:
        plan = result.proposal.schedule.cache
        assert plan is not None
        assert set(np.unique(plan.table)) <= {CacheAction.RECOMPUTE, CacheAction.REUSE}


@pytest.mark.parametrize("granularity", [Granularity.STEPS, Granularity.GROUPS, Granularity.LEAVES])
def test_a_study_s_granularity_holds_for_seeds_and_offspring(
    evaluator: TabulatedEvaluator, context: SearchContext, granularity: Granularity
) -> None:
    searcher = EcadSearcher(replace(context, granularity=granularity), 0)
    grid = GeneGrid.of(context.inventory, context.n_calls, READS, granularity=granularity)
    results = run(searcher, evaluator, 80)[1:]
    assert any(not r.proposal.label.startswith("evolved") for r in results), "seeds"
    assert len(results) == 79
    for result in results:
        assert grid.genome(result.proposal.schedule) is not None, result.proposal.label
