"""What cache and guidance schedules save: presets of the literature, adaptive policies, plans, forecasts, fewer steps.

For each reference model, at 20 and 50 steps of its own sampler: latency over the uncached run's, each run of a schedule
in turn with one of the uncached run; PSNR of the final latents to the uncached run's and to the converged run's;
deviation from the converged run; alignment of the pictures. On held-out prompts and seeds; plans are made on four
calibration prompts.

Prints a table and takes `--quick` (20 steps, fewer prompts), `--seed`, `--device`, `--json FILE`; `--models`,
`--steps`, `--kinds` and `--prompts` measure a part.
"""

import argparse
import dataclasses
import functools
import statistics
import time
from dataclasses import dataclass

import torch
from caching_rivals import PLANNED, branch_calls, candidates
from harness import Benchmark, parse_arguments, spread

from autotune.evaluators.load import load_model
from autotune.evaluators.presets import read_prompts
from autotune.evaluators.sampling import Purpose
from autotune.evaluators.worker import Worker
from autotune.search.cache_plans import planned_schedules
from autotune.search.searcher import SearchContext
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule import Schedule

MODELS = ("mini-flux", "mini-pixart", "mini-sd")
RIVALS = (
    "FORA",
    "evenly spread",
    "frozen text attention",
    "T-GATE",
    "DeepCache",
    "cache-dit",
    "SmoothCache",
    "adaptive",
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A schedule's figures; PSNR in dB, of the latents."""

    kind: str
    latency: float
    deviation: float
    alignment: float
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
    parser.add_argument("--prompts", type=int, default=12, help="held-out prompts; a sixth of them is timed")
    parser.add_argument("--kinds", nargs="+", help="measure these kinds of schedules only, such as planned")


def study_of(bench: Benchmark, name: str, n_steps: int) -> None:
    """All schedules of one model at one number of steps."""
    quick, seed = bench.arguments.quick, bench.arguments.seed
    model = load_model(name, device=bench.arguments.device)
    worker = Worker(dataclasses.replace(model, preset=dataclasses.replace(model.preset, n_steps=n_steps)))
    prompts = read_prompts(model.preset.held_out_prompts)[: 4 if quick else bench.arguments.prompts]
    seeds = tuple(range(10_000 + 1000 * seed, 10_000 + 1000 * seed + len(prompts)))
    held_out = Fidelity(name="held_out", prompts=prompts, seeds=seeds)
    timed = held_out.first(max(1, len(prompts) // 6))
    chosen = read_prompts(model.preset.calibration_prompts)[:4]
    calibration = Fidelity(name="calibration", prompts=chosen, seeds=tuple(range(4)))
    began = time.perf_counter()
    context = SearchContext(
        condition=worker.condition,
        inventory=worker.inventory,
        own_timesteps=worker.own_timesteps,
        guided=worker.guided,
        edge_costs=functools.cache(lambda: worker.edge_costs(calibration, 4)),
    )
    plans = list(planned_schedules(context, n_budgets=4 if quick else 8))
    bench.row("seconds to plan", time.perf_counter() - began, model=f"{name} {n_steps}")
    uncached = Schedule(n_steps=n_steps)
    converged, plain = worker.reference(held_out).latents, worker._run(uncached, held_out, None).latents
    points = []
    for kind, label, schedule in candidates(worker, context, plans, n_steps):
        if kind not in (bench.arguments.kinds or [kind]):
            continue
        samples = worker._run(schedule, held_out, None, purpose=Purpose.SCORED)
        latents, quality = samples.latents, worker._workload.quality(samples, worker.reference(held_out), held_out)
        ratios = []
        for _ in range(2 if quick else 3):
            base = worker._run(uncached, timed, None).seconds
            ratios.append(worker._run(schedule, timed, None).seconds / base)
        point = Point(
            kind=kind,
            latency=statistics.median(ratios),
            deviation=statistics.fmean(quality["deviation"]),
            alignment=statistics.fmean(quality["alignment"]),
            psnr_uncached=psnr(latents, plain),
            psnr_converged=psnr(latents, converged),
            branch_calls=branch_calls(schedule, worker, samples.usage),
        )
        points.append(point)
        where = f"{name} {n_steps}"
        bench.row("latency", point.latency, spread(ratios), model=where, kind=kind, schedule=label)
        for figure in ("deviation", "alignment", "psnr_uncached", "psnr_converged", "branch_calls"):
            bench.row(figure, getattr(point, figure), model=where, kind=kind, schedule=label)
    check(bench, name, n_steps, points)


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
        # A run of both branches in every call has an even number of them: the rival of an odd one has one more.
        n_branches = guided.branch_calls + guided.branch_calls % 2
        equal = [p for p in points if p.kind == "fewer steps" and p.branch_calls == n_branches]
        if equal:
            gains.append(guided.psnr_converged - max(p.psnr_converged for p in equal))
            bench.row("dB over fewer steps", gains[-1], model=where, branch_calls=guided.branch_calls)
    if gains:
        bench.target(f"{where}: dB of guidance over fewer steps, best", max(gains), None, at_least=3.0)


def psnr(latents: torch.Tensor, target: torch.Tensor) -> float:
    """Mean over samples of the PSNR, the peak being the range of all target values."""
    error = (latents - target).flatten(1).square().mean(dim=1)
    return float((10.0 * torch.log10((target.max() - target.min()) ** 2 / error)).mean())


if __name__ == "__main__":
    main()
