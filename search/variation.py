"""How evolution makes a new genome out of two: ECAD's published operators, and structured ones.

Operators leave their arguments as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from autotune.search.gene_grid import Columns, GeneGrid, Genome
from autotune.spaces.cache_action import CacheAction

RECOMPUTE = CacheAction.RECOMPUTE.value

Move = Callable[[Genome, GeneGrid, np.random.Generator], Genome]


class Variation(Protocol):
    """A pair of operators."""

    def crossover(self, first: Genome, second: Genome, rng: np.random.Generator) -> Genome:
        """A child of two genomes."""
        ...

    def mutate(self, genome: Genome, rng: np.random.Generator) -> Genome:
        """A changed copy, or an equal one where the operator leaves it be."""
        ...


@dataclass(frozen=True, kw_only=True)
class PublishedVariation:
    """ECAD's operators (Aggarwal et al. 2025, arXiv 2506.15682) as its runs used them.

    Four-point crossover of the flat, step-major vector with probability 0.9, and a bit flip of each gene with
    probability 1/n, given to one individual in twenty: 0.05 flips per offspring on average. Genes recompute or reuse.
    """

    grid: GeneGrid
    crossover_probability: float = 0.9
    mutation_probability: float = 0.05

    def crossover(self, first: Genome, second: Genome, rng: np.random.Generator) -> Genome:
        """The first genome with the second and fourth of five random segments from the second."""
        child = first.copy()
        genes, other = child.reshape(-1), second.reshape(-1)
        if rng.random() >= self.crossover_probability or genes.size < 5:
            return child
        cuts = np.sort(rng.choice(np.arange(1, genes.size), size=4, replace=False))
        genes[cuts[0] : cuts[1]] = other[cuts[0] : cuts[1]]
        genes[cuts[2] : cuts[3]] = other[cuts[2] : cuts[3]]
        return child

    def mutate(self, genome: Genome, rng: np.random.Generator) -> Genome:
        """The genome with each bit flipped at rate 1/n, for one individual in twenty."""
        child = genome.copy()
        if rng.random() < self.mutation_probability:
            flips = rng.random(child.shape) < 1.0 / child.size
            child[flips] = np.where(child[flips] == RECOMPUTE, CacheAction.REUSE, RECOMPUTE)
        return child


@dataclass(frozen=True, kw_only=True)
class StructuredVariation:
    """Crossover of whole rows or whole block columns, and moves of whole refreshes.

    The probabilities come from trials on the tabulated evaluator, where column crossover helped most.

    After a move that turns cells to recompute, their ancestors are recomputed in the same call, without which they
    would change nothing, and in three of four moves their descendants too, without which a parent would work on stale
    input.
    """

    grid: GeneGrid
    crossover_probability: float = 0.9
    mutation_probability: float = 0.5
    wake_probability: float = 0.75
    second_move_probability: float = 0.4

    def crossover(self, first: Genome, second: Genome, rng: np.random.Generator) -> Genome:
        """The first genome with a range of rows, or of blocks' columns, from the second."""
        child = first.copy()
        if rng.random() >= self.crossover_probability:
            return child
        if rng.random() < 0.5:
            start, stop = _interval(self.grid.n_calls, rng)
            child[start:stop] = second[start:stop]
        else:
            start, stop = _interval(len(self.grid.blocks), rng)
            columns = np.concatenate(self.grid.blocks[start:stop])
            child[:, columns] = second[:, columns]
        return child

    def mutate(self, genome: Genome, rng: np.random.Generator) -> Genome:
        """The genome after one or two random moves, or a plain copy for every second one."""
        changed = genome.copy()
        if rng.random() >= self.mutation_probability:
            return _estimated(changed, self.grid)
        for _ in range(1 + int(rng.random() < self.second_move_probability)):
            move = MOVES[rng.integers(len(MOVES))]
            moved = move(changed, self.grid, rng)
            changed = _woken(changed, moved, self.grid, with_descendants=rng.random() < self.wake_probability)
        return _estimated(changed, self.grid)


def flip_cells(genome: Genome, grid: GeneGrid, rng: np.random.Generator) -> Genome:
    """Two or more random cells after the first row, four on average, read instead of recompute or the other way."""
    moved = genome.copy()
    if grid.n_calls < 2:
        return moved
    n_flips = min(2 + rng.poisson(2.0), (grid.n_calls - 1) * grid.n_genes)
    cells = rng.choice((grid.n_calls - 1) * grid.n_genes, size=n_flips, replace=False) + grid.n_genes
    flat = moved.ravel()
    flat[cells] = np.where(flat[cells] == RECOMPUTE, _some_read(grid, rng), RECOMPUTE)
    return moved


def shift_refresh(genome: Genome, grid: GeneGrid, rng: np.random.Generator) -> Genome:
    """Exchange two neighbouring calls, in one block, one leaf kind or everywhere: a refresh moves by one step."""
    columns = _column_group(grid, rng)
    moved = genome.copy()
    part = genome[:, columns]
    differing = 1 + np.flatnonzero((part[1:-1] != part[2:]).any(axis=1))
    if len(differing):
        t = int(rng.choice(differing))
        moved[t, columns], moved[t + 1, columns] = part[t + 1], part[t]
    return moved


