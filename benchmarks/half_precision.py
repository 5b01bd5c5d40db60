"""What is left of a searched solver schedule in bfloat16 and float16.

For each reference model the times and factors of a solver of five calls are fitted in float32, and the schedule is
drawn in each precision on held-out prompts and fresh seeds, beside the pipeline's own sampler in as many calls and in
its default number. Told are how far latents lie from those of the same schedule in float32, and from the converged run
in float32; and which share of the fitted schedule's gain over the own sampler, in as many calls, half precision keeps.

Prints a table and takes `--quick` (a shorter fit, fewer prompts), `--seed`, `--device`, `--json FILE`; `--models`
measures a part.
"""

import argparse

import torch
from harness import Benchmark, parse_arguments

from autotune.evaluators.load import load_model
from autotune.evaluators.presets import read_prompts
from autotune.evaluators.worker import Worker
from autotune.search.solver_variation import SolverVariation
from autotune.spaces.column_fit import FitColumn
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule import Schedule
from autotune.spaces.solvers import make_solver
from autotune.spaces.statistics import bootstrap_interval
from autotune.spaces.time_grid import uniform_lambda

MODELS = ("mini-flux", "mini-pixart", "mini-sd")
N_CALLS = 5
HALVES = ("bfloat16", "float16")


def main() -> None:
    arguments = parse_arguments(__doc__, add_options)
    bench = Benchmark("half_precision", arguments)
    for name in arguments.models:
        measure(bench, name)
    bench.finish()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)


def searched(worker: Worker, calibration: Fidelity, quick: bool) -> Schedule:
    """UniPC-2 on a grid uniform in lambda, its times and factors fitted as S3 and the joint search fit them."""
    condition = worker.condition
    noise, start = condition.noise_schedule, condition.start_timestep
    time = uniform_lambda(noise, N_CALLS, t_start=start)
    plain = Schedule(n_steps=N_CALLS, time=time, solver=make_solver("unipc-2", N_CALLS, noise))
    rich = SolverVariation(noise, start).enriched(plain)
    return worker.fit(rich, FitColumn.SOLVER, calibration, quick=quick).schedule


def measure(bench: Benchmark, name: str) -> None:
    """All precisions of one model."""
    quick, seed = bench.arguments.quick, bench.arguments.seed
    device = bench.arguments.device
    model = load_model(name, device=device, dtype="float32")
    exact = Worker(model)
    prompts = read_prompts(model.preset.held_out_prompts)[: 4 if quick else 16]
    first = 3_000_000 + 1000 * seed
    held_out = Fidelity(name="held_out", prompts=prompts, seeds=tuple(range(first, first + len(prompts))))
    few = read_prompts(model.preset.calibration_prompts)[: 8 if quick else 16]
    calibration = Fidelity(name="calibration", prompts=few, seeds=tuple(range(len(few))))
    schedule = searched(exact, calibration, quick)
    reference = exact.reference(held_out).latents
    own = {f"own sampler, {n} calls": Schedule(n_steps=n) for n in (N_CALLS, exact.condition.n_steps)}
    schedules = {f"searched, {N_CALLS} calls": schedule, **own}
    in_float32 = {kind: exact._run(plan, held_out, None).latents for kind, plan in schedules.items()}
    gains = {}
    for dtype in ("float32", *HALVES):
        worker = exact if dtype == "float32" else Worker(load_model(name, device=device, dtype=dtype))
        converged = {}
        for kind, plan in schedules.items():
            latents = worker._run(plan, held_out, None).latents.to(reference)
            where: dict[str, object] = {"model": name, "schedule": kind, "dtype": dtype}
            if dtype != "float32":
                note(bench, "distance to the same in float32", latents, in_float32[kind], where)
            converged[kind] = note(bench, "deviation from the converged run", latents, reference, where)
        best, plain = list(converged.values())[:2]
        gains[dtype] = plain - best
    for dtype in HALVES:
        share = gains[dtype] / gains["float32"]
        bench.target(f"{name}, {dtype}: share of the searched schedule's gain that is left", share, None, at_least=0.8)


def note(bench: Benchmark, figure: str, one: torch.Tensor, other: torch.Tensor, where: dict[str, object]) -> float:
    """A row of the mean relative distance, with a 95 % interval over prompts."""
    sizes = other.flatten(1).norm(dim=1)
    distances: list[float] = ((one - other).flatten(1).norm(dim=1) / sizes).tolist()
    mean = sum(distances) / len(distances)
    bench.row(figure, mean, bootstrap_interval(distances), **where)
    return mean


if __name__ == "__main__":
    main()
