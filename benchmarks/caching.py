"""What cache and guidance schedules save: presets of the literature, plans, forecasts, and fewer steps.

For each reference model, at 20 and 50 steps of its own sampler: latency over the uncached run's, each run of a schedule
in turn with one of the uncached run; PSNR of the final latents to the uncached run's and to the converged run's;
deviation from the converged run. On held-out prompts and seeds; plans are made on four calibration prompts.

Prints a table and takes `--quick` (20 steps, fewer prompts), `--seed`, `--device`, `--json FILE`; `--models` and
`--steps` measure a part.
"""

import argparse
import dataclasses
import functools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from harness import Benchmark, parse_arguments, spread

from autotune.evaluators.load import load_model
from autotune.evaluators.presets import read_prompts
from autotune.evaluators.worker import Worker
from autotune.search.cache_masks import (
    STAGE,
    even_mask,
    fora_mask,
    gate_mask,
    smooth_cache_masks,
    stage_mask,
    step_mask,
)
from autotune.search.cache_plans import planned_schedules
from autotune.search.searcher import SearchContext
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.guidance_column import GuidanceAction, dropped_rows
from autotune.spaces.schedule import Schedule
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

MODELS = ("mini-flux", "mini-pixart", "mini-sd")
PLANNED, RIVALS = "planned", ("FORA", "evenly spread", "T-GATE", "DeepCache", "cache-dit", "SmoothCache")
ESTIMATES = (GuidanceAction.STORED, GuidanceAction.LINEAR, GuidanceAction.QUADRATIC)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A schedule's figures; PSNR in dB, of the latents."""

    kind: str
    latency: float
    deviation: float
    psnr_uncached: float
    psnr_converged: float
    branch_calls: int

    def dominates(self, other: "Point") -> bool:
        """Faster and closer to the converged run."""
        return self.latency <= other.latency and self.deviation <= other.deviation


def main() -> None:
    arguments = parse_arguments(__doc__, add_options)
    bench = Benchmark("caching", arguments)
    for name in arguments.models:
        for n_steps in (20,) if arguments.quick else arguments.steps:
            study_of(bench, name, n_steps)
    bench.finish()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--steps", nargs="+", type=int, default=(20, 50))


def study_of(bench: Benchmark, name: str, n_steps: int) -> None:
    """All schedules of one model at one number of steps."""
    quick, seed = bench.arguments.quick, bench.arguments.seed
    model = load_model(name, device=bench.arguments.device)
    worker = Worker(dataclasses.replace(model, preset=dataclasses.replace(model.preset, n_steps=n_steps)))
    prompts = read_prompts(model.preset.held_out_prompts)[: 4 if quick else 12]
    seeds = tuple(range(10_000 + 1000 * seed, 10_000 + 1000 * seed + len(prompts)))
    held_out = Fidelity(name="held_out", prompts=prompts, seeds=seeds)
    timed = held_out.first(4)
    chosen = read_prompts(model.preset.calibration_prompts)[:4]
    calibration = Fidelity(name="calibration", prompts=chosen, seeds=tuple(range(4)))
    began = time.perf_counter()
    context = SearchContext(
        condition=worker.condition,
        inventory=worker.inventory,
        own_timesteps=worker.own_timesteps,
        edge_costs=functools.cache(lambda: worker.edge_costs(calibration, 4)),
    )
    plans = list(planned_schedules(context, n_budgets=4 if quick else 8))
    bench.row("seconds to plan", time.perf_counter() - began, model=f"{name} {n_steps}")
    uncached = Schedule(n_steps=n_steps)
    converged, plain = worker.reference(held_out).latents, worker._run(uncached, held_out, None).latents
    points = []
    for kind, label, schedule in candidates(worker, context, plans, n_steps):
        latents = worker._run(schedule, held_out, None).latents
        ratios = []
        for _ in range(2 if quick else 3):
            base = worker._run(uncached, timed, None).seconds
            ratios.append(worker._run(schedule, timed, None).seconds / base)
        difference = (latents - converged).flatten(1).norm(dim=1) / converged.flatten(1).norm(dim=1)
        point = Point(
            kind=kind,
            latency=statistics.median(ratios),
            deviation=float(difference.mean()),
            psnr_uncached=psnr(latents, plain),
            psnr_converged=psnr(latents, converged),
            branch_calls=branch_calls(schedule, worker),
        )
        points.append(point)
        where = f"{name} {n_steps}"
        bench.row("latency", point.latency, spread(ratios), model=where, kind=kind, schedule=label)
        for figure in ("deviation", "psnr_uncached", "psnr_converged", "branch_calls"):
            bench.row(figure, getattr(point, figure), model=where, kind=kind, schedule=label)
    check(bench, name, n_steps, points)


