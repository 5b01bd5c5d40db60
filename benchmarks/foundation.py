"""Costs of the foundation: evaluator and gate overhead, throughput, sizes, and the families' hypervolumes.

Prints a table and takes `--quick` (at most 10 minutes on two cores), `--seed`, `--device`, `--json FILE`. Timings are
medians of ratios within one run, the two sides interleaved, with their quartiles.
"""

import gc
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from harness import ROOT, Benchmark, parse_arguments, spread

from autotune.evaluators.apply import _attach, remove
from autotune.evaluators.inventory import list_inventory
from autotune.evaluators.load import LoadedModel, load_model
from autotune.evaluators.presets import read_prompts
from autotune.evaluators.prompt_embedding import embed_prompts
from autotune.evaluators.sampling import run_pipeline
from autotune.evaluators.worker import Worker
from autotune.search.families import make_searcher
from autotune.search.searcher import Result, SearchContext
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.pareto import front_hypervolume, non_dominated
from autotune.spaces.schedule import Schedule

MODELS = ("mini-flux", "mini-pixart", "mini-sd")
N_STEPS = 20


def main() -> None:
    arguments = parse_arguments(__doc__)
    bench = Benchmark("foundation", arguments)
    wheel_size(bench)
    repeats = 5 if arguments.quick else 15
    for name in MODELS:
        model = load_model(name, device=arguments.device)
        gate_overhead(bench, model, repeats)
        worker = Worker(model)
        evaluator_overhead(bench, worker, model, repeats)
        if name == "mini-flux":
            candidates_per_minute(bench, worker, model, 20 if arguments.quick else 60)
            hypervolumes(bench, worker, model, n=24 if arguments.quick else 100, seed=arguments.seed)
    if not arguments.quick:
        demo_time(bench)
    bench.finish()


def fidelity_of(path: Path, n: int, *, first_seed: int = 0) -> Fidelity:
    """The first `n` prompts of a file that ships with the package."""
    prompts = read_prompts(path)[:n]
    return Fidelity(name=path.stem, prompts=prompts, seeds=tuple(range(first_seed, first_seed + len(prompts))))


