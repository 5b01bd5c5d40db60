"""Evolution of whole schedules: all columns in one population."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autotune.search.bac import bac_seeds
from autotune.search.cachequant import cachequant_seeds
from autotune.search.ecad import planned_and_known
from autotune.search.fitness import Fitness
from autotune.search.nsga2 import Individual, Ranked, survivors, tournament
from autotune.search.screening import Guess, Screening
from autotune.search.searcher import Novelty, Proposal, Result, SearchContext
from autotune.search.seed_queue import Seed, SeedQueue, in_turns
from autotune.search.table_variation import MOVES, TableVariation
from autotune.search.within_budget import BudgetSpentError
from autotune.spaces.errors import ScheduleError
from autotune.spaces.objective import OBJECTIVES
from autotune.spaces.schedule import Schedule

POPULATION, N_OFFSPRING, N_SEEDS = 32, 4, 12
MAX_TRIES = 200
"""Offspring in a row that are known or invalid, after which there is nothing left to try."""

N_SCREENED = 8
"""Offspring of which a trusted predictor picks one."""

MEMORY = 0.98
"""What a success of the past counts for after each further trial of its move."""


@dataclass(frozen=True, slots=True)
class _Child:
    """An offspring, the move that it came of, and what was predicted of it."""

    proposal: Proposal
    move: str
    guess: Guess | None = None


class TableEvolution:
    """NSGA-II on schedules of any length, with any columns but policies.

    Its first parents are what other searches have found, the rival and the default run among them, and the first of
    `planned_and_known`, of BAC's and of CacheQuant's plans, in turns: on the times and formulas of the best schedule
    that computes everything, since on the pipeline's own sampler they come no closer than that does. Moves that lead to
    better schedules are drawn more often: in proportion to their share of successes, of which each has two trials and
    one success from the start. Once `Screening` can be trusted, each offspring is the one of `N_SCREENED` that is
    expected to lie farthest below the front.
    """

    family = "tables"

    def __init__(self, context: SearchContext, seed: int = 0) -> None:
        self._context = context
        self._rng = np.random.default_rng(seed)
        self._novelty = Novelty(context.inventory)
        self._fitness = Fitness(context)
        self._variation = TableVariation(context)
        self._seeds = SeedQueue(self._starts, N_SEEDS, self._novelty, self._fitness)
        self._population: list[Ranked[Schedule]] = []
        self._arrived: list[Individual[Schedule]] = []
        self._children: dict[str, _Child] = {}
        self._successes = dict.fromkeys(MOVES, 1.0)
        self._trials = dict.fromkeys(MOVES, 2.0)
        quality = (i for i, name in enumerate(context.objectives) if not OBJECTIVES[name].is_cost)
        self._quality = next(quality, None)
        self.screening = None if self._quality is None else Screening(context, seed)

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
            child = self._children.pop(result.proposal.schedule_hash, None)
            if child is not None:
                self._trials[child.move] = MEMORY * self._trials[child.move] + 1.0
                self._successes[child.move] *= MEMORY
            if measurement is None or schedule.policy is not None or schedule.tables:
                continue
            values = self._fitness.values(measurement)
            individual = Individual(genome=schedule, values=values, violation=self._fitness.violation(measurement))
            if child is not None:
                self._successes[child.move] += self._is_better(individual)
            if self.screening is not None and self._quality is not None:
                self.screening.note(schedule, values[self._quality], None if child is None else child.guess)
            self._arrived.append(individual)
        if len(self._arrived) >= N_OFFSPRING or not self._population:
            members = [ranked.individual for ranked in self._population] + self._arrived
            self._population, self._arrived = survivors(members, POPULATION), []

    def _starts(self) -> Iterator[Seed]:
        solver = self._best_solver()
        others = (self._affordable(seeds) for seeds in (bac_seeds, cachequant_seeds))
        for label, schedule in in_turns(planned_and_known(self._context), *others):
            if solver is None or schedule.time is not None:
                yield label, schedule
                continue
            with contextlib.suppress(ScheduleError):
                yield f"{label}, {solver.n_steps} steps", self._variation.on_solver(schedule, solver)

    def _affordable(self, seeds: Callable[[SearchContext], Iterator[Seed]]) -> Iterator[Seed]:
        """Plans, if the budget has room for what they are made from."""
        with contextlib.suppress(BudgetSpentError):
            yield from seeds(self._context)

    def _best_solver(self) -> Schedule | None:
        """The closest known schedule that computes everything; None if that is the pipeline's own sampler."""
        i = self._quality
        plain = [k for k in self._known if k.genome.cache is None and k.genome.guidance is None]
        if i is None or not plain:
            return None
        best = min(plain, key=lambda k: (k.violation, k.values[i])).genome
        return None if best.time is None else best

    @property
    def _known(self) -> list[Individual[Schedule]]:
        return [ranked.individual for ranked in self._population] + self._arrived

    def _is_better(self, new: Individual[Schedule]) -> bool:
        """Whether no known individual is as good in every respect."""
        return not any(
            old.violation <= new.violation and all(a <= b for a, b in zip(old.values, new.values, strict=True))
            for old in self._known
        )

    def _offspring(self) -> Proposal | None:
        if not self._population:
            return None
        screened = self.screening is not None and self.screening.is_trusted
        children = self._children_of(self._population, N_SCREENED if screened else 1)
        if not children:
            return None
        child = self._most_promising(children)
        self._novelty.mark(child.proposal)
        self._children[child.proposal.schedule_hash] = child
        return child.proposal

    def _children_of(self, population: Sequence[Ranked[Schedule]], n: int) -> list[_Child]:
        """Up to `n` new ones, no two alike."""
        names = list(MOVES)
        rates = np.array([self._successes[name] / self._trials[name] for name in names])
        children: dict[str, _Child] = {}
        for _ in range(MAX_TRIES):
            first, second = tournament(population, self._rng), tournament(population, self._rng)
            name = names[int(self._rng.choice(len(names), p=rates / rates.sum()))]
            label = f"by {name}" + ", screened" * (n > 1)
            try:
                made = MOVES[name](self._variation, first.genome, second.genome, self._rng)
                refused = self._fitness.refuses(made)
            except ScheduleError:
                continue
            proposal = None if refused else self._novelty.propose(made, family=self.family, label=label)
            if proposal is not None:
                children.setdefault(proposal.schedule_hash, _Child(proposal, name))
            if len(children) == n:
                break
        return list(children.values())

    def _most_promising(self, children: Sequence[_Child]) -> _Child:
        """The child that is expected to lie farthest below the front, with what is predicted of it."""
        schedules = [child.proposal.schedule for child in children]
        expected = None if self.screening is None else self.screening.predict(schedules)
        if expected is None or self._quality is None:
            return children[0]
        known = [(self._fitness.expected_cost(k.genome), k.values[self._quality]) for k in self._known]
        guesses = [
            Guess(value=value, cost=self._fitness.expected_cost(schedule))
            for schedule, value in zip(schedules, expected, strict=True)
        ]
        excess = [g.value - min([v for cost, v in known if cost <= g.cost], default=min(g.value, 0.0)) for g in guesses]
        best = int(np.argmin(excess))
        return replace(children[best], guess=guesses[best])