def candidates(
    worker: Worker, context: SearchContext, plans: list[tuple[str, Schedule]], n_steps: int
) -> Iterator[tuple[str, str, Schedule]]:
    """Kind, label and schedule of all that is compared."""
    inventory, n_calls, condition = context.inventory, context.n_calls, worker.condition
    noise = condition.noise_schedule
    for n in sorted({max(3, round(n_steps * share)) for share in (0.2, 0.3, 0.4, 0.5, 0.7, 1.0)}):
        if n < n_steps:
            yield "fewer steps", f"own sampler, {n} steps", Schedule(n_steps=n)
        time_grid = uniform_lambda(noise, n, t_start=condition.start_timestep)
        solver = make_solver("unipc-2", n, noise)
        yield "fewer steps", f"unipc-2, {n} steps", Schedule(n_steps=n, time=time_grid, solver=solver)
    masks = [("FORA", fora_mask(inventory, n_calls, every)) for every in (2, 3, 4, 5)]
    masks += [("evenly spread", even_mask(inventory, n_calls, round(n_calls / every))) for every in (1.5, 2, 3, 4, 5)]
    masks += [("T-GATE", gate_mask(inventory, n_calls, round(n_calls * share))) for share in (0.25, 0.5, 0.75)]
    masks += [("cache-dit", step_mask(inventory, n_calls, preset)) for preset in ("slow", "medium", "fast", "ultra")]
    if context.edge_costs is not None:
        leaf_errors = context.edge_costs().leaf_errors
        masks += [("SmoothCache", mask) for mask in smooth_cache_masks(inventory, leaf_errors)]
    if sum(site.component == STAGE for site in inventory.sites) >= 3:
        masks += [("DeepCache", stage_mask(inventory, n_calls, every)) for every in (2, 3, 5)]
    for kind, mask in masks:
        yield kind, mask.label, mask.schedule(n_steps)
    for label, schedule in plans:
        yield PLANNED, label, schedule
    if worker.condition.guidance_scale > 1.0 and inventory.denoiser_class != "FluxTransformer2DModel":
        for every in (2, 3, 4):
            for action in ESTIMATES:
                column = tuple(GuidanceAction.BOTH if i % every == 0 else action for i in range(n_calls))
                yield "guidance", f"{action}, both in every {every}", Schedule(n_steps=n_steps, guidance=column)
        for label, schedule in plans:
            if "hidden state" in label:
                column = tuple(GuidanceAction.BOTH if i % 2 == 0 else GuidanceAction.QUADRATIC for i in range(n_calls))
                yield "planned + guidance", label, dataclasses.replace(schedule, guidance=column)


def check(bench: Benchmark, name: str, n_steps: int, points: list[Point]) -> None:
    """The targets that one model at one number of steps can show."""
    where = f"{name}, {n_steps} steps"
    planned = [point for point in points if point.kind == PLANNED]
    for kind in RIVALS:
        rivals = [point for point in points if point.kind == kind]
        if rivals:
            n_beaten = sum(any(plan.dominates(rival) for plan in planned) for rival in rivals)
            bench.target(f"{where}: budgets of {kind} that a plan dominates", n_beaten, None, at_least=2)
    if (name, n_steps) == ("mini-pixart", 50):
        fast = [1.0 / p.latency for p in points if "planned" in p.kind and p.psnr_uncached >= 33.0]
        bench.target(f"{where}: speed at 33 dB to the uncached run", max(fast, default=1.0), None, at_least=3.0)
    gains = []
    for guided in [point for point in points if point.kind == "guidance"]:
        equal = [p for p in points if p.kind == "fewer steps" and p.branch_calls <= guided.branch_calls]
        if equal:
            gains.append(guided.psnr_converged - max(p.psnr_converged for p in equal))
            bench.row("dB over fewer steps", gains[-1], model=where, branch_calls=guided.branch_calls)
    if gains:
        bench.target(f"{where}: dB of guidance over fewer steps, best", max(gains), None, at_least=3.0)


def branch_calls(schedule: Schedule, worker: Worker) -> int:
    """Guidance branches that run, over all network calls."""
    n_calls = len(schedule.time or worker.own_timesteps(schedule.n_steps))
    n_branches = 1 if worker.inventory.denoiser_class == "FluxTransformer2DModel" else 2
    return n_branches * n_calls - sum(dropped_rows(schedule.guidance, n_calls))


def psnr(latents: torch.Tensor, target: torch.Tensor) -> float:
    """Mean over samples of the PSNR, the peak being the range of all target values."""
    error = (latents - target).flatten(1).square().mean(dim=1)
    return float((10.0 * torch.log10((target.max() - target.min()) ** 2 / error)).mean())


if __name__ == "__main__":
    main()
