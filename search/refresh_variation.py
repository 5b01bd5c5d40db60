"""Operators on sets of refreshes: positions of the lattice unit x network call."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autotune.search.gene_grid import GeneGrid, Genome
from autotune.spaces.blockwise_plan import Fresh, blockwise_plan, fresh_units
from autotune.spaces.cache_unit import cache_units

Positions = NDArray[np.intp]
"""Numbers row x n_units + unit, of rows of `open_calls`."""

LONG = 50
"""Network calls of a run from which on its last call is always refreshed. In shorter runs it would cost too much."""

FEWEST_REPLACED, MOST_REPLACED = 2, 6

FARTHEST = 3
"""Calls by which a mutation shifts a refresh at most."""


@dataclass(frozen=True, kw_only=True)
class RefreshSetVariation:
    """Crossover and mutation of EVO (pillom/EVO, 2026), for a grid in which every site is a gene.

    A genome is read as the set of positions at which units recompute. Calls that always refresh all units are no
    positions. Where parents have sets of different sizes, the child's lies between them. Every second crossover is
    ours: it exchanges all refreshes of a unit at once, which keeps their distances. So are mutations that shift
    refreshes by a few calls, and most genomes mutate; in EVO one in ten does.
    """

    grid: GeneGrid
    crossover_probability: float = 0.8
    whole_units_probability: float = 0.5
    mutation_probability: float = 0.6
    shift_probability: float = 0.7

    def crossover(self, first: Genome, second: Genome, rng: np.random.Generator) -> Genome:
        """Both sets shuffled and swapped element by element with probability 1/2, repaired to the child's size.

        What is too much is left out at random; what is missing comes from either parent, then from anywhere. Or each
        unit's refreshes swapped with probability 1/2.
        """
        mine, other = self.positions(first), self.positions(second)
        if rng.random() >= self.crossover_probability:
            return self.genome(mine)
        if rng.random() < self.whole_units_probability:
            swapped = rng.random(self.n_units) < 0.5
            return self.genome(np.append(mine[~swapped[mine % self.n_units]], other[swapped[other % self.n_units]]))
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
        """Some refreshes of a unit or of a call shifted to near calls, or 2 to 6 anywhere replaced, or nothing."""
        positions = self.positions(genome)
        if rng.random() >= self.mutation_probability or not len(positions):
            return self.genome(positions)
        if rng.random() < self.shift_probability:
            return self.genome(self._shifted(positions, rng))
        left = np.setdiff1d(np.arange(self.n_positions), positions)
        n = min(int(rng.integers(FEWEST_REPLACED, MOST_REPLACED, endpoint=True)), len(positions), len(left))
        kept = rng.choice(positions, len(positions) - n, replace=False)
        return self.genome(np.append(kept, rng.choice(left, n, replace=False)))

    def _shifted(self, positions: Positions, rng: np.random.Generator) -> Positions:
        """All refreshes of one call by the same distance, or each one of a unit by its own; where two meet, one is."""
        calls, units = np.divmod(positions, self.n_units)
        chosen, distance = rng.choice(positions), rng.integers(1, FARTHEST, endpoint=True) * rng.choice([-1, 1])
        if rng.random() < 0.5:
            moved, by = calls == chosen // self.n_units, distance
        else:
            moved = units == chosen % self.n_units
            by = rng.integers(-FARTHEST, FARTHEST, int(moved.sum()), endpoint=True)
        calls[moved] = np.clip(calls[moved] + by, 0, self.n_positions // self.n_units - 1)
        return np.unique(calls * self.n_units + units)

    @cached_property
    def n_units(self) -> int:
        """Units of the model."""
        return len(cache_units(self.grid.inventory))

    @property
    def n_positions(self) -> int:
        """Positions that there are."""
        return len(np.arange(self.grid.n_calls)[open_calls(self.grid.n_calls)]) * self.n_units

    def positions(self, genome: Genome) -> Positions:
        """The set that a genome stands for."""
        return np.flatnonzero(fresh_units(genome, self.grid.inventory)[open_calls(self.grid.n_calls)])

    def genome(self, positions: Positions) -> Genome:
        """The genome of a set."""
        return np.array(blockwise_plan(fresh_at(positions, self.grid.n_calls, self.n_units), self.grid.inventory).table)


def open_calls(n_calls: int) -> slice:
    """The calls in which a set decides: all after the first, and in a long run before the last."""
    return slice(1, n_calls - refreshes_last(n_calls))


def refreshes_last(n_calls: int) -> bool:
    """Whether the last call of a run always refreshes all units."""
    return n_calls >= LONG


def fresh_at(positions: Positions, n_calls: int, n_units: int) -> Fresh:
    """The table of refreshes of a set of positions, (n_calls, n_units), with the calls that refresh all units."""
    fresh = np.ones((n_calls, n_units), bool)
    lattice = fresh[open_calls(n_calls)]
    chosen = np.zeros(lattice.size, bool)
    chosen[positions] = True
    lattice[:] = chosen.reshape(lattice.shape)
    return fresh
