"""Selection of NSGA-II (Deb et al. 2002) with constrained domination, on DEAP's sorting and crowding.

DEAP's variation and tournaments draw from the global `random` module; the parts used here draw nothing, so a search
stays a function of its own seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from deap import base, tools

from autotune.search.variation import Genome

LARGE = 1e12
"""Stands in for infinity, with which crowding distances would turn NaN."""


@dataclass(frozen=True, kw_only=True)
class Individual:
    """A measured genome: objectives to be minimised, and by how much it breaks the constraints."""

    genome: Genome
    values: tuple[float, ...]
    violation: float


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """An individual's place in its population: lower ranks first, then larger crowding distances."""

    individual: "Individual"
    rank: int
    crowding: float


def survivors(individuals: Sequence[Individual], size: int) -> list[Ranked]:
    """The best `size` individuals, best first: feasible ones by rank and crowding, then the others by violation."""
    feasible = [member for member in individuals if member.violation == 0.0]
    others = sorted((m for m in individuals if m.violation > 0.0), key=lambda member: member.violation)
    ranked = _sorted_feasible(feasible, size)
    worst = ranked[-1].rank if ranked else -1
    ranked += [Ranked(individual=m, rank=worst + 1 + i, crowding=0.0) for i, m in enumerate(others)]
    return ranked[:size]


def tournament(population: Sequence[Ranked], rng: np.random.Generator) -> Individual:
    """The better of two random members by rank, then by crowding; a tie is drawn."""
    first, second = (population[int(i)] for i in rng.integers(0, len(population), size=2))
    keys = (first.rank, -first.crowding), (second.rank, -second.crowding)
    if keys[0] == keys[1]:
        return (first if rng.random() < 0.5 else second).individual
    return (first if keys[0] < keys[1] else second).individual


class _Carrier:
    """What DEAP sorts: anything with a `fitness`."""

    def __init__(self, individual: Individual, fitness: Any) -> None:
        self.individual = individual
        self.fitness = fitness


def _sorted_feasible(individuals: Sequence[Individual], size: int) -> list[Ranked]:
    if not individuals:
        return []
    weights = (-1.0,) * len(individuals[0].values)
    fitness_class = type("Fitness", (base.Fitness,), {"weights": weights})
    carriers = [_Carrier(m, fitness_class(tuple(np.clip(m.values, -LARGE, LARGE).tolist()))) for m in individuals]
    chosen = tools.selNSGA2(carriers, min(size, len(carriers)))
    rank_of: dict[int, int] = {}
    for rank, front in enumerate(tools.sortNondominated(chosen, len(chosen))):
        rank_of |= {id(carrier): rank for carrier in front}
    return [
        Ranked(individual=c.individual, rank=rank_of[id(c)], crowding=float(c.fitness.crowding_dist)) for c in chosen
    ]