class ForwardTimer:
    """Sums the wall time of the denoiser's and the decoder's forwards while it is open."""

    def __init__(self, pipe: Any) -> None:
        self._modules = [getattr(pipe, "transformer", None) or pipe.unet, pipe.vae.decoder]
        self._hooks: list[Any] = []
        self._began = 0.0
        self.seconds = 0.0

    def __enter__(self) -> Self:
        for module in self._modules:
            self._hooks.append(module.register_forward_pre_hook(self._start))
            self._hooks.append(module.register_forward_hook(self._stop))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _start(self, *_: object) -> None:
        self._began = time.perf_counter()

    def _stop(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began


def evaluator_overhead(bench: Benchmark, worker: Worker, model: LoadedModel, repeats: int) -> None:
    """Scoring one candidate with 16 prompts, over the sum of its forwards and decode in the same run.

    The reference, the text embeddings and the baseline's own runs are paid once per study, not per candidate.
    """
    fidelity = fidelity_of(model.preset.calibration_prompts, 16)
    schedule = Schedule(n_steps=N_STEPS)
    worker.score(schedule, fidelity)
    ratios = []
    for _ in range(repeats):
        worker.timing.refresh(fidelity)  # so that none is due within the timed call
        with ForwardTimer(model.pipe) as timer:
            began = time.perf_counter()
            worker.score(schedule, fidelity)
            ratios.append((time.perf_counter() - began) / timer.seconds)
    bench.row("evaluator overhead, 16 prompts", statistics.median(ratios), spread(ratios), model=model.preset.name)
    name = f"evaluator overhead, {model.preset.name}"
    bench.target(name, statistics.median(ratios), spread(ratios), at_most=1.05)


def gate_overhead(bench: Benchmark, model: LoadedModel, repeats: int) -> None:
    """A run that recomputes everything through a gate on every site, over the plain pipeline, interleaved."""
    pipe, preset = model.pipe, model.preset
    fidelity = fidelity_of(model.preset.calibration_prompts, 16)
    embeddings = embed_prompts(
        pipe, fidelity.prompts, guidance_scale=preset.guidance_scale, call_kwargs=preset.call_kwargs
    )
    sizes = {"height": preset.height, "width": preset.width, "num_inference_steps": N_STEPS}

    def seconds() -> float:
        arguments = {**sizes, "guidance_scale": preset.guidance_scale, **preset.call_kwargs}
        return run_pipeline(pipe, embeddings, fidelity, batch_size=16, arguments=arguments).seconds

    def gated() -> float:
        n_calls = len(pipe.scheduler.timesteps)  # of the plain run just before
        plan = CachePlan.from_array(np.zeros((n_calls, len(list_inventory(pipe))), int))
        _attach(pipe, Schedule(n_steps=N_STEPS, cache=plan), every_site=True)
        try:
            return seconds()
        finally:
            remove(pipe)

    seconds()
    ratios = [_ratio_of_pair(seconds, gated, swap=i % 2 == 1) for i in range(repeats)]
    bench.row("gate overhead, all sites recompute", statistics.median(ratios), spread(ratios), model=preset.name)
    bench.target(f"gate overhead, {preset.name}", statistics.median(ratios), spread(ratios), at_most=1.02)


def _ratio_of_pair(plain: Callable[[], float], other: Callable[[], float], *, swap: bool) -> float:
    """The ratio other / plain, one of them run twice, around the other, so that a drift of the machine cancels."""
    gc.collect()
    if swap:
        first, base, second = other(), plain(), other()
        return (first + second) / 2 / base
    before, value, after = plain(), other(), plain()
    return value / ((before + after) / 2)


def candidates_per_minute(bench: Benchmark, worker: Worker, model: LoadedModel, n: int) -> None:
    """Scoring of an `ecad` search with 16 prompts, the baseline's refreshes included."""
    fidelity = fidelity_of(model.preset.calibration_prompts, 16)
    searcher = make_searcher("ecad", _context(worker), 0)
    began = time.perf_counter()
    for _ in range(n):
        (proposal,) = searcher.ask(1)
        searcher.tell([Result(proposal=proposal, outcome=worker.score(proposal.schedule, fidelity))])
    bench.row("candidates per minute, 16 prompts", n / (time.perf_counter() - began) * 60, model=model.preset.name)


def hypervolumes(bench: Benchmark, worker: Worker, model: LoadedModel, *, n: int, seed: int) -> None:
    """Hypervolume of the families after the same number of evaluations, five seeds each.

    The searches see MACs and the deviation on 4 calibration prompts, which repeat exactly, so that a schedule needs
    scoring once. Their fronts are then measured on 16 held-out prompts, with latency interleaved with the baseline's.
    """
    calibration = fidelity_of(model.preset.calibration_prompts, 4)
    held_out = fidelity_of(model.preset.held_out_prompts, 16, first_seed=1000)
    searched, verified = _Scores(worker, calibration, repeats=1), _Scores(worker, held_out, repeats=3)
    for family in ("ecad", "random", "fewer-steps"):
        by_macs, by_latency = [], []
        for offset in range(5):
            tried = _search(worker, family, searched, n=n, seed=seed + offset)
            points = [(m.relative_macs, m.mean("deviation")) for m in map(searched, tried)]
            by_macs.append(_volume(points))
            front = [schedule for schedule, kept in zip(tried, non_dominated(points), strict=True) if kept]
            by_latency.append(_volume([(m.relative_latency, m.mean("deviation")) for m in map(verified, front)]))
        for axis, values in (("MACs, calibration", by_macs), ("latency, held-out", by_latency)):
            figure = f"hypervolume of {family}, {n} evaluations, {axis}"
            bench.row(figure, statistics.median(values), [min(values), max(values)], model=model.preset.name)


class _Scores:
    """Scores every schedule once."""

    def __init__(self, worker: Worker, fidelity: Fidelity, *, repeats: int) -> None:
        self._worker, self._fidelity, self._repeats = worker, fidelity, repeats
        self._known: dict[Schedule, Measurement] = {}

    def __call__(self, schedule: Schedule) -> Measurement:
        if schedule not in self._known:
            outcome = self._worker.score(schedule, self._fidelity, repeats=self._repeats)
            assert isinstance(outcome, Measurement), outcome
            self._known[schedule] = outcome
        return self._known[schedule]


def _search(worker: Worker, family: str, score: _Scores, *, n: int, seed: int) -> list[Schedule]:
    """The first `n` schedules that a family asks for, fewer if it has no more."""
    searcher = make_searcher(family, _context(worker, ("macs", "deviation")), seed)
    tried: list[Schedule] = []
    while len(tried) < n and (asked := searcher.ask(1)):
        tried.append(asked[0].schedule)
        searcher.tell([Result(proposal=asked[0], outcome=score(asked[0].schedule))])
    return tried


def _volume(points: list[tuple[float, float]]) -> float:
    return front_hypervolume([cost for cost, _ in points], [deviation for _, deviation in points])


def _context(worker: Worker, objectives: tuple[str, ...] = ("latency", "deviation")) -> SearchContext:
    return SearchContext(
        condition=worker.condition,
        inventory=worker.inventory,
        own_timesteps=worker.own_timesteps,
        objectives=objectives,
    )


def wheel_size(bench: Benchmark) -> None:
    """Megabytes of the wheel that the committed files build."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), f"{folder}/clone"], check=True)
        words = [sys.executable, "-m", "build", "--outdir", f"{folder}/dist", f"{folder}/clone"]
        subprocess.run(words, check=True, capture_output=True)
        (wheel,) = Path(folder, "dist").glob("*.whl")
        bench.row("wheel size, MB", wheel.stat().st_size / 1e6)


def demo_time(bench: Benchmark) -> None:
    """Wall time of `make demo` on a fresh clone, its virtual environment included."""
    folder = tempfile.mkdtemp()
    try:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), f"{folder}/clone"], check=True)
        began = time.monotonic()
        subprocess.run(["make", "demo"], cwd=f"{folder}/clone", check=True, capture_output=True)
        bench.row("`make demo` on a fresh clone, s", time.monotonic() - began)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
