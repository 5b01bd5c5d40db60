import numpy as np
import pytest

from autotune.evaluators.small_flux import small_flux_inventory
from autotune.search.ecad import READS
from autotune.search.gene_grid import GeneGrid
from autotune.search.variation import MOVES, Move, PublishedVariation, StructuredVariation
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.inventory import Inventory, Relation, Site

GRID = GeneGrid.of(small_flux_inventory(), 20)
FORECASTING = GeneGrid.of(small_flux_inventory(), 20, READS)


def random_genome(seed: int, grid: GeneGrid = GRID) -> np.ndarray:
    rng = np.random.default_rng(seed)
    reads = rng.random((grid.n_calls, grid.n_genes)) < 0.5
    genome: np.ndarray = (reads * rng.choice(grid.reads, size=reads.shape)).astype(np.uint8)
    genome[0] = CacheAction.RECOMPUTE
    return genome


def test_published_mutation_flips_a_twentieth_of_a_gene_per_offspring() -> None:
    rng = np.random.default_rng(0)
    genome = random_genome(0)
    flips = [int((PublishedVariation(grid=GRID).mutate(genome, rng) ^ genome).sum()) for _ in range(20_000)]
    assert np.mean(flips) == pytest.approx(0.05, abs=0.008)
    assert np.mean(np.array(flips) > 0) == pytest.approx(0.032, abs=0.005)


def test_published_crossover_exchanges_two_inner_segments() -> None:
    rng = np.random.default_rng(1)
    first, second = np.zeros((20, 36), np.uint8), np.ones((20, 36), np.uint8)
    n_same = 0
    for _ in range(500):
        child = PublishedVariation(grid=GRID).crossover(first, second, rng).ravel()
        edges = np.flatnonzero(np.diff(child.astype(int)))
        n_same += not child.any()
        assert len(edges) in (0, 4)
        assert not child[0]
        assert not child[-1]
    assert n_same / 500 == pytest.approx(0.1, abs=0.05)


def test_structured_mutation_changes_two_cells_or_more_on_average() -> None:
    rng = np.random.default_rng(2)
    variation = StructuredVariation(grid=GRID)
    flips = []
    for seed in range(300):
        genome = random_genome(seed)
        flips.append(int((variation.mutate(genome, rng) ^ genome).sum()))
    assert np.mean(flips) >= 2.0
    assert np.mean(np.array(flips) >= 2) > 0.4  # half of the offspring are not mutated


@pytest.mark.parametrize("move", MOVES, ids=[move.__name__ for move in MOVES])
@pytest.mark.parametrize("n_calls", [1, 2, 3, 20])
def test_moves_leave_their_argument_and_the_first_row_alone(move: Move, n_calls: int) -> None:
    grid = GeneGrid.of(small_flux_inventory(), n_calls)
    rng = np.random.default_rng(3)
    for seed in range(50):
        genome = random_genome(seed, grid)
        before = genome.copy()
        moved = move(genome, grid, rng)
        assert (genome == before).all()
        assert moved.shape == genome.shape
        assert not moved[0].any()


@pytest.mark.parametrize("move", MOVES, ids=[move.__name__ for move in MOVES])
def test_every_move_changes_most_genomes(move: Move) -> None:
    rng = np.random.default_rng(4)
    genomes = [random_genome(seed, FORECASTING) for seed in range(100)]
    changed = [bool((move(genome, FORECASTING, rng) != genome).any()) for genome in genomes]
    assert np.mean(changed) > 0.8


def test_shifting_a_refresh_keeps_the_number_of_refreshes() -> None:
    shift = next(move for move in MOVES if move.__name__ == "shift_refresh")
    genome = np.ones((20, 36), np.uint8)
    genome[0] = genome[9] = CacheAction.RECOMPUTE
    rng = np.random.default_rng(5)
    rows = set()
    for _ in range(100):
        moved = shift(genome, GRID, rng)
        assert moved.sum() == genome.sum()
        rows |= set(np.flatnonzero((moved == 0).any(axis=1)).tolist())
    assert rows == {0, 8, 9, 10}


def test_structured_crossover_takes_rows_or_block_columns_whole() -> None:
    rng = np.random.default_rng(6)
    variation = StructuredVariation(grid=GRID, crossover_probability=1.0)
    first, second = np.zeros((20, 36), np.uint8), np.ones((20, 36), np.uint8)
    for _ in range(100):
        child = variation.crossover(first, second, rng)
        whole_rows = all(row.all() or not row.any() for row in child)
        whole_blocks = all(child[:, block].all() or not child[:, block].any() for block in GRID.blocks)
        assert whole_rows or whole_blocks


def test_a_recomputed_cell_wakes_its_ancestors() -> None:
    sites = (
        Site(name="s", block="s", component="stage", macs=9),
        Site(name="s.b", block="s", component="block", macs=6, parent=0, relation=Relation.INSIDE),
        Site(name="s.b.a", block="s", component="attn1", macs=3, parent=1, relation=Relation.INSIDE),
    )
    grid = GeneGrid.of(Inventory(denoiser_class="U", sites=sites, total_macs=10), 6)
    genome = np.ones((6, 3), np.uint8)
    genome[0] = CacheAction.RECOMPUTE
    rng = np.random.default_rng(7)
    variation = StructuredVariation(grid=grid, wake_probability=0.0, second_move_probability=0.0)
    all_awake = StructuredVariation(grid=grid, wake_probability=1.0, second_move_probability=0.0)
    for _ in range(100):
        fresh = variation.mutate(genome, rng)[1:] == CacheAction.RECOMPUTE
        assert (fresh[:, 0] | ~fresh[:, 2]).all()
        assert (fresh[:, 1] | ~fresh[:, 2]).all()
        fresh = all_awake.mutate(genome, rng)[1:] == CacheAction.RECOMPUTE
        assert (fresh[:, 2] == fresh[:, 0]).all()
