"""EVO-style evolution (pillom/EVO, 2026): sets of refreshes, from BAC's plans and importance-guided random ones on."""

import functools
import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from autotune.search.bac import SHARES, bac_schedules
from autotune.search.ecad import EcadSearcher, EcadSettings
from autotune.search.gene_grid import GeneGrid, Genome
from autotune.search.refresh_variation import Positions, RefreshSetVariation, fresh_at, open_calls, refreshes_last
from autotune.search.searcher import SearchContext
from autotune.search.seed_queue import Seed
from autotune.search.variation import Variation
from autotune.spaces.blockwise_plan import blockwise_plan, refreshes_to_fresh
from autotune.spaces.branch_tables import BranchTables
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.cache_unit import cache_units
from autotune.spaces.schedule import Schedule

POPULATION = 50

N_PLANS = 2
"""Of BAC, for each random set among the seeds."""

LATE_POWERS = (0.3, 0.5)
"""Of refreshes that are dense late; a sampler that draws noise forgives the most in its first calls."""

GUIDED_SHARE = 0.7
"""Of the random sets: those that are drawn by importance. The others are uniform."""

EXPONENT, FLOOR = 1.0, 0.005
"""Weight of a position: its dissimilarity over the greatest one, to this power, and at least this."""

LEAST_SHARE = 0.04
"""Of the network calls: positions that a random set gives to each unit, and at least one. 4 of 100 calls."""


def _on_sets(grid: GeneGrid) -> Variation:
    return RefreshSetVariation(grid=grid)


class EvoSearcher(EcadSearcher):
    """Evolution over the lattice unit x network call; units recompute or reuse.

    The first call refreshes all units, as does the last one of a long run.

    EVO fixes the number of refreshes and maximises the success of rollouts. Here plans of all budgets evolve together,
    by NSGA-II on the study's objectives, and a child's budget lies between its parents'. Seeds are BAC's plans, random
    sets, and, ours, refreshes of all units together that are dense late. EVO's two tiers of fitness are what every
    study has: the ladder's first rungs on a few calibration prompts or episodes are the quick one, the verification on
    held-out seeds, which the search never sees, the formal one. Without branch tables there are no plans of BAC, and
    random sets are uniform.

    The numbers to beat are BAC's own and TTS's (CVPR 2026: 5.18 times as fast as the full policy on robomimic at 84 %
    mean success, BAC 3.68 times at 79 %).
    """

    family = "evo"

    def __init__(self, context: SearchContext, seed: int = 0) -> None:
        settings = EcadSettings(
            population=POPULATION,
            n_seeds=POPULATION,
            seeds=functools.partial(evolution_seeds, seed=seed),
            reads=(CacheAction.REUSE,),
            guidance=False,
            make_variation=_on_sets,
        )
        super().__init__(context, seed, settings)

    def _random_genome(self) -> Genome:
        share = self._rng.uniform(min(SHARES), max(SHARES))
        positions = random_positions(self._context, share, None, self._rng)
        return np.array(_plan(self._context, positions).table)


def evolution_seeds(context: SearchContext, seed: int) -> Iterator[Seed]:
    """Label and schedule of two plans of BAC, a late one and a random set in turns; in the end of random sets alone."""
    rng = np.random.default_rng(seed)
    tables = None if context.branch_tables is None or context.n_calls < 3 else context.branch_tables()
    plans = iter(()) if tables is None else bac_schedules(context, tables, force_last=refreshes_last(context.n_calls))
    weights = None if tables is None else importance(tables)
    late = late_schedules(context)
    while context.n_calls >= 3:
        for share in SHARES:
            yield from itertools.islice(plans, N_PLANS)
            yield from itertools.islice(late, 1)
            guided = weights is not None and rng.random() < GUIDED_SHARE
            positions = random_positions(context, share, weights if guided else None, rng)
            schedule = Schedule(n_steps=context.condition.n_steps, cache=_plan(context, positions))
            yield f"random refreshes{', by importance' * guided}, {share:.0%} of positions", schedule


def late_schedules(context: SearchContext) -> Iterator[Seed]:
    """All units refreshed in n calls of N, the k-th, from 0 on, at (N - 1) (k / (n - 1))^power, after each `SHARES`."""
    n_calls, n_units = context.n_calls, len(cache_units(context.inventory))
    for power, share in itertools.product(LATE_POWERS, SHARES):
        n = max(2, round(share * n_calls))
        calls = np.unique(np.round((n_calls - 1) * (np.arange(n) / (n - 1)) ** power)).astype(int).tolist()
        plan = blockwise_plan(refreshes_to_fresh([calls] * n_units, n_calls), context.inventory)
        label = f"{len(calls)} of {n_calls} calls refreshed, dense late, power {power:g}"
        yield label, Schedule(n_steps=context.condition.n_steps, cache=plan)


def importance(tables: BranchTables) -> NDArray[np.float64]:
    """Weight of each position, (n open calls, n_units): how much a branch's output changes from the call before."""
    changes = tables.dissimilarity.T[open_calls(tables.n_calls)]
    greatest = changes.max(initial=0.0)
    return np.maximum((changes / greatest if greatest else changes) ** EXPONENT, FLOOR)


def random_positions(
    context: SearchContext, share: float, weights: NDArray[np.float64] | None, rng: np.random.Generator
) -> Positions:
    """Random positions without repetition: this share of all, for each unit at least a few."""
    n_units = len(cache_units(context.inventory))
    n_rows = len(np.arange(context.n_calls)[open_calls(context.n_calls)])
    if not n_rows:
        return np.array([], np.intp)
    lattice = np.arange(n_rows * n_units).reshape(n_rows, n_units)
    odds = np.ones(lattice.shape) if weights is None else weights
    least = min(n_rows, max(1, round(LEAST_SHARE * context.n_calls)))
    chosen = np.concatenate(
        [rng.choice(lattice[:, u], least, replace=False, p=odds[:, u] / odds[:, u].sum()) for u in range(n_units)]
    )
    left = np.setdiff1d(lattice, chosen)
    n_more = max(0, min(len(left), round(share * lattice.size) - len(chosen)))
    remaining = odds.ravel()[left]
    more = rng.choice(left, n_more, replace=False, p=remaining / remaining.sum()) if n_more else left[:0]
    return np.sort(np.concatenate([chosen, more]))


def _plan(context: SearchContext, positions: Positions) -> CachePlan:
    fresh = fresh_at(positions, context.n_calls, len(cache_units(context.inventory)))
    return blockwise_plan(fresh, context.inventory)
