"""What cache and guidance schedules save: presets of the literature, adaptive policies, plans, forecasts, fewer steps.

For each reference model, at 20 and 50 steps of its own sampler: latency over the uncached run's, each run of a schedule
in turn with one of the uncached run; PSNR of the final latents to the uncached run's and to the converged run's;
deviation from the converged run; alignment of the pictures. On held-out prompts with three fresh seeds each: figures
and targets are medians over the seeds, with the spread between them. Plans are made on four calibration prompts.

Prints a table and takes `--quick` (20 steps, fewer prompts), `--seed`, `--device`, `--json FILE`; `--models`,
`--steps`, `--kinds` and `--prompts` measure a part.
"""

import argparse
import dataclasses
import functools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from caching_rivals import FEWER_STEPS, GUIDANCE, PLANNED, branch_calls, candidates
from harness import Benchmark, parse_arguments, spread

from autotune.evaluators.load import load_model
from autotune.evaluators.presets import read_prompts
from autotune.evaluators.sampling import Purpose
from autotune.evaluators.worker import Worker
from autotune.search.cache_plans import planned_schedules
from autotune.search.searcher import SearchContext
from autotune.spaces.cache_policy import PolicyKind
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
    *PolicyKind,
)


N_SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class Point:
    """A schedule's figures, of quality one per seed; PSNR in dB, of the latents."""

    kind: str
    label: str
    latency: float
    branch_calls: int
    deviation: list[float]
    alignment: list[float]
    psnr_uncached: list[float]
    psnr_converged: list[float]
    psnr_calibration: float = float("nan")
    """To the converged run, on calibration prompts; of what guidance columns are chosen from."""

    def is_fewer_steps(self, label: str) -> bool:
        """Of a solver whose name starts like this."""
        return self.kind == FEWER_STEPS and self.label.startswith(label)

    def dominates(self, other: "Point", seed: int) -> bool:
        """Faster and, at a seed, closer to the converged run."""
        return self.latency <= other.latency and self.deviation[seed] <= other.deviation[seed]


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
    parser.add_argument("--prompts", type=int, default=4, help="held-out prompts; half of them are timed")
    parser.add_argument("--kinds", nargs="+", help="measure these kinds of schedules only, such as planned")


def study_of(bench: Benchmark, name: str, n_steps: int) -> None:
    """All schedules of one model at one number of steps."""
    quick, seed = bench.arguments.quick, bench.arguments.seed
    model = load_model(name, device=bench.arguments.device)
    worker = Worker(dataclasses.replace(model, preset=dataclasses.replace(model.preset, n_steps=n_steps)))
    prompts = read_prompts(model.preset.held_out_prompts)[: 2 if quick else bench.arguments.prompts]
    seeds = tuple(range(10_000 + 1000 * seed, 10_000 + 1000 * seed + N_SEEDS * len(prompts)))
    held_out = Fidelity(name="held_out", prompts=N_SEEDS * prompts, seeds=seeds)
    timed = held_out.first(max(1, len(prompts) // 2))
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
        on_calibration = float("nan")
        if kind in (GUIDANCE, FEWER_STEPS):
            choice = worker._run(schedule, calibration, None).latents
            on_calibration = statistics.fmean(psnr(choice, worker.reference(calibration).latents))
        ratios = []
        for _ in range(2 if quick else 3):
            base = worker._run(uncached, timed, None).seconds
            ratios.append(worker._run(schedule, timed, None).seconds / base)
        point = Point(
            kind=kind,
            label=label,
            latency=statistics.median(ratios),
            branch_calls=branch_calls(schedule, worker, samples.usage),
            deviation=by_seed(quality["deviation"]),
            alignment=by_seed(quality["alignment"]),
            psnr_uncached=by_seed(psnr(latents, plain)),
            psnr_converged=by_seed(psnr(latents, converged)),
            psnr_calibration=on_calibration,
        )
        points.append(point)
        where = f"{name} {n_steps}"
        bench.row("latency", point.latency, spread(ratios), model=where, kind=kind, schedule=label)
        bench.row("branch_calls", point.branch_calls, model=where, kind=kind, schedule=label)
        for figure in ("deviation", "alignment", "psnr_uncached", "psnr_converged"):
            values = getattr(point, figure)
            bench.row(figure, statistics.median(values), spread(values), model=where, kind=kind, schedule=label)
    check(bench, name, n_steps, points)


def check(bench: Benchmark, name: str, n_steps: int, points: list[Point]) -> None:
    """The targets that one model at one number of steps can show."""
    where = f"{name}, {n_steps} steps"
    planned = [point for point in points if point.kind == PLANNED]
    for kind in RIVALS:
        rivals = [point for point in points if point.kind == kind]
        if rivals:
            beaten = [sum(any(p.dominates(rival, s) for p in planned) for rival in rivals) for s in range(N_SEEDS)]
            title = f"{where}: budgets of {kind} that a plan dominates"
            bench.target(title, statistics.median(beaten), spread(beaten), at_least=2)
    if (name, n_steps) == ("mini-pixart", 50):
        speeds = [
            max((1.0 / p.latency for p in points if "planned" in p.kind and p.psnr_uncached[s] >= 33.0), default=1.0)
            for s in range(N_SEEDS)
        ]
        speed = statistics.median(speeds)
        bench.target(f"{where}: speed at 33 dB to the uncached run", speed, spread(speeds), at_least=3.0)
    check_guidance(bench, where, points)


def check_guidance(bench: Benchmark, where: str, points: list[Point]) -> None:
    """The guidance column alone over fewer steps in as many branch calls: of the same sampler, and of the better one.

    All columns are rows; the target takes the one that gains most on calibration prompts.
    """
    for rival, label in (("fewer steps of the same sampler", "own sampler"), ("the best fewer steps", "")):
        found: list[tuple[float, list[float]]] = []
        for guided in [point for point in points if point.kind == GUIDANCE]:
            # A run of both branches in every call has an even number of them: the rival of an odd one has one more.
            n_branches = guided.branch_calls + guided.branch_calls % 2
            equal = [p for p in points if p.is_fewer_steps(label) and p.branch_calls == n_branches]
            if equal:
                best = [max(p.psnr_converged[s] for p in equal) for s in range(N_SEEDS)]
                gains = [guided.psnr_converged[s] - best[s] for s in range(N_SEEDS)]
                found.append((guided.psnr_calibration - max(p.psnr_calibration for p in equal), gains))
                what = {"model": where, "branch_calls": guided.branch_calls, "schedule": guided.label}
                bench.row(f"dB over {rival}", statistics.median(gains), spread(gains), **what)
        if found:
            gains = max(found)[1]
            title = f"{where}: dB of guidance over {rival}"
            bench.target(title, statistics.median(gains), spread(gains), at_least=3.0)


def by_seed(values: Sequence[float]) -> list[float]:
    """The mean of each seed's samples."""
    n = len(values) // N_SEEDS
    return [statistics.fmean(values[i * n : (i + 1) * n]) for i in range(N_SEEDS)]


def psnr(latents: torch.Tensor, target: torch.Tensor) -> list[float]:
    """PSNR of each sample, the peak being the range of all target values."""
    error = (latents - target).flatten(1).square().mean(dim=1)
    return [float(value) for value in 10.0 * torch.log10((target.max() - target.min()) ** 2 / error)]


if __name__ == "__main__":
    main()
