"""What CacheQuant's parts bring: caching and quantization alone, both, planned, corrected, and solved together.

For each reference model, at 20 and 50 steps of its own sampler and for weights of 8 and 4 bits, all but the first and
the last line with the same share of refreshed calls, one in three: the full run; evenly spread reuses; quantization;
both, naively, with the grids of the full run; + DPS, the refreshes planned; + DEC, grids and corrections fitted under
the plan; joint, the best of plans, bits and corrections within the same bit operations (MACs times bits of a weight:
fewer bits pay for more refreshes), chosen on calibration prompts; and the best known solver in fewer steps within the
same MACs. The same held-out prompts and seeds for all: deviation from the converged run; PSNR; alignment; bytes of
weights. Quality is that of fake quantization. Speed is another table: a full run in bfloat16, and with the kernels of
torchao, eager and with compiled leaves, each run in turn with one in float32.

Prints a table and takes `--quick` (20 steps, 8 bits, fewer prompts), `--seed`, `--device`, `--json FILE`; `--models`,
`--steps`, `--bits` measure a part, `--speed` the speed alone.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from harness import Benchmark, parse_arguments, spread

from autotune.evaluators.applied_tables import AppliedTables
from autotune.evaluators.apply import compile_leaves
from autotune.evaluators.load import load_model
from autotune.evaluators.presets import read_prompts
from autotune.evaluators.quantized_layers import weight_bytes
from autotune.evaluators.real_kernels import use_kernels
from autotune.evaluators.sampling import Purpose
from autotune.evaluators.table_fit import mean_deviation
from autotune.evaluators.worker import Worker
from autotune.search.cache_plans import even_actions, on_sites
from autotune.search.cachequant import EXPONENT, planned_refreshes, reuse_costs
from autotune.search.fewer_steps import FewerStepsSearcher
from autotune.search.searcher import SearchContext
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.column_fit import FitColumn
from autotune.spaces.errors import ScheduleError, UsageError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.quantization import Quantization
from autotune.spaces.schedule import Schedule
from autotune.spaces.statistics import bootstrap_interval, mean_ratio_interval

MODELS = ("mini-flux", "mini-pixart", "mini-sd")
EVERY = 3
"""Calls from one refresh to the next, on average."""

PRECISION = {8: FitColumn.W8A8, 6: FitColumn.W6A8, 4: FitColumn.W4A8}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table: deviations by prompt."""

    deviations: tuple[float, ...]
    macs: int
    n_bytes: int

    @property
    def mean(self) -> float:
        """Mean deviation."""
        return statistics.fmean(self.deviations)


