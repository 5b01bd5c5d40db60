"""What caching does to a robot policy's success: BAC, evolution, uniform refreshes, fewer steps, all on one table.

`mini-policy` in Meta-World: the full DDPM run in 100 steps; DDIM and DPM-Solver++ in fewer; refreshes that are evenly
spread; BAC's plans with 10 and 7 refreshes, with and without the bubbling union; the best plans that evolution found
(family `evo`); and whole schedules of the joint search, which has fewer steps and caches together. Evolution and the
joint search see calibration episodes, in two tiers of disjoint seeds; all are reported on held-out episodes, the same
ones for each. Success with its Wilson interval; latency of one chunk of actions over the full run's, measured in turn
with it; the share of the decoder's multiply-accumulates that is refreshed.

Prints a table and takes `--quick` (few episodes, short searches), `--seed`, `--device`, `--json FILE`; `--episodes` and
`--candidates` set both sizes.
"""

import argparse
import functools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from harness import Benchmark, parse_arguments, spread

from autotune.evaluators.load import load_model
from autotune.evaluators.policy.simulator import TASKS
from autotune.evaluators.policy.workload import ACTION_ERROR
from autotune.evaluators.sampling import Purpose
from autotune.evaluators.worker import Worker
from autotune.search.bac import bac_schedules
from autotune.search.evo import EvoSearcher
from autotune.search.joint import JointSearcher
from autotune.search.searcher import Result, SearchContext, Searcher
from autotune.spaces.blockwise_plan import blockwise_plan, refreshed_share, refreshes_to_fresh
from autotune.spaces.cache_unit import cache_units
from autotune.spaces.evaluation import SUCCESS, Fidelity, Measurement
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.solvers import make_solver
from autotune.spaces.statistics import share_interval

N_TIMED = 5
N_QUICK, N_FORMAL = 30, 100
"""Calibration episodes of the two tiers."""

KEPT, N_ACCEPTED = 8, 3
"""Candidates that the formal tier sees at most, and that are shown."""

