"""How well the latency model predicts: random schedules of all kinds, predicted and measured end to end.

For each reference model: the seconds that measuring the model takes, then schedules with random cells on leaves and on
spans, reuses and forecasts, dropped guidance branches, fewer steps and own solvers. Each timed run is made in lockstep
with a default run, on a second pipeline with the same weights, half a second of one, then of the other: in shorter
turns the cheap calls of a cache would not find what they read where the last one left it. The latency is the median of
their ratios. Figures are the error of the predicted relative latency, the spread of the ratios, and the rank
correlation (Spearman) of predicted and measured.

Prints a table and takes `--quick` (fewer schedules and repeats), `--seed`, `--device`, `--json FILE`; `--models` and
`--batch` measure a part.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from harness import Benchmark, parse_arguments, spread
from lockstep import Turns, lockstep_seconds
from scipy.stats import spearmanr

from autotune.evaluators.load import load_model
from autotune.evaluators.presets import read_prompts
from autotune.evaluators.worker import Worker
from autotune.search.cache_plans import even_actions, on_sites
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.schedule import Schedule
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

MODELS = ("mini-flux", "mini-pixart", "mini-sd")
SLICE_S = 0.5
"""Seconds of a run before the other one goes on, in whole steps of the default run."""

SOLVERS = ("euler", "dpmpp-2m", "unipc-2")
READS = [action for action in CacheAction if action is not CacheAction.RECOMPUTE]


def main() -> None:
    arguments = parse_arguments(__doc__, add_options)
    bench = Benchmark("latency_model", arguments)
    for name in arguments.models:
        check(bench, name)
    bench.finish()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--batch", type=int, default=4, help="images that are drawn together")
    parser.add_argument(
        "--rounds", type=int, default=4, help="of designed runs: 4 in a study that has the time, or fewer"
    )
    parser.add_argument("--schedules", type=int, help="how many schedules; 50 by default, 15 with --quick")


def check(bench: Benchmark, name: str) -> None:
    """All figures of one model."""
    arguments = bench.arguments
    model = load_model(name, device=arguments.device)
    worker, beside = Worker(model), Worker(load_model(name, device=arguments.device))
    prompts = read_prompts(model.preset.calibration_prompts)[: arguments.batch]
    fidelity = Fidelity(name="calibration", prompts=prompts, seeds=tuple(range(len(prompts))))
    default = Schedule(n_steps=model.preset.n_steps)
    worker._run(default, fidelity, None)  # as in a study, whose baseline comes first: memory is given out then
    began = time.perf_counter()
    costs = worker.cost_model(fidelity, arguments.rounds)
    bench.row("seconds to measure the model", time.perf_counter() - began, model=name)
    denoisers = [each._adapter.denoiser_of(each._pipe) for each in (worker, beside)]
    for own, other in zip(*(denoiser.parameters() for denoiser in denoisers), strict=True):
        other.data = own.data  # one copy in the processor's cache, as where one pipeline runs
    seconds = min(beside._run(default, fidelity, None).seconds for _ in range(2))  # the first one warms up
    at_once = max(1, round(SLICE_S * n_rows(beside, default) / seconds))
    n_schedules = arguments.schedules or (15 if arguments.quick else 50)
    errors: dict[str, list[float]] = defaultdict(list)
    pairs = []
    for kind, schedule in random_schedules(worker, n_schedules, arguments.seed):
        ratios = []
        for _ in range(3 if arguments.quick else 5):
            runs = [partial(timed, beside, default, fidelity), partial(timed, worker, schedule, fidelity)]
            n_steps = [n_rows(worker, default), n_rows(worker, schedule)]
            baseline, seconds = lockstep_seconds(runs, n_steps, at_once)
            ratios.append(seconds / baseline)
        measured, predicted = statistics.median(ratios), costs.relative_latency(schedule)
        pairs.append((predicted, measured))
        errors[kind].append(predicted / measured - 1.0)
        bench.row("predicted over measured latency", predicted / measured, spread(ratios), model=name, kind=kind)
    for kind, found in errors.items():
        bench.row("median error", statistics.median(found), spread(found), model=name, kind=kind)
    sizes = [abs(error) for found in errors.values() for error in found]
    bench.row("worst relative error", max(sizes), model=name)
    bench.target(f"{name}: median relative error", statistics.median(sizes), spread(sizes), at_most=0.03)
    bench.target(f"{name}: rank correlation", float(spearmanr(*zip(*pairs, strict=True))[0]), None, at_least=0.98)


def timed(worker: Worker, schedule: Schedule, fidelity: Fidelity, turns: Turns) -> float:
    """Seconds of a run, the waiting for others among them."""
    return worker._run(schedule, fidelity, None, turns).seconds


def n_rows(worker: Worker, schedule: Schedule) -> int:
    """Steps of the scheduler in a run."""
    return schedule.n_steps if schedule.time is not None else len(worker.own_timesteps(schedule.n_steps))


def random_schedules(worker: Worker, n: int, seed: int) -> Iterator[tuple[str, Schedule]]:
    """Kind and schedule, the kinds in turns."""
    rng = np.random.default_rng(seed)
    inventory, condition = worker.inventory, worker.condition
    default = Schedule(n_steps=condition.n_steps)
    n_calls = len(worker.own_timesteps(condition.n_steps))
    leaves = list(inventory.leaves)
    spans = [i for i in range(len(inventory)) if i not in set(leaves)]
    kinds = ["leaves, reuse", "leaves, forecasts", "spans", "all sites", "whole calls", "fewer steps", "solver"]
    if inventory.denoiser_class != "FluxTransformer2DModel":
        kinds += ["guidance", "guidance and cache"]
    rows = [action for action in GuidanceAction if action is not GuidanceAction.BOTH]
    for i in range(n):
        kind, density = kinds[i % len(kinds)], rng.uniform(0.1, 0.9)
        sites = spans if kind == "spans" else leaves if "leaves" in kind else [*leaves, *spans]
        plan = random_plan(rng, n_calls, len(inventory), sites, READS[:1] if "reuse" in kind else READS, density)
        column = tuple(rows[int(rng.integers(4))] if i and rng.random() < density else GuidanceAction.BOTH
                       for i in range(n_calls))  # fmt: skip
        if kind == "whole calls":
            chosen = [inventory.outermost, leaves][int(rng.integers(2))]
            plan = on_sites(even_actions(n_calls, int(rng.integers(3, n_calls))), inventory, chosen)
        if kind in ("fewer steps", "solver"):
            n_steps = int(rng.integers(4, condition.n_steps))
            schedule = Schedule(n_steps=n_steps)
            if kind == "solver":
                grid = uniform_lambda(condition.noise_schedule, n_steps, t_start=condition.start_timestep)
                solver = make_solver(str(rng.choice(SOLVERS)), n_steps, condition.noise_schedule)
                schedule = Schedule(n_steps=n_steps, time=grid, solver=solver)
            yield kind, schedule
        elif kind == "guidance":
            yield kind, replace(default, guidance=column)
        else:
            yield kind, replace(default, cache=plan, guidance=column if "guidance" in kind else None)


def random_plan(
    rng: np.random.Generator, n_calls: int, n_sites: int, sites: list[int], reads: Sequence[CacheAction], density: float
) -> CachePlan:
    """Each cell of these sites reads with the same probability, after the first call."""
    chosen = rng.random((n_calls, len(sites))) < density
    table = np.zeros((n_calls, n_sites), np.uint8)
    table[:, sites] = np.where(chosen, rng.choice(np.array(reads, int), size=chosen.shape), CacheAction.RECOMPUTE)
    table[0] = CacheAction.RECOMPUTE
    return CachePlan.from_array(table)


if __name__ == "__main__":
    main()