class Setting:
    """One model at one number of steps."""

    def __init__(self, bench: Benchmark, name: str, n_steps: int) -> None:
        quick, seed = bench.arguments.quick, bench.arguments.seed
        model = load_model(name, device=bench.arguments.device)
        self.worker = Worker(replace(model, preset=replace(model.preset, n_steps=n_steps)))
        self.bench, self.n_steps, self.where = bench, n_steps, f"{name} {n_steps}"
        chosen, others = (read_prompts(p) for p in (model.preset.calibration_prompts, model.preset.held_out_prompts))
        chosen, others = (chosen[:8], others[:8]) if quick else (chosen, others * 2)
        first = 10_000 * (1 + seed)
        self.calibration = Fidelity(name="calibration", prompts=chosen, seeds=tuple(range(len(chosen))))
        self.held_out = Fidelity(name="held_out", prompts=others, seeds=tuple(range(first, first + len(others))))
        self.n_calls = len(self.worker.own_timesteps(n_steps))
        self.n_refreshed = -(-self.n_calls // EVERY)
        self.context = SearchContext(
            condition=self.worker.condition,
            inventory=self.worker.inventory,
            own_timesteps=self.worker.own_timesteps,
            guided=self.worker.guided,
        )
        self.edge_costs = functools.cache(lambda: self.worker.edge_costs(self.calibration, 4))

    def cached(self, refreshes: Sequence[int], sites: Sequence[int]) -> Schedule:
        """Reuses of sites in all calls but these."""
        actions = np.full(self.n_calls, CacheAction.REUSE, int)
        actions[list(refreshes)] = CacheAction.RECOMPUTE
        return Schedule(n_steps=self.n_steps, cache=on_sites(actions, self.worker.inventory, sites))

    def even(self, n_refreshed: int) -> list[int]:
        """Calls to refresh at even distances."""
        return [int(call) for call in np.flatnonzero(even_actions(self.n_calls, n_refreshed) == CacheAction.RECOMPUTE)]

    def planned(self, n_refreshed: int) -> tuple[int, ...]:
        """Calls to refresh by dynamic programming."""
        edges = self.edge_costs()
        return planned_refreshes(reuse_costs(edges) ** EXPONENT, n_refreshed, edges.longest)

    def fit(self, schedule: Schedule, column: FitColumn) -> Schedule:
        """With a column fitted on the calibration prompts; as it is where none helps."""
        try:
            return self.worker.fit(schedule, column, self.calibration).schedule
        except ScheduleError:
            return schedule

    def macs(self, schedule: Schedule) -> int:
        """Multiply-accumulates of an image."""
        return self.worker._work.macs(schedule)

    def line(self, label: str, schedule: Schedule, bits: int, quantization: Quantization | None = None) -> Line:
        """Measure and print a line; a quantization that is given is one that was fitted to another schedule."""
        worker = self.worker
        what: dict[str, Any] = {"model": self.where, "bits": bits, "schedule": label}
        tables = AppliedTables.of(schedule, worker.condition, worker.tables.of(schedule))
        if quantization is not None:
            tables = replace(tables, quantization=quantization)
        samples = worker._run(schedule, self.held_out, None, None, tables, purpose=Purpose.SCORED)
        quality = worker._workload.quality(samples, worker.reference(self.held_out), self.held_out)
        denoiser = worker._adapter.denoiser_of(worker._pipe)
        line = Line(
            deviations=quality["deviation"],
            macs=self.macs(schedule),
            n_bytes=weight_bytes(denoiser, tables.quantization),
        )
        self.bench.row("deviation", line.mean, bootstrap_interval(line.deviations), **what)
        for figure in ("psnr", "alignment"):
            if figure in quality:
                self.bench.row(figure, statistics.fmean(quality[figure]), bootstrap_interval(quality[figure]), **what)
        self.bench.row("MACs over the full run", line.macs / self.macs(Schedule(n_steps=self.n_steps)), **what)
        self.bench.row("bytes of weights over float32", line.n_bytes / weight_bytes(denoiser), **what)
        return line


def main() -> None:
    arguments = parse_arguments(__doc__, add_options)
    bench = Benchmark("cachequant", arguments)
    for name in arguments.models:
        for n_steps in () if arguments.speed else (20,) if arguments.quick else arguments.steps:
            compare(Setting(bench, name, n_steps), (8,) if arguments.quick else arguments.bits)
        speeds(bench, name)
    bench.finish()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--steps", nargs="+", type=int, default=(20, 50))
    parser.add_argument("--bits", nargs="+", type=int, default=(8, 4), choices=(8, 4))
    parser.add_argument("--speed", action="store_true", help="measure the speed alone")


def compare(setting: Setting, all_bits: Sequence[int]) -> None:
    """The lines of one model at one number of steps."""
    bench, worker, full = setting.bench, setting.worker, Schedule(n_steps=setting.n_steps)
    outermost = worker.inventory.outermost
    even, planned = (setting.cached(of(setting.n_refreshed), outermost) for of in (setting.even, setting.planned))
    lines = {"full": setting.line("full precision", full, 32), "cache": setting.line("evenly spread", even, 32)}
    corrected = setting.line("evenly spread, corrected", setting.fit(even, FitColumn.CACHE_CORRECTION), 32)
    gain, interval = lowered(lines["cache"], corrected)
    bench.target(f"{setting.where}: DEC on evenly spread reuses lowers the deviation by", gain, interval, at_least=0.2)
    setting.line("fewer steps", fewest(setting, setting.macs(even)), 32)
    for bits in all_bits:
        alone = setting.fit(full, PRECISION[bits])
        plain = AppliedTables.of(alone, worker.condition, worker.tables.of(alone)).quantization
        assert plain is not None
        plain = Quantization({name: replace(layer, gain=None, shift=None) for name, layer in plain.layers.items()})
        lines["quantization"] = setting.line("quantization", full, bits, plain)
        lines["naive"] = setting.line("naive combination", even, bits, plain)
        lines["DPS"] = setting.line("+ DPS", planned, bits, plain)
        fitted = setting.fit(setting.fit(planned, PRECISION[bits]), FitColumn.CACHE_CORRECTION)
        lines["DEC"] = setting.line("+ DEC", fitted, bits)
        lines["joint"] = setting.line("joint", jointly(setting, even, bits), bits)
        check(bench, f"{setting.where}, W{bits}A8", lines)


def jointly(setting: Setting, even: Schedule, bits: int) -> Schedule:
    """Of plans, cached values, bits and corrections within the bit operations of evenly spread reuses: the best."""
    found: list[tuple[float, int, Schedule]] = []
    for mean_bits, column in PRECISION.items():
        for plan in plans_within(setting, setting.macs(even) * bits // mean_bits):
            quantized = setting.fit(plan, column)
            for tried in dict.fromkeys((quantized, setting.fit(quantized, FitColumn.CACHE_CORRECTION))):
                found.append((calibration_deviation(setting, tried), len(found), tried))
    return min(found)[-1]


def plans_within(setting: Setting, most: int) -> Iterator[Schedule]:
    """For each kind of cached value, evenly spread and planned reuses with as many refreshes as the MACs allow."""
    inventory = setting.worker.inventory
    for sites in (inventory.outermost,) if setting.bench.arguments.quick else (inventory.outermost, inventory.leaves):
        for refreshes in (setting.even, setting.planned):
            for n in range(setting.n_calls - 1, 1, -1):
                try:
                    plan = setting.cached(refreshes(n), sites)
                except ScheduleError:  # no plan with so many refreshes
                    continue
                if setting.macs(plan) <= most:
                    yield plan
                    break


def fewest(setting: Setting, most: int) -> Schedule:
    """The fewer steps of a known solver within some MACs that come closest on calibration prompts."""
    found: list[tuple[float, int, Schedule]] = []
    searcher = FewerStepsSearcher(setting.context, 0)
    while asked := searcher.ask(1):
        schedule = asked[0].schedule
        if 0.8 * most <= setting.macs(schedule) <= most:
            found.append((calibration_deviation(setting, schedule), len(found), schedule))
    return min(found)[-1]


def calibration_deviation(setting: Setting, schedule: Schedule) -> float:
    latents = setting.worker._run(schedule, setting.calibration, None).latents
    return mean_deviation(latents, setting.worker.reference(setting.calibration).latents)


def lowered(before: Line, after: Line) -> tuple[float, list[float]]:
    """By which part the deviation is lower, with the interval of paired resampling."""
    low, high = mean_ratio_interval(after.deviations, before.deviations)
    return 1.0 - after.mean / before.mean, [1.0 - high, 1.0 - low]


def check(bench: Benchmark, where: str, lines: dict[str, Line]) -> None:
    """The paper's ordering."""
    full, cache, alone, naive = (np.array(lines[n].deviations) for n in ("full", "cache", "quantization", "naive"))
    surplus = (naive - cache - alone + full).tolist()
    interval = bootstrap_interval(surplus)
    bench.target(f"{where}: naive is worse than the sum of parts by", statistics.fmean(surplus), interval, at_least=0.0)
    for before, after in (("naive", "DPS"), ("DPS", "DEC"), ("DEC", "joint")):
        gain, bounds = lowered(lines[before], lines[after])
        bench.target(f"{where}: {after} lowers the deviation of {before} by", gain, bounds, at_least=1e-9)
    share = lines["quantization"].n_bytes / lines["full"].n_bytes
    bench.target(f"{where}: bytes of weights over float32", share, None, at_most=0.25)


def speeds(bench: Benchmark, name: str) -> None:
    """Latency of the full run in several precisions, each in turn with one in float32."""
    kinds: dict[str, dict[str, Any]] = {
        "bfloat16": {"dtype": torch.bfloat16},
        "float32, compiled leaves": {"compiled": True},
        "bfloat16, compiled leaves": {"dtype": torch.bfloat16, "compiled": True},
        "torchao int8": {"kernel": "int8"},
        "torchao int8, compiled leaves": {"kernel": "int8", "compiled": True},
        "torchao float8": {"kernel": "float8", "dtype": torch.bfloat16},
    }
    for label, how in kinds.items():
        try:
            plain, other = pipeline_of(bench, name), pipeline_of(bench, name, **how)
            for run in (plain, other):
                run()
            pairs = [(run_seconds(plain), run_seconds(other)) for _ in range(3 if bench.arguments.quick else 7)]
        except UsageError as error:
            print(f"{name:24} {label}: {error}")
            continue
        ratios = [after / before for before, after in pairs]
        bench.row("latency over float32, eager", statistics.median(ratios), spread(ratios), model=name, precision=label)


def pipeline_of(
    bench: Benchmark, name: str, *, dtype: torch.dtype = torch.float32, compiled: bool = False, kernel: Any = None
) -> Any:
    """A function that draws one batch."""
    dtype_name = str(dtype).removeprefix("torch.")
    model = load_model(name, device=bench.arguments.device, dtype=dtype_name)
    if kernel is not None:
        worker = Worker(model)
        chosen = read_prompts(model.preset.calibration_prompts)[:1]
        one = Fidelity(name="calibration", prompts=chosen, seeds=(0,))
        fitted = worker.fit(Schedule(n_steps=2), FitColumn.W8A8, one).schedule
        made = AppliedTables.of(fitted, worker.condition, worker.tables.of(fitted)).quantization
        assert made is not None
        use_kernels(model.pipe, made, kernel)
    if compiled:
        compile_leaves(model.pipe)
    worker = Worker(model)
    prompts = read_prompts(model.preset.calibration_prompts)[:4]
    some = Fidelity(name="calibration", prompts=prompts, seeds=tuple(range(len(prompts))))
    default = Schedule(n_steps=model.preset.n_steps)
    return lambda: worker._run(default, some, None, purpose=Purpose.TIMED)


def run_seconds(run: Any) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
