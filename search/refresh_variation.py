"""Operators on sets of refreshes: positions of the lattice unit x network call, as many before as after."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autotune.search.gene_grid import GeneGrid, Genome
from autotune.spaces.blockwise_plan import Fresh, blockwise_plan, fresh_units
from autotune.spaces.cache_unit import cache_units

Positions = NDArray[np.intp]
"""Sorted numbers call x n_units + unit, of calls between the first and the last one."""

FEWEST_REPLACED, MOST_REPLACED = 2, 6


@dataclass(frozen=True, kw_only=True)
class RefreshSetVariation:
    """Crossover and mutation of EVO (pillom/EVO, 2026), for a grid in which every site is a gene.

    A genome is read as the set of positions at which units recompute. The first and the last call always refresh all
    units and are no positions. Where parents have sets of different sizes, the child's lies between them.
    """

    grid: GeneGrid
    crossover_probability: float = 0.8
    mutation_probability: float = 0.1

    def crossover(self, first: Genome, second: Genome, rng: np.random.Generator) -> Genome:
        """Both sets shuffled and swapped element by element with probability 1/2, repaired to the child's size.

        What is too much is left out at random; what is missing comes from either parent, then from anywhere.
        """
        mine, other = self.positions(first), self.positions(second)
        if rng.random() >= self.crossover_probability:
            return self.genome(mine)
        size = int(rng.integers(min(len(mine), len(other)), max(len(mine), len(other)), endpoint=True))
        rng.shuffle(mine)
        rng.shuffle(other)
        n = min(len(mine), len(other))
        swapped = rng.random(n) < 0.5
        child = np.unique(np.concatenate([np.where(swapped, other[:n], mine[:n]), mine[n:]]))
        if len(child) > size:
            child = rng.choice(child, size, replace=False)
        for source in (np.union1d(mine, other), np.arange(self.n_positions)):
            left = np.setdiff1d(source, child)
            child = np.append(child, rng.choice(left, min(len(left), size - len(child)), replace=False))
        return self.genome(child)

    def mutate(self, genome: Genome, rng: np.random.Generator) -> Genome:
        """The set with 2 to 6 elements replaced, for one genome in ten."""
        positions = self.positions(genome)
        if rng.random() < self.mutation_probability:
            left = np.setdiff1d(np.arange(self.n_positions), positions)
            n = min(int(rng.integers(FEWEST_REPLACED, MOST_REPLACED, endpoint=True)), len(positions), len(left))
            kept = rng.choice(positions, len(positions) - n, replace=False)
            positions = np.append(kept, rng.choice(left, n, replace=False))
        return self.genome(positions)

    @cached_property
    def n_units(self) -> int:
        """Units of the model."""
        return len(cache_units(self.grid.inventory))

    @property
    def n_positions(self) -> int:
        """Positions that there are."""
        return max(0, self.grid.n_calls - 2) * self.n_units

    def positions(self, genome: Genome) -> Positions:
        """The set that a genome stands for."""
        return np.flatnonzero(fresh_units(genome, self.grid.inventory)[1:-1])

    def genome(self, positions: Positions) -> Genome:
        """The genome of a set."""
        return np.array(blockwise_plan(fresh_at(positions, self.grid.n_calls, self.n_units), self.grid.inventory).table)


def fresh_at(positions: Positions, n_calls: int, n_units: int) -> Fresh:
    """The table of refreshes of a set of positions: all units in the first and the last call, and those."""
    fresh = np.zeros((n_calls, n_units), bool)
    fresh[[0, -1]] = True
    fresh[1:-1].ravel()[positions] = True  # rows that follow each other: a view
    return fresh
