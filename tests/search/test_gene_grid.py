from types import SimpleNamespace

import numpy as np
import pytest

from autotune.evaluators import flux_adapter, pixart_adapter
from autotune.evaluators.small_flux import small_flux_inventory
from autotune.search.ecad import READS
from autotune.search.gene_grid import GeneGrid
from autotune.search.variation import StructuredVariation
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.errors import ScheduleError
from autotune.spaces.granularity import Granularity
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.inventory import FINAL, STACK, Inventory
from autotune.spaces.schedule import Schedule, canonical_schedule

from .test_cache_masks import unet_inventory

N_CALLS = 12


def flux_inventory(n_double: int, n_single: int) -> Inventory:
    blocks = SimpleNamespace(transformer_blocks=range(n_double), single_transformer_blocks=range(n_single))
    return Inventory(denoiser_class="FluxTransformer2DModel", sites=flux_adapter.list_sites(blocks))


def pixart_inventory(n_blocks: int) -> Inventory:
    blocks = SimpleNamespace(transformer_blocks=range(n_blocks))
    return Inventory(denoiser_class="PixArtTransformer2DModel", sites=pixart_adapter.list_sites(blocks))


@pytest.fixture(params=["flat", "flux", "pixart", "unet"])
def inventory(request: pytest.FixtureRequest) -> Inventory:
    if request.param == "flux":
        return flux_inventory(2, 4)
    if request.param == "pixart":
        return pixart_inventory(12)
    return small_flux_inventory() if request.param == "flat" else unet_inventory()


def random_genome(grid: GeneGrid, rng: np.random.Generator) -> np.ndarray:
    shape = (grid.n_calls, grid.n_genes)
    genome: np.ndarray = ((rng.random(shape) < 0.4) * rng.choice(grid.reads, size=shape)).astype(np.uint8)
    genome[0] = CacheAction.RECOMPUTE
    return genome


@pytest.mark.parametrize("granularity", Granularity)
@pytest.mark.parametrize("guided", [False, True])
def test_a_schedule_gives_a_genome_back_that_means_the_same(
    inventory: Inventory, granularity: Granularity, guided: bool
) -> None:
    if granularity is Granularity.BRANCHES and not guided:
        with pytest.raises(ScheduleError, match="need classifier-free guidance"):
            GeneGrid.of(inventory, N_CALLS, READS, granularity=granularity)
        return
    grid = GeneGrid.of(inventory, N_CALLS, READS, granularity=granularity, guided=guided)
    rng = np.random.default_rng(0)
    for _ in range(50):
        schedule = canonical_schedule(grid.schedule(random_genome(grid, rng), N_CALLS), inventory)
        genome = grid.genome(schedule)
        assert genome is not None
        assert canonical_schedule(grid.schedule(genome, N_CALLS), inventory) == schedule


def test_a_coarser_gene_covers_the_sites_that_nothing_of_its_blocks_is_around(inventory: Inventory) -> None:
    grids = {g: GeneGrid.of(inventory, N_CALLS, granularity=g, guided=True) for g in Granularity}
    steps, groups, blocks, leaves, components, branches = (grids[g].n_genes - 1 for g in Granularity)
    assert steps == 1 < groups <= blocks < components == len(inventory)
    assert leaves == len(inventory.leaves)
    assert branches == 2 * components
    for grid in grids.values():
        covered = np.concatenate(grid.sites)
        assert len(set(covered)) == len(covered)
    around = {i for i, site in enumerate(inventory.sites) if site.component in (FINAL, STACK)}
    grid = GeneGrid.of(inventory, N_CALLS, granularity=Granularity.BLOCKS)
    names = [{inventory.sites[i].block for i in gene} for gene in grid.sites if not set(gene) <= around]
    assert all(len(name) == 1 for name in names)
    assert len(names) == len({site.block for i, site in enumerate(inventory.sites) if i not in around})


def test_all_genes_of_blocks_read_is_every_block_cached() -> None:
    inventory = pixart_inventory(10)
    for granularity in (Granularity.GROUPS, Granularity.BLOCKS):
        grid = GeneGrid.of(inventory, 2, granularity=granularity)
        genome = np.array([[0] * grid.n_genes, [0, 0] + [1] * (grid.n_genes - 2)], np.uint8)
        cache = grid.schedule(genome, 2).cache
        assert cache is not None
        reads = [inventory.sites[i].component for i in np.flatnonzero(cache.table[1])]
        assert reads == ["block"] * 10


def test_schedules_that_no_genome_stands_for_have_none() -> None:
    inventory = pixart_inventory(10)
    steps = GeneGrid.of(inventory, N_CALLS, READS, granularity=Granularity.STEPS, guided=True)
    leaves = np.zeros((N_CALLS, len(inventory)), np.uint8)
    leaves[1, inventory.leaves[0]] = 1
    fine = GeneGrid.of(inventory, N_CALLS, READS)
    by_leaf = fine.schedule(leaves, N_CALLS)
    assert steps.genome(canonical_schedule(by_leaf, inventory)) is None
    weights = Schedule(n_steps=N_CALLS, guidance=(GuidanceAction.BOTH, (0.9,)) + (GuidanceAction.BOTH,) * 10)
    assert steps.genome(weights) is None
    dropped = Schedule(n_steps=N_CALLS, guidance=(GuidanceAction.BOTH, GuidanceAction.STORED) * 6)
    assert steps.genome(dropped) is not None
    assert fine.genome(dropped) is None  # it has no gene for guidance


def test_no_offspring_mixes_halves_of_different_calls() -> None:
    """In a call that reads all, after a branch was dropped, guidance is an estimate."""
    inventory = pixart_inventory(10)
    grid = GeneGrid.of(inventory, N_CALLS, READS, guided=True)
    variation = StructuredVariation(grid=grid)
    rng = np.random.default_rng(1)
    n_mixed = 0
    for _ in range(300):
        genome = random_genome(grid, rng)
        genome[rng.integers(1, N_CALLS, size=3), 0] = CacheAction.TAYLOR_1
        n_mixed += mixes(genome)
        child = variation.mutate(variation.crossover(genome, random_genome(grid, rng), rng), rng)
        assert not mixes(child)
    assert n_mixed > 100


def mixes(genome: np.ndarray) -> bool:
    drops = np.flatnonzero(genome[:, -1])
    return bool(len(drops)) and bool(((genome[:, 0] != 0) & (genome[:, -1] == 0))[drops[0] :].any())