TIERS = (500_000, 600_000)
"""First seeds of the two tiers; held-out seeds count from a million."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A schedule on the table."""

    kind: str
    label: str
    schedule: Schedule


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
    n_quick, n_formal = (10, 20) if arguments.quick else (N_QUICK, N_FORMAL)
    quick, formal = (
        episodes("calibration", n // len(TASKS), seed) for n, seed in zip((n_quick, n_formal), TIERS, strict=True)
    )
    searches = {"evo": EvoSearcher, "joint": JointSearcher} if n_candidates else {}
    full = scored(worker, Schedule(n_steps=100), formal) if searches else None
    for name, make in searches.items():
        began = time.perf_counter()
        tried = explored(make(context, arguments.seed), worker, quick, n_candidates)
        assert full is not None
        contenders += accepted(name, tried, worker, formal, full)
        bench.row("seconds to search", time.perf_counter() - began, family=name)
    held_out = episodes("held_out", n_episodes, 1_000_000 * (1 + arguments.seed))
    rows = [measured(bench, worker, contender, held_out) for contender in contenders]
    check(bench, rows)
    bench.finish()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--episodes", type=int, help="held-out episodes per task")
    parser.add_argument("--candidates", type=int, help="candidates of each search; 0 leaves the searches out")


def episodes(name: str, n_per_task: int, first_seed: int) -> Fidelity:
    """Episodes of all tasks in turn."""
    n = n_per_task * len(TASKS)
    return Fidelity(name=name, prompts=TASKS * n_per_task, seeds=tuple(range(first_seed, first_seed + n)))


def known(worker: Worker) -> list[Contender]:
    """The full run, fewer steps, and refreshes that are evenly spread."""
    found = [Contender(kind="full", label="DDPM 100", schedule=Schedule(n_steps=100))]
    found += [Contender(kind="ddpm", label=f"DDPM {n}", schedule=Schedule(n_steps=n)) for n in (20, 10)]
    noise, inventory = worker.condition.noise_schedule, worker.inventory
    for label, solver, counts in (("DDIM", "euler", (20, 16, 10, 5, 3)), ("DPM-Solver++ 2M", "dpmpp-2m", (8, 5, 3))):
        for n in counts:
            schedule = Schedule(n_steps=n, time=worker.own_timesteps(n), solver=make_solver(solver, n, noise))
            found.append(Contender(kind="fewer steps", label=f"{label} {n}", schedule=schedule))
    n_units = len(cache_units(inventory))
    for count in (15, 10, 7):
        calls = np.linspace(0, 100, count, endpoint=False).round().astype(int).tolist()
        plan = blockwise_plan(refreshes_to_fresh([calls] * n_units, 100), inventory)
        schedule = Schedule(n_steps=100, cache=plan)
        found.append(Contender(kind="uniform", label=f"uniform, {count} refreshes", schedule=schedule))
    return found


def planned(context: SearchContext) -> list[Contender]:
    """BAC with 10 and 7 refreshes, anchored cosine, with the paper's union and with none."""
    assert context.branch_tables is not None
    found, program = [], ddpm_program(context)
    for label, schedule in bac_schedules(context, context.branch_tables()):
        if "anchored cosine" not in label or "union of 3" in label or not label.startswith(("BAC, 10 of", "BAC, 7 of")):
            continue
        kind = "BAC" if "union of 0" in label else "BAC + union"
        found.append(Contender(kind=kind, label=label, schedule=schedule))
        if kind == "BAC + union":
            found.append(
                Contender(kind=f"{kind}, program", label=label, schedule=replace(program, cache=schedule.cache))
            )
    return found


def ddpm_program(context: SearchContext) -> Schedule:
    """The default sampler as a program: the same samples from the same noise, with less work around the network."""
    row, n = SolverStep(view="data", domain="lambda", order=1, stochastic=1.0), context.condition.n_steps
    return Schedule(n_steps=n, time=context.own_timesteps(n), solver=(row,) * n)


Tried = list[tuple[Schedule, Measurement]]


def explored(searcher: Searcher, worker: Worker, quick: Fidelity, n: int) -> Tried:
    """What a search tries on the episodes of the quick tier."""
    tried: Tried = []
    while len(tried) < n and (asked := searcher.ask(1)):
        outcome = worker.score(asked[0].schedule, quick)
        searcher.tell([Result(proposal=asked[0], outcome=outcome)])
        if isinstance(outcome, Measurement):
            tried.append((asked[0].schedule, outcome))
    return tried


def accepted(name: str, tried: Tried, worker: Worker, formal_tier: Fidelity, full: Measurement) -> list[Contender]:
    """The cheapest three that are no more than two points below the full run in the formal tier, too."""
    best = max(m.mean(SUCCESS) for _, m in tried)
    sound = sorted((m.macs, i) for i, (_, m) in enumerate(tried) if m.mean(SUCCESS) >= min(best, 0.9))[:KEPT]
    found = []
    for macs, i in sound:
        formal = scored(worker, tried[i][0], formal_tier).mean(SUCCESS)
        label = f"{name}, {macs / full.baseline_macs:.1%} of MACs, {formal:.0%} in the formal tier"
        if formal >= full.mean(SUCCESS) - 0.02:
            found.append(Contender(kind=name, label=label, schedule=tried[i][0]))
        if len(found) == N_ACCEPTED:
            break
    return found


def scored(worker: Worker, schedule: Schedule, fidelity: Fidelity) -> Measurement:
    outcome = worker.score(schedule, fidelity)
    assert isinstance(outcome, Measurement), outcome
    return outcome


def measured(bench: Benchmark, worker: Worker, contender: Contender, held_out: Fidelity) -> Row:
    """A contender's line: success, latency, share, action error."""
    schedule = canonical_schedule(contender.schedule, worker.inventory)
    outcome = scored(worker, schedule, held_out)
    ratios, one = [], held_out.first(1)
    for _ in range(N_TIMED):
        base = run_seconds(worker, Schedule(n_steps=100), one)
        ratios.append(run_seconds(worker, schedule, one) / base)
    success = outcome.quality[SUCCESS]
    share = float("nan")
    if schedule.cache is not None and schedule.n_steps == 100:
        share = refreshed_share(schedule.cache, worker.inventory).branches
    row = Row(contender=contender, success=success, latency=statistics.median(ratios), share=share)
    what: dict[str, Any] = {"kind": contender.kind, "schedule": contender.label}
    bench.row("success", row.mean, share_interval(success), **what)
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
        of_kind = [row for row in rows if row.contender.kind.startswith(kind) and row.share <= most]
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
    rivals: Callable[[Row], bool] = lambda row: row.contender.kind in ("fewer steps", "ddpm")  # noqa: E731
    for kind in ("BAC + union", "evo", "joint"):
        mine = [row for row in rows if row.contender.kind == kind]
        lost = [any(r.latency <= row.latency and r.mean >= row.mean for r in rows if rivals(r)) for row in mine]
        bench.row("schedules that fewer steps dominate, of all", sum(lost), [0, len(mine)], kind=kind)


if __name__ == "__main__":
    main()
