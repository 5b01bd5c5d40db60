"""Selection of NSGA-II (Deb et al. 2002) with constrained domination, on moocore's ranks and DEAP's crowding.

DEAP's variation and tournaments draw from the global `random` module; the part used here draws nothing, so a search
stays a function of its own seed. DEAP's own ranks cost seconds from some hundred individuals on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import moocore
import numpy as np
from deap.tools import emo

GenomeT = TypeVar("GenomeT")

LARGE = 1e12
"""Stands in for infinity, with which crowding distances would turn NaN."""


@dataclass(frozen=True, kw_only=True)
class Individual(Generic[GenomeT]):
    """A measured genome: objectives to be minimised, and by how much it breaks the constraints."""

    genome: GenomeT
    values: tuple[float, ...]
    violation: float


@dataclass(frozen=True, kw_only=True)
class Ranked(Generic[GenomeT]):
    """An individual's place in its population: lower ranks first, then larger crowding distances."""

    individual: Individual[GenomeT]
    rank: int
    crowding: float


def survivors(individuals: Sequence[Individual[GenomeT]], size: int) -> list[Ranked[GenomeT]]:
    """The best `size` individuals, best first: feasible ones by rank and crowding, then the others by violation."""
    feasible = [member for member in individuals if member.violation == 0.0]
    others = sorted((m for m in individuals if m.violation > 0.0), key=lambda member: member.violation)
    ranked = _sorted_feasible(feasible, size)
    worst = ranked[-1].rank if ranked else -1
    ranked += [Ranked(individual=m, rank=worst + 1 + i, crowding=0.0) for i, m in enumerate(others)]
    return ranked[:size]


def tournament(population: Sequence[Ranked[GenomeT]], rng: np.random.Generator) -> Individual[GenomeT]:
    """The better of two random members by rank, then by crowding; a tie is drawn."""
    first, second = (population[int(i)] for i in rng.integers(0, len(population), size=2))
    keys = (first.rank, -first.crowding), (second.rank, -second.crowding)
    if keys[0] == keys[1]:
        return (first if rng.random() < 0.5 else second).individual
    return (first if keys[0] < keys[1] else second).individual


@dataclass(slots=True)
class _Fitness:
    """What DEAP reads and writes."""

    values: tuple[float, ...]
    crowding_dist: float = 0.0


@dataclass(slots=True)
class _Carrier(Generic[GenomeT]):
    """What DEAP sorts: anything with a `fitness`."""

    individual: Individual[GenomeT]
    fitness: _Fitness


def _sorted_feasible(individuals: Sequence[Individual[GenomeT]], size: int) -> list[Ranked[GenomeT]]:
    n_chosen = min(size, len(individuals))
    chosen: list[Ranked[GenomeT]] = []
    for rank, front in enumerate(_fronts(individuals)):
        emo.assignCrowdingDist(front)
        if len(chosen) + len(front) >= n_chosen:
            front.sort(key=lambda carrier: carrier.fitness.crowding_dist, reverse=True)
        chosen += [Ranked(individual=c.individual, rank=rank, crowding=c.fitness.crowding_dist) for c in front]
        if len(chosen) >= n_chosen:
            break
    return chosen[:n_chosen]


def _fronts(individuals: Sequence[Individual[GenomeT]]) -> Iterator[list[_Carrier[GenomeT]]]:
    """The fronts by rank, each in the order in which Deb's fast sort finds its members.

    That is the order of the last members of the front before that dominate them; equal ones stand together.
    """
    if not individuals:
        return
    alike: dict[tuple[float, ...], list[_Carrier[GenomeT]]] = {}
    table = np.clip([individual.values for individual in individuals], -LARGE, LARGE)
    for individual, values in zip(individuals, map(tuple, table.tolist()), strict=True):
        alike.setdefault(values, []).append(_Carrier(individual, _Fitness(values)))
    points, carriers = np.array(list(alike)), list(alike.values())
    ranks = moocore.pareto_rank(points)
    by_rank = np.argsort(ranks, kind="stable")
    before = None
    for front in np.split(by_rank, np.flatnonzero(np.diff(ranks[by_rank])) + 1):
        if before is not None:
            dominates = np.logical_and.reduce([column[before, None] <= column[front] for column in points.T])
            front = front[np.argsort(-np.argmax(dominates[::-1], axis=0), kind="stable")]
        yield [carrier for i in front.tolist() for carrier in carriers[i]]
        before = front
