"""Costs of the foundation: evaluator and gate overhead, throughput, sizes, and `ecad` against `random`.

Prints a table and takes `--quick` (at most 10 minutes on two cores), `--seed`, `--device`, `--json FILE`.
Timings are ratios of medians within one run, the two sides interleaved.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from harness import Benchmark, parse_arguments

from autotune.evaluators.apply import attach, remove
from autotune.evaluators.cache_runtime import gate_every_site
from autotune.evaluators.load import load_model
from autotune.evaluators.presets import read_prompts
from autotune.evaluators.worker import Worker
from autotune.search.searcher import Result, SearchContext
from autotune.search.families import make_searcher
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.pareto import front_hypervolume
from autotune.spaces.schedule import Schedule

MODELS = ("mini-flux", "mini-pixart", "mini-sd")
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    arguments = parse_arguments(__doc__)
    bench = Benchmark("foundation", arguments)
    for name in MODELS:
        worker = Worker(load_model(name, device=arguments.device))
        repeats = 5 if arguments.quick else 15
        evaluator_overhead(bench, name, worker, repeats)
        gate_overhead(bench, name, worker, repeats)
        if name == "mini-flux":
            candidates_per_minute(bench, worker)
            ecad_against_random(bench, worker, n_evaluations=40 if arguments.quick else 120, seeds=range(5))
    wheel_size(bench)
    if not arguments.quick:
        demo_time(bench)
    bench.finish()


def fidelity_of(worker: Worker, n: int) -> Fidelity:
    prompts = read_prompts(worker._preset.calibration_prompts)[:n]
    return Fidelity(name="calibration", prompts=prompts, seeds=tuple(range(len(prompts))))


class ForwardTimer:
    """Sums the wall time of the denoiser's and the decoder's bare forwards while it is open."""

    def __init__(self, pipe: Any) -> None:
        self._modules = [getattr(pipe, "transformer", None) or pipe.unet, pipe.vae.decoder]
        self.seconds = 0.0
        self._began = 0.0

    def __enter__(self) -> "ForwardTimer":
        self._hooks = []
        for module in self._modules:
            self._hooks.append(module.register_forward_pre_hook(self._start))
            self._hooks.append(module.register_forward_hook(self._stop))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _start(self, *_: object) -> None:
        self._began = time.perf_counter()

    def _stop(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began


def evaluator_overhead(bench: Benchmark, name: str, worker: Worker, repeats: int) -> None:
    """Wall time of scoring one candidate with 16 prompts over the sum of its bare forwards and decode."""
    fidelity = fidelity_of(worker, 16)
    schedule = Schedule(n_steps=worker.condition.n_steps)
    worker.score(schedule, fidelity)  # reference, baseline and text embeddings are paid once per study
    ratios = []
    for _ in range(repeats):
        worker._baseline_due = time.monotonic() + 1e6  # the baseline's own run is not this candidate's
        with ForwardTimer(worker._pipe) as timer:
            began = time.perf_counter()
            worker.score(schedule, fidelity)
            ratios.append((time.perf_counter() - began) / timer.seconds)
    bench.row(model=name, figure="evaluator overhead", value=statistics.median(ratios), spread=bench.spread(ratios))
    bench.target(f"evaluator overhead, {name}", "<= 1.05", statistics.median(ratios), bench.spread(ratios), upper=1.05)


def gate_overhead(bench: Benchmark, name: str, worker: Worker, repeats: int) -> None:
    """An all-recompute run with a gate on every site over the plain pipeline, interleaved."""
    fidelity = fidelity_of(worker, 16)
    schedule = Schedule(n_steps=worker.condition.n_steps)
    ratios = []
    for _ in range(repeats):
        plain = worker._time(schedule, fidelity)
        with gate_every_site(worker._pipe, worker.inventory):
            gated = worker._time_attached(schedule, fidelity)
        ratios.append(gated / plain)
    bench.row(model=name, figure="gate overhead", value=statistics.median(ratios), spread=bench.spread(ratios))
    bench.target(f"gate overhead, {name}", "<= 1.02", statistics.median(ratios), bench.spread(ratios), upper=1.02)
