"""Seconds that the archive, the sorts and the selection take on made-up points; part of `scale.py`."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from autotune.search.archive import ParetoArchive
from autotune.search.nsga2 import Individual, survivors
from autotune.search.searcher import Proposal, Result
from autotune.spaces.evaluation import Measurement
from autotune.spaces.pareto import non_dominated
from autotune.spaces.schedule import Schedule

REPEATS = 3


def archive_seconds(n: int, objectives: Sequence[str], seed: int) -> float:
    """Taking in `n` results, none of which dominates another; the hypervolume is read after each, as in a study."""
    results = _front_of_results(n, seed)

    def fill() -> None:
        archive = ParetoArchive(objectives)
        for result in results:
            archive.add(result)
            _ = archive.hypervolume
        assert len(archive) == n

    return _best(fill)


def sort_seconds(n: int, n_objectives: int, seed: int) -> float:
    """`non_dominated` of `n` points, none of which dominates another."""
    points = np.random.default_rng(seed).random((n, n_objectives))
    points /= points.sum(axis=1, keepdims=True)
    return _best(lambda: non_dominated(points))


def selection_seconds(n: int, n_objectives: int, seed: int) -> float:
    """NSGA-II's choice of all but four of `n` random individuals."""
    rows = np.random.default_rng(seed).random((n, n_objectives)).tolist()
    genome = np.zeros((1, 1), bool)
    members = [Individual(genome=genome, values=tuple(row), violation=0.0) for row in rows]
    return _best(lambda: survivors(members, n - 4))


def _best(function: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def _front_of_results(n: int, seed: int) -> list[Result]:
    """Results on a falling curve in the plane of MACs and deviation, in random order; PSNR is noise."""
    rng = np.random.default_rng(seed)
    proposal = Proposal(schedule=Schedule(n_steps=1), family="random", label="made up")
    costs, noise = rng.permutation(n).tolist(), rng.random(n).tolist()
    return [
        Result(
            proposal=proposal,
            outcome=Measurement(
                quality={"deviation": (10.0 ** (-3.0 * macs / n),), "psnr": (psnr,)},
                latency_ms=(1.0,),
                baseline_latency_ms=(1.0,),
                macs=macs,
                baseline_macs=n,
                network_calls=1,
                peak_memory_bytes=0,
                wall_s=1.0,
            ),
        )
        for macs, psnr in zip(costs, noise, strict=True)
    ]
