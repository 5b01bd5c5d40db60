"""What caching does to a robot policy's success: BAC, evolution, uniform refreshes, fewer steps, all on one table.

`mini-policy` in Meta-World: the full DDPM run in 100 steps; DDIM and DPM-Solver++ in fewer; refreshes that are evenly
spread; BAC's plans with 10 and 7 refreshes, with both of its bubbling unions and with none; the best plans that
evolution found (family `evo`); and whole schedules of the joint search, which has fewer steps and caches
together. Plans run on the full run's sampler as a solver program: the same samples, with less work around the network.

Both searches have two tiers of disjoint calibration seeds. The quick one is, for plans of the full run, the error of
one chunk of actions in many states, which needs no episode; for whole schedules, whose samples are others, success.
The formal one is success. All are reported on held-out episodes, the same ones for each: success with its Wilson
interval; latency of one chunk of actions over the full run's, measured in turn with it when nothing else runs; the
share of the decoder's multiply-accumulates that is refreshed.

Prints a table and takes `--quick` (few episodes, short searches), `--seed`, `--device`, `--json FILE`; `--episodes` and
`--candidates` set both sizes; `--jobs` is the number of processes that run episodes, and `--keep FOLDER` keeps what
each schedule scored, from which a benchmark that was cut off goes on.
"""

import argparse
import functools
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Benchmark, parse_arguments, spread
from policy_contenders import Contender, as_program, branch_share, episodes, known, planned

from autotune.evaluators.load import load_model
from autotune.evaluators.policy.simulator import TASKS
from autotune.evaluators.policy.workload import ACTION_ERROR
from autotune.evaluators.quality import score_deviation
from autotune.evaluators.sampling import Purpose
from autotune.evaluators.worker import Worker
from autotune.search.evo import EvoSearcher
from autotune.search.joint import JointSearcher
from autotune.search.searcher import Result, SearchContext, Searcher
from autotune.spaces.atomic_write import write_atomically
from autotune.spaces.evaluation import SUCCESS, Fidelity, Measurement
from autotune.spaces.pareto import non_dominated
from autotune.spaces.schedule import Schedule, canonical_schedule, schedule_hash
from autotune.spaces.statistics import share_interval

N_TIMED = 5
N_QUICK, N_FORMAL = 30, 300
"""Calibration episodes of the two tiers, of the quick one for whole schedules."""

N_STATES = 60
"""States in which the quick tier compares the actions of a plan."""

PLAN_SHARES = (0.05, 0.10)
"""Refreshed shares of the decoder's MACs between which evolution's plans are taken."""

KEPT, N_ACCEPTED = 6, 2
"""Candidates that the formal tier sees at most, and that are shown."""

TIERS = (500_000, 600_000)
"""First seeds of the two tiers; held-out seeds count from a million."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured of a contender."""

    contender: Contender
    success: tuple[float, ...]
    latency: float
    share: float

    @property
    def mean(self) -> float:
        """Share of episodes that succeed."""
        return statistics.fmean(self.success)