def extend_in_depth(genome: Genome, grid: GeneGrid, rng: np.random.Generator) -> Genome:
    """Grow what one block does in one call over some of its neighbours in depth."""
    moved = genome.copy()
    if grid.n_calls < 2:
        return moved
    t, block = int(rng.integers(1, grid.n_calls)), int(rng.integers(len(grid.blocks)))
    value = _majority(genome[t, grid.blocks[block]], grid, rng)
    length, up = int(rng.geometric(0.3)), rng.random() < 0.5
    reach = range(block + 1, block + 1 + length) if up else range(block - length, block)
    for other in reach:
        if 0 <= other < len(grid.blocks):
            moved[t, grid.blocks[other]] = value
    return moved


def copy_row(genome: Genome, grid: GeneGrid, rng: np.random.Generator) -> Genome:
    """Make one call do what another does."""
    moved = genome.copy()
    if grid.n_calls > 2:
        source, target = rng.choice(np.arange(1, grid.n_calls), size=2, replace=False)
        moved[target] = genome[source]
    return moved


def swap_rows(genome: Genome, grid: GeneGrid, rng: np.random.Generator) -> Genome:
    """Exchange two calls."""
    moved = genome.copy()
    if grid.n_calls > 2:
        first, second = rng.choice(np.arange(1, grid.n_calls), size=2, replace=False)
        moved[[first, second]] = genome[[second, first]]
    return moved


def toggle_run(genome: Genome, grid: GeneGrid, rng: np.random.Generator) -> Genome:
    """Turn a block column, a leaf kind or whole rows over, in a run of calls."""
    moved = genome.copy()
    if grid.n_calls < 2:
        return moved
    columns = _column_group(grid, rng)
    start = int(rng.integers(1, grid.n_calls))
    stop = start + int(rng.geometric(0.4))
    reads = _majority(genome[start, columns], grid, rng) != RECOMPUTE
    moved[start:stop, columns] = RECOMPUTE if reads else _some_read(grid, rng)
    return moved


def change_forecast(genome: Genome, grid: GeneGrid, rng: np.random.Generator) -> Genome:
    """Let the cells that read, of a block column, a leaf kind or whole rows, read in another way from some call on."""
    moved = genome.copy()
    columns = _column_group(grid, rng)
    start = int(rng.integers(1, max(2, grid.n_calls)))
    stop = grid.n_calls if rng.random() < 0.5 else start + int(rng.geometric(0.3))
    part = genome[start:stop, columns]
    moved[start:stop, columns] = np.where(part == RECOMPUTE, RECOMPUTE, _some_read(grid, rng))
    return moved


MOVES: tuple[Move, ...] = (
    flip_cells,
    shift_refresh,
    extend_in_depth,
    copy_row,
    swap_rows,
    toggle_run,
    change_forecast,
)


def _some_read(grid: GeneGrid, rng: np.random.Generator) -> int:
    return int(grid.reads[rng.integers(len(grid.reads))])


def _majority(actions: Genome, grid: GeneGrid, rng: np.random.Generator) -> int:
    """Recompute if most cells do, else what one of the reading ones does."""
    reading = actions[actions != RECOMPUTE]
    return int(reading[rng.integers(len(reading))]) if 2 * len(reading) >= len(actions) else RECOMPUTE


def _column_group(grid: GeneGrid, rng: np.random.Generator) -> Columns:
    kind = rng.integers(5 if grid.guided else 4)
    if kind == 0:
        return np.arange(grid.n_genes - grid.guided)
    if kind == 4:
        return np.array([grid.n_genes - 1])
    if kind == 1:
        return grid.components[rng.integers(len(grid.components))]
    if kind == 2:
        return grid.blocks[rng.integers(len(grid.blocks))]
    start, stop = _interval(len(grid.blocks), rng)
    return np.concatenate(grid.blocks[start:stop])


def _interval(n: int, rng: np.random.Generator) -> tuple[int, int]:
    """A random non-empty half-open interval of range(n)."""
    first, second = rng.integers(0, n, size=2)
    return int(min(first, second)), int(max(first, second)) + 1


def _woken(before: Genome, after: Genome, grid: GeneGrid, *, with_descendants: bool) -> Genome:
    fresh = (before != RECOMPUTE) & (after == RECOMPUTE)
    reach = grid.ancestry + grid.ancestry.T if with_descendants else grid.ancestry
    return np.where(fresh @ reach > 0.0, np.uint8(RECOMPUTE), after)


def _estimated(genome: Genome, grid: GeneGrid) -> Genome:
    """The genome with a guidance estimate in calls that read all, from the first dropped branch on.

    There the stored halves are of different calls, and their difference is that of the calls more than of the branches:
    on mini-pixart and mini-sd deviations became ten to thirty times as large.
    """
    if not grid.guided:
        return genome
    outermost = np.flatnonzero(grid.ancestry[:-1].sum(axis=1) == 0.0)
    reads_all = (genome[:, outermost] != RECOMPUTE).all(axis=1)
    after_a_drop = np.cumsum(genome[:, -1] != RECOMPUTE) > 0
    mixed = reads_all & after_a_drop & (genome[:, -1] == RECOMPUTE)
    return np.where(mixed[:, None] & (np.arange(grid.n_genes) == grid.n_genes - 1), np.uint8(CacheAction.REUSE), genome)
