"""Which cost CacheQuant's Dynamic Programming Schedule should plan by.

For each reference model at 20 steps: reuses planned for 4, 6, 8 and 10 refreshes on 8 calibration prompts, by every
norm and source of segment costs, by the hybrid edge cost of the hidden state and by its squares, and evenly spread
refreshes. Each plan is run at CacheQuant's cache point and at the hidden state; the figure is the mean deviation from
the converged run, on 16 other prompts, and over that of the evenly spread refreshes.

Prints a table and takes `--quick` (fewer prompts), `--seed`, `--device`, `--json FILE`; `--models` and `--sites`
measure a part.
"""

import argparse
import math
from collections import defaultdict

import numpy as np
from harness import Benchmark, parse_arguments, spread

from autotune.evaluators.load import load_model
from autotune.evaluators.presets import read_prompts
from autotune.evaluators.worker import Worker
from autotune.search.cache_plans import on_sites
from autotune.search.cachequant import EXPONENT, planned_refreshes, reuse_costs
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_point import cache_point
from autotune.spaces.errors import ScheduleError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule import Schedule

MODELS = ("mini-flux", "mini-pixart", "mini-sd")
SITES = ("cache point", "hidden state")
REFRESHES = (4, 6, 8, 10)
EVEN, HYBRID = "evenly spread", "hybrid edge cost"
SQUARED = f"{HYBRID}, squared"


def main() -> None:
    arguments = parse_arguments(__doc__, add_options)
    bench = Benchmark("segment_costs", arguments)
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    for name in arguments.models:
        measure(bench, name, ratios)
    for (site, planner), values in ratios.items():
        mean = math.exp(sum(map(math.log, values)) / len(values))
        bench.row("deviation over evenly spread, geometric mean", mean, spread(values), site=site, planner=planner)
    bench.finish()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--sites", nargs="+", default=SITES, choices=SITES)


def measure(bench: Benchmark, name: str, ratios: dict[tuple[str, str], list[float]]) -> None:
    """All plans of one model."""
    quick, seed = bench.arguments.quick, bench.arguments.seed
    model = load_model(name, device=bench.arguments.device)
    worker = Worker(model)
    n_plan, n_judge = (2, 4) if quick else (8, 16)
    calibration = _fidelity("calibration", read_prompts(model.preset.calibration_prompts)[:n_plan], 100 * seed)
    held_out = _fidelity("held_out", read_prompts(model.preset.held_out_prompts)[:n_judge], 10_000 + 1000 * seed)
    plans = plans_of(worker, calibration)
    columns = {"cache point": cache_point(worker.inventory), "hidden state": worker.inventory.outermost}
    reference, known = worker.reference(held_out).latents.flatten(1), {}
    for site in bench.arguments.sites:
        for (planner, n_refreshed), starts in plans.items():
            if (site, starts) not in known:
                schedule = reusing(worker, starts, columns[site])
                latents = worker._run(schedule, held_out, None).latents.flatten(1)
                known[site, starts] = float(((latents - reference).norm(dim=1) / reference.norm(dim=1)).mean())
            deviation = known[site, starts]
            where = {"model": name, "site": site, "planner": planner, "refreshes": n_refreshed}
            bench.row("deviation", deviation, **where, starts=list(starts))
            ratios[site, planner].append(deviation / known[site, plans[EVEN, n_refreshed]])


def plans_of(worker: Worker, calibration: Fidelity) -> dict[tuple[str, int], tuple[int, ...]]:
    """The calls to refresh, by planner and their number; evenly spread ones first."""
    n_prompts = len(calibration.prompts)
    segments, edges = worker.segment_costs(calibration, n_prompts), worker.edge_costs(calibration, n_prompts)
    tables = {" ".join(key): (table, segments.longest) for key, table in segments.tables.items()}
    tables[HYBRID] = reuse_costs(edges), edges.longest
    tables[SQUARED] = reuse_costs(edges) ** EXPONENT, edges.longest
    n = edges.n_calls
    plans = {(EVEN, k): tuple(np.floor(np.arange(k) * n / k).astype(int).tolist()) for k in REFRESHES}
    for planner, (table, longest) in tables.items():
        for k in REFRESHES:
            try:
                plans[planner, k] = planned_refreshes(table, k, longest)
            except ScheduleError:  # none with so few refreshes
                continue
    return plans


def reusing(worker: Worker, starts: tuple[int, ...], columns: tuple[int, ...]) -> Schedule:
    """The default run with these sites reused between the refreshes."""
    n_calls = len(worker.own_timesteps(worker.condition.n_steps))
    actions = np.full(n_calls, CacheAction.REUSE, int)
    actions[list(starts)] = CacheAction.RECOMPUTE
    return Schedule(n_steps=worker.condition.n_steps, cache=on_sites(actions, worker.inventory, columns))


def _fidelity(name: str, prompts: tuple[str, ...], first_seed: int) -> Fidelity:
    return Fidelity(name=name, prompts=prompts, seeds=tuple(range(first_seed, first_seed + len(prompts))))


if __name__ == "__main__":
    main()