def main() -> None:
    arguments = parse_arguments(__doc__, add_options)
    bench = Benchmark("policy", arguments)
    n_episodes = arguments.episodes or (6 if arguments.quick else 200)
    n_candidates = arguments.candidates if arguments.candidates is not None else 12 if arguments.quick else 150
    worker = Worker(load_model("mini-policy", device=arguments.device))
    began = time.perf_counter()
    tables = functools.cache(lambda: worker.branch_tables(episodes("calibration", 2, 0), 10))
    context = SearchContext(
        condition=worker.condition,
        inventory=worker.inventory,
        own_timesteps=worker.own_timesteps,
        objectives=("macs", SUCCESS),
        converges=worker.converges,
        branch_tables=tables,
        edge_costs=functools.cache(lambda: worker.edge_costs(episodes("calibration", 2, 0), 10)),
    )
    contenders = [*known(worker), *planned(context)]
    bench.row("seconds to plan", time.perf_counter() - began)
    quick, formal = (10, 20) if arguments.quick else (N_QUICK, N_FORMAL)
    score = functools.partial(scored, worker, arguments.keep)
    for family, n in {"evo": 4 * n_candidates, "joint": n_candidates}.items() if n_candidates else ():
        began = time.perf_counter()
        tier = episodes("calibration", quick // len(TASKS), TIERS[0])
        found = (
            evolved(context, worker, arguments.seed, n)
            if family == "evo"
            else searched(context, score, tier, arguments.seed, n)
        )
        contenders += accepted(family, found, score, episodes("calibration", formal // len(TASKS), TIERS[1]))
        bench.row("seconds to search", time.perf_counter() - began, family=family)
    held_out = episodes("held_out", n_episodes, 1_000_000 * (1 + arguments.seed))
    outcomes = scored_by_all(arguments, worker, [contender.schedule for contender in contenders], held_out)
    rows = [measured(bench, worker, *pair, held_out.first(1)) for pair in zip(contenders, outcomes, strict=True)]
    check(bench, rows)
    bench.finish()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--episodes", type=int, help="held-out episodes per task")
    parser.add_argument("--candidates", type=int, help="candidates of each search; 0 leaves the searches out")
    parser.add_argument("--jobs", type=int, default=1, help="processes that run episodes")
    parser.add_argument("--keep", type=Path, help="folder that keeps scores, to go on from")


Score = Callable[[Schedule, Fidelity], Measurement]


Tried = list[tuple[Schedule, Measurement]]


def explored(searcher: Searcher, score: Callable[[Schedule], Measurement], n: int) -> Tried:
    """What a search tries."""
    tried: Tried = []
    while len(tried) < n and (asked := searcher.ask(1)):
        outcome = score(asked[0].schedule)
        searcher.tell([Result(proposal=asked[0], outcome=outcome)])
        tried.append((asked[0].schedule, outcome))
    return tried


def evolved(context: SearchContext, worker: Worker, seed: int, n: int) -> list[Schedule]:
    """The front of evolution's plans of the shares that are wanted, thinned to what the formal tier sees."""
    states = episodes("calibration", N_STATES // len(TASKS), TIERS[0])
    reference = worker.reference(states).latents
    full = worker._work.macs(Schedule(n_steps=100))

    def score(schedule: Schedule) -> Measurement:
        samples = worker._run(as_program(schedule, worker.own_timesteps), states, None)
        macs = worker._work.macs(schedule)
        return Measurement(
            quality={ACTION_ERROR: score_deviation(samples.latents, reference)},
            latency_ms=(macs / full,),
            baseline_latency_ms=(1.0,),
            macs=macs,
            baseline_macs=full,
            network_calls=100,
            peak_memory_bytes=0,
            wall_s=0.0,
        )

    tried = explored(EvoSearcher(replace(context, objectives=("macs", ACTION_ERROR)), seed), score, n)
    low, high = PLAN_SHARES
    fit = [(s, m) for s, m in tried if low <= branch_share(s, worker.inventory) <= high]
    on_front = non_dominated([(m.macs, m.mean(ACTION_ERROR)) for _, m in fit])
    front = sorted(np.flatnonzero(on_front), key=lambda i: fit[i][1].macs)
    thinned = np.unique(np.linspace(0, len(front) - 1, KEPT).round().astype(int))
    return [as_program(fit[front[i]][0], worker.own_timesteps) for i in thinned]


def searched(context: SearchContext, score: Score, quick: Fidelity, seed: int, n: int) -> list[Schedule]:
    """The joint search's schedules that succeed most often, the cheapest first."""
    tried = explored(JointSearcher(context, seed), lambda schedule: score(schedule, quick), n)
    enough = max(m.mean(SUCCESS) for _, m in tried)
    return [tried[i][0] for _, i in sorted((m.macs, i) for i, (_, m) in enumerate(tried) if m.mean(SUCCESS) >= enough)]


def accepted(family: str, found: list[Schedule], score: Score, formal: Fidelity) -> list[Contender]:
    """Of the first of those: what is no more than two points below the full run in the formal tier, or else the best.

    Of `evo` those that succeed most often, of `joint` the cheapest.
    """
    enough = score(Schedule(n_steps=100), formal).mean(SUCCESS) - 0.02
    tried = [(score(schedule, formal), i) for i, schedule in enumerate(found[:KEPT])]
    best = sorted((-m.mean(SUCCESS), m.macs, i) for m, i in tried)
    good = [rank for rank in best if -rank[0] >= enough] or best[:1]
    if family == "joint":
        good.sort(key=lambda rank: rank[1])
    return [
        Contender(
            kind=family,
            label=f"{family}, {tried[i][0].relative_macs:.1%} of MACs, {-minus:.1%} in the formal tier",
            schedule=found[i],
        )
        for minus, _, i in good[:N_ACCEPTED]
    ]


def scored(worker: Worker, keep: Path | None, schedule: Schedule, fidelity: Fidelity) -> Measurement:
    """A schedule's measurement, read where it was kept."""
    digest = schedule_hash(canonical_schedule(schedule, worker.inventory))
    path = None if keep is None else keep / f"{digest[:16]}-{fidelity.hash[:16]}.json"
    if path is not None and path.exists():
        return Measurement(**json.loads(path.read_text()))
    outcome = worker.score(schedule, fidelity)
    assert isinstance(outcome, Measurement), outcome
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(outcome)).encode())
    return outcome


def scored_by_all(
    arguments: argparse.Namespace, worker: Worker, schedules: Sequence[Schedule], fidelity: Fidelity
) -> list[Measurement]:
    """Measurements of the schedules, in `--jobs` processes."""
    if arguments.jobs == 1:
        return [scored(worker, arguments.keep, schedule, fidelity) for schedule in schedules]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.jobs, spawn, torch.set_num_threads, (1,)) as pool:
        jobs = [pool.submit(_scored_there, arguments, schedule, fidelity) for schedule in schedules]
        return [job.result() for job in jobs]


@functools.cache
def _own_worker(device: str) -> Worker:
    return Worker(load_model("mini-policy", device=device))


def _scored_there(arguments: argparse.Namespace, schedule: Schedule, fidelity: Fidelity) -> Measurement:
    return scored(_own_worker(arguments.device), arguments.keep, schedule, fidelity)


def measured(bench: Benchmark, worker: Worker, contender: Contender, outcome: Measurement, one: Fidelity) -> Row:
    """A contender's line: success, latency, share, action error."""
    schedule, ratios = canonical_schedule(contender.schedule, worker.inventory), []
    for _ in range(N_TIMED):
        base = run_seconds(worker, Schedule(n_steps=100), one)
        ratios.append(run_seconds(worker, schedule, one) / base)
    success, share = outcome.quality[SUCCESS], branch_share(schedule, worker.inventory)
    row = Row(contender=contender, success=tuple(success), latency=statistics.median(ratios), share=share)
    what: dict[str, Any] = {"kind": contender.kind, "schedule": contender.label}
    bench.row("success", row.mean, share_interval(row.success), **what)
    for i, task in enumerate(TASKS):
        bench.row(f"success, {task}", statistics.fmean(success[i :: len(TASKS)]), **what)
    bench.row("latency over DDPM 100", row.latency, spread(ratios), **what)
    bench.row("MACs over DDPM 100", outcome.relative_macs, **what)
    if math.isfinite(share):
        bench.row("refreshed share of the decoder's MACs", share, **what)
    bench.row("action error, common noise", outcome.mean(ACTION_ERROR), **what)
    return row


def run_seconds(worker: Worker, schedule: Schedule, fidelity: Fidelity) -> float:
    """Seconds of one chunk of actions."""
    return worker._run(schedule, fidelity, None, purpose=Purpose.TIMED).seconds


def difference(row: Row, full: Row) -> tuple[float, list[float]]:
    """Points of success over the full run on the same episodes, with the 95 % interval of the paired differences."""
    gaps = 100.0 * (np.array(row.success) - np.array(full.success))
    half = 1.96 * float(gaps.std(ddof=1)) / len(gaps) ** 0.5
    return float(gaps.mean()), [float(gaps.mean()) - half, float(gaps.mean()) + half]


def check(bench: Benchmark, rows: list[Row]) -> None:
    """The targets."""
    full = rows[0]
    bench.target("success of the full run", full.mean, None, at_least=0.85)
    for kind, most in (("BAC + union", 0.15), ("evo", 0.10)):
        of_kind = [row for row in rows if row.contender.kind == kind and row.share <= most]
        best = max(of_kind, key=lambda row: row.mean, default=None)
        where = f"{kind} at no more than {most:.0%} refreshed"
        if best is None:
            bench.target(f"{where}: such plans", 0, None, at_least=1)
            continue
        points, interval = difference(best, full)
        bench.target(f"{where}: points of success lost", -points, [-interval[1], -interval[0]], at_most=2.0)
        if kind == "BAC + union":
            fast = min(row.latency for row in of_kind if row.mean >= best.mean)
            bench.target(f"{where}: speed over DDPM 100", 1.0 / fast, None, at_least=3.0)
    rivals = [row for row in rows if row.contender.kind == "fewer steps"]
    for kind in ("BAC + union", "evo", "joint"):
        mine = [row for row in rows if row.contender.kind == kind]
        lost = [any(r.latency <= row.latency and r.mean >= row.mean for r in rivals) for row in mine]
        bench.row("schedules that fewer steps dominate, of all", sum(lost), [0, len(mine)], kind=kind)


if __name__ == "__main__":
    main()
