"""Evolution of whole schedules: all columns in one population."""

from collections.abc import Sequence

import numpy as np

from autotune.search.ecad import planned_and_known
from autotune.search.fitness import Fitness
from autotune.search.nsga2 import Individual, Ranked, survivors, tournament
from autotune.search.searcher import Novelty, Proposal, Result, SearchContext
from autotune.search.seed_queue import SeedQueue
from autotune.search.table_variation import MOVES, TableVariation
from autotune.spaces.errors import ScheduleError
from autotune.spaces.schedule import Schedule

POPULATION, N_OFFSPRING, N_SEEDS = 32, 4, 12
MAX_TRIES = 200
"""Offspring in a row that are known or invalid, after which there is nothing left to try."""

MEMORY = 0.98
"""What a success of the past counts for after each further trial of its move."""


class TableEvolution:
    """NSGA-II on schedules of any length, with any columns but policies.

    Its first parents are what other searches have found, the rival and the default run among them, and the first of
    `planned_and_known`. Moves that lead to better schedules are drawn more often: in proportion to their share of
    successes, of which each has two trials and one success from the start.
    """

    family = "tables"

    def __init__(self, context: SearchContext, seed: int = 0) -> None:
        self._context = context
        self._rng = np.random.default_rng(seed)
        self._novelty = Novelty(context.inventory)
        self._fitness = Fitness(context)
        self._variation = TableVariation(context)
        self._seeds = SeedQueue(lambda: planned_and_known(context), N_SEEDS, self._novelty, self._fitness)
        self._population: list[Ranked[Schedule]] = []
        self._arrived: list[Individual[Schedule]] = []
        self._made_by: dict[str, str] = {}
        self._successes = dict.fromkeys(MOVES, 1.0)
        self._trials = dict.fromkeys(MOVES, 2.0)

    def ask(self, n: int) -> list[Proposal]:
        """Up to `n` proposals: seeds first, then offspring of what is known so far."""
        proposals: list[Proposal] = []
        while len(proposals) < n and (proposal := self._seeds.take(self.family) or self._offspring()) is not None:
            proposals.append(proposal)
        return proposals

    def tell(self, results: Sequence[Result]) -> None:
        """Take results in, whoever asked for them."""
        for result in results:
            self._novelty.mark(result.proposal)
            schedule, measurement = result.proposal.schedule, result.measurement
            move = self._made_by.pop(result.proposal.schedule_hash, None)
            if move is not None:
                self._trials[move] = MEMORY * self._trials[move] + 1.0
                self._successes[move] *= MEMORY
            if measurement is None or schedule.policy is not None or schedule.tables:
                continue
            values = self._fitness.values(schedule, measurement)
            individual = Individual(genome=schedule, values=values, violation=self._fitness.violation(measurement))
            if move is not None:
                self._successes[move] += self._is_better(individual)
            self._arrived.append(individual)
        if len(self._arrived) >= N_OFFSPRING or not self._population:
            members = [ranked.individual for ranked in self._population] + self._arrived
            self._population, self._arrived = survivors(members, POPULATION), []

    def _is_better(self, new: Individual[Schedule]) -> bool:
        """Whether no known individual is as good in every respect."""
        known = [ranked.individual for ranked in self._population] + self._arrived
        return not any(
            old.violation <= new.violation and all(a <= b for a, b in zip(old.values, new.values, strict=True))
            for old in known
        )

    def _offspring(self) -> Proposal | None:
        if not self._population:
            return None
        names = list(MOVES)
        rates = np.array([self._successes[name] / self._trials[name] for name in names])
        for _ in range(MAX_TRIES):
            first, second = tournament(self._population, self._rng), tournament(self._population, self._rng)
            name = names[int(self._rng.choice(len(names), p=rates / rates.sum()))]
            try:
                child = MOVES[name](self._variation, first.genome, second.genome, self._rng)
                refused = self._fitness.refuses(child)
            except ScheduleError:
                continue
            proposal = None if refused else self._novelty.admit(child, family=self.family, label=f"by {name}")
            if proposal is not None:
                self._made_by[proposal.schedule_hash] = name
                return proposal
        return None
