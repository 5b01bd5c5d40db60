"""The runs that a latency model is fitted to: each mixes calls of all kinds, so that drift of the device cancels."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.condition import Condition
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

PLAIN = ((0.45, 0.65), (0.85, 1.0))
"""Calls of a designed run that compute all, from one share of the run to another: what the others are held against.

Nobody reads what the first of them compute, nor what those at the end do, so that they store nothing: a call whose
values are kept is slower by some percent, since what comes next finds no memory that the processor's cache still holds.
"""

READS = (CacheAction.REUSE, CacheAction.TAYLOR_1, CacheAction.TAYLOR_2)


def designed_schedules(
    condition: Condition, inventory: Inventory, n_calls: int, *, drops: bool, seed: int = 0
) -> Iterator[Schedule]:
    """Schedules that between them recompute, reuse and forecast all kinds of sites; the same ones for the same seed.

    With `drops` the guidance column may leave a branch out.
    """
    rng = np.random.default_rng(seed)
    leaves, outermost = list(inventory.leaves), list(inventory.outermost)
    spans = [i for i in range(len(inventory)) if i not in set(leaves)]
    default = Schedule(n_steps=condition.n_steps)
    kinds = [(leaves, READS[:1]), (leaves, READS), ([*spans, *leaves], READS)]
    for sites, reads in (*kinds, (outermost, READS), *kinds):
        plan = _random_plan(rng, n_calls, len(inventory), sites, reads)
        yield replace(default, cache=plan)
    if drops:
        rows = [GuidanceAction.BOTH, GuidanceAction.STORED, GuidanceAction.CONDITIONAL, GuidanceAction.LINEAR]
        for sites, reads in (([], READS), (leaves, READS[:1]), ([*outermost, *leaves], READS)):
            chosen = np.where(_plain_calls(n_calls), 0, rng.integers(1, 4, n_calls))
            column = [rows[int(k)] for k in chosen]
            plan = _random_plan(rng, n_calls, len(inventory), sites, reads)
            yield replace(default, cache=plan, guidance=tuple(column))
    n = max(2, n_calls // 2)
    noise = condition.noise_schedule
    time = uniform_lambda(noise, n, t_start=condition.start_timestep)
    yield Schedule(n_steps=n, time=time, solver=make_solver("dpmpp-2m", n, noise))


def _random_plan(
    rng: np.random.Generator, n_calls: int, n_sites: int, sites: list[int], reads: tuple[CacheAction, ...]
) -> CachePlan:
    """Random cells of these sites, more of them in some calls than in others; some calls compute all."""
    share = rng.choice([0.15, 0.5, 0.85, 1.0], size=(n_calls, 1))
    share[_plain_calls(n_calls)] = 0.0
    chosen = rng.random((n_calls, len(sites))) < share
    # A call has one kind of reads: a forecast costs more, and calls of one kind tell how much.
    kinds: NDArray[np.int_] = rng.choice(np.array(reads, int), size=(n_calls, 1))
    table = np.full((n_calls, n_sites), CacheAction.RECOMPUTE, np.uint8)
    table[:, sites] = np.where(chosen, kinds, CacheAction.RECOMPUTE)
    return CachePlan.from_array(table)


def _plain_calls(n_calls: int) -> NDArray[np.bool_]:
    """The first call, which has nothing to read, and those of `PLAIN`: bool (n_calls,)."""
    place = np.arange(n_calls) / n_calls
    inside = [(first <= place) & (place < last) for first, last in PLAIN]
    return np.asarray(np.any(inside, axis=0) | (place == 0.0))
