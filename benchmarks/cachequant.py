"""What CacheQuant's parts bring: caching and quantization alone, both, planned, corrected, and solved together.

For each reference model, at 20 and 50 steps of its own sampler and for weights of 8 and 4 bits, all but the first and
the last line with the same share of refreshed calls, one in three: the full run; evenly spread reuses; quantization;
both, naively, with the grids of the full run; + DPS as published, the refreshes planned by L1 costs of the feature at
the cache point, and + DPS, by edge costs; + DEC, grids and the paper's corrections fitted under that plan, and DEC with
history, which is ours; joint, plans, bits and corrections within the bit operations of the naive line and the bytes of
the line above, as `PrecisionChoice` chooses them on calibration prompts (fewer bits pay for more refreshes) beside the
lines above, and within a quarter of the bytes; and the best known solver in fewer steps within the latency of the
evenly spread reuses, measured in float32. The same held-out prompts and seeds for all: deviation from the converged
run; PSNR; alignment; bytes of weights; bit operations; the Frechet distance of more pictures to CIFAR-10. Quality is of
fake quantization, never mixed with speed: the table of `precision_speed.py`, at the end. Takes `--quick` (20 steps, 8
bits, fewer prompts, no Frechet distance), `--seed`, `--device`, `--json FILE`, and what to measure.
"""

import argparse
import contextlib
import functools
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from frechet import frechet_distance
from harness import Benchmark, gain_over, parse_arguments
from precision_speed import MODELS, speeds

from autotune.evaluators.applied_tables import AppliedTables
from autotune.evaluators.load import load_model
from autotune.evaluators.presets import read_prompts
from autotune.evaluators.quantized_layers import weight_bytes
from autotune.evaluators.sampling import Purpose, Samples
from autotune.evaluators.table_fit import batches, mean_deviation
from autotune.evaluators.worker import Worker
from autotune.search.archive import ParetoArchive
from autotune.search.cache_plans import even_actions, on_sites
from autotune.search.cachequant import EXPONENT, planned_refreshes, reuse_costs
from autotune.search.fewer_steps import FewerStepsSearcher
from autotune.search.precision_choice import Chosen, PrecisionChoice
from autotune.search.searcher import Proposal, Result, SearchContext
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.column_fit import ColumnFit, FitColumn, FitTarget, Precision
from autotune.spaces.errors import ScheduleError
from autotune.spaces.evaluation import Fidelity, median_ratio
from autotune.spaces.objective import parse_constraint, total_violation
from autotune.spaces.quantization import Quantization
from autotune.spaces.schedule import Schedule
from autotune.spaces.statistics import bootstrap_interval, ratio_interval

EVERY = 3  # calls from one refresh to the next, on average
WEIGHTS = 0.25  # share of the bytes of float32 weights, 4x smaller; W8A8 takes .263 to .266, its codes alone .248
N_CHOICES = 7  # schedules that a joint line quantizes, beside those of the joint lines before


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table: deviations by prompt."""

    deviations: tuple[float, ...]
    n_bytes: int
    bit_operations: float


class Setting:
    """One model at one number of steps."""

    def __init__(self, bench: Benchmark, name: str, n_steps: int) -> None:
        quick, n, first = bench.arguments.quick, bench.arguments.prompts, 10_000 * (1 + bench.arguments.seed)
        model = load_model(name, device=bench.arguments.device)
        self.worker = Worker(replace(model, preset=replace(model.preset, n_steps=n_steps)))
        self.bench, self.n_steps, self.where = bench, n_steps, f"{name} {n_steps}"
        chosen, others = (read_prompts(p) for p in (model.preset.calibration_prompts, model.preset.held_out_prompts))
        chosen, others = (chosen[:8], others[:8]) if quick else (chosen[:n], (others * 2)[: 2 * n])
        self.calibration = Fidelity(name="calibration", prompts=chosen, seeds=tuple(range(len(chosen))))
        self.held_out = Fidelity(name="held_out", prompts=others, seeds=tuple(range(first, first + len(others))))
        n_images = 0 if quick else bench.arguments.images
        many = (others * (n_images // len(others) + 1))[:n_images]
        seeds = tuple(range(2 * first, 2 * first + n_images))
        self.pictured = Fidelity(name="pictured", prompts=many, seeds=seeds) if n_images else None
        self.n_calls = len(self.worker.own_timesteps(n_steps))
        self.n_refreshed = -(-self.n_calls // EVERY)
        self.context = SearchContext(
            condition=self.worker.condition,
            inventory=self.worker.inventory,
            own_timesteps=self.worker.own_timesteps,
            guided=self.worker.guided,
        )
        self.few, self.full = self.calibration.first(4), Schedule(n_steps=n_steps)
        self.found: list[tuple[Chosen, Result]] = []
        self.plans = functools.cache(lambda: all_plans(self))
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

    def published(self, n_refreshed: int) -> tuple[int, ...]:
        """Calls to refresh by the paper's costs: L1 distances of the feature at the cache point."""
        costs = self.worker.segment_costs(self.calibration, 4)
        return planned_refreshes(costs.tables["full-precision", "l1"], n_refreshed, costs.longest)

    def fitted(self, schedule: Schedule, column: FitTarget, layer_corrections: bool = True) -> ColumnFit:
        """A column fitted on the calibration prompts; ScheduleError where none helps."""
        return self.worker.fit(schedule, column, self.calibration, layer_corrections=layer_corrections)

    def fit(self, schedule: Schedule, column: FitTarget, layer_corrections: bool = True) -> Schedule:
        """With a column fitted; as it is where none helps."""
        try:
            return self.fitted(schedule, column, layer_corrections).schedule
        except ScheduleError:
            return schedule

    def scored(self, schedule: Schedule) -> Result:
        """What came of a schedule on the calibration prompts."""
        proposal = Proposal(schedule=schedule, family="cachequant", label="")
        return Result(proposal=proposal, outcome=self.worker.score(schedule, self.calibration))

    def macs(self, schedule: Schedule) -> float:
        """Multiply-accumulates over those of the full run."""
        return self.worker._work.macs(schedule) / self.worker._work.macs(self.full)

    def seconds(self, label: str, schedule: Schedule) -> float:
        """Measure and print latency over that of the full run, in float32 and in turn with it, and return it."""
        run, what = self.worker._time, {"model": self.where, "bits": 32, "schedule": label}
        own, full = zip(*((run(schedule, self.few).ms, run(self.full, self.few).ms) for _ in range(7)), strict=True)
        ratio = median_ratio(own, full)
        self.bench.row("latency over the full run", ratio, ratio_interval(own, full), **what)
        return ratio

    def line(self, label: str, schedule: Schedule, bits: int, quantization: Quantization | None = None) -> Line:
        """Measure and print a line; a quantization that is given is one that was fitted to another schedule."""
        worker = self.worker
        what: dict[str, Any] = {"model": self.where, "bits": bits, "schedule": label}
        tables = AppliedTables.of(schedule, worker.condition, worker.tables.of(schedule))
        if quantization is not None:
            tables = replace(tables, quantization=quantization)

        def drawn(some: Fidelity) -> Samples:
            return worker._run(schedule, some, None, None, tables, purpose=Purpose.SCORED)

        samples = drawn(self.held_out)
        quality = worker._workload.quality(samples, worker.reference(self.held_out), self.held_out)
        denoiser, weighed = worker._adapter.denoiser_of(worker._pipe), worker._bits.inventory(tables.quantization)
        baseline = worker._work.bit_operations(self.full, worker._bits.plain)
        line = Line(
            deviations=quality["deviation"],
            n_bytes=weight_bytes(denoiser, tables.quantization),
            bit_operations=worker._work.bit_operations(schedule, weighed) / baseline,
        )
        for figure, values in quality.items():
            if figure in ("deviation", "psnr", "alignment"):
                interval = bootstrap_interval(values)
                self.bench.row(figure, statistics.fmean(values), interval, **what, by_prompt=list(values))
        if self.pictured is not None:
            images = (drawn(batch).images for batch in batches(self.pictured, 100, lambda: False))
            self.bench.row("Frechet distance", frechet_distance(images), **what)
        self.bench.row("MACs over the full run", self.macs(schedule), **what)
        self.bench.row("bit operations over the full run", line.bit_operations, **what)
        self.bench.row("bytes of weights over float32", line.n_bytes / weight_bytes(denoiser), **what)
        return line


def main() -> None:
    arguments = parse_arguments(__doc__, add_options)
    bench = Benchmark("cachequant", arguments)
    for name in arguments.models:
        for n_steps in (20,) if arguments.quick else arguments.steps:
            compare(Setting(bench, name, n_steps), (8,) if arguments.quick else arguments.bits)
        speeds(bench, name)
    bench.finish()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--steps", nargs="+", type=int, default=(20, 50))
    parser.add_argument("--bits", nargs="+", type=int, default=(8, 4), choices=(8, 4))
    parser.add_argument("--prompts", type=int, default=16, help="to choose with; twice as many are held out")
    parser.add_argument("--images", type=int, default=1000, help="pictures of a Frechet distance; 0 for none")


def compare(setting: Setting, all_bits: Sequence[int]) -> None:
    """The lines of one model at one number of steps."""
    bench, worker, full = setting.bench, setting.worker, setting.full
    planners = (setting.even, setting.published, setting.planned)
    even, published, planned = (setting.cached(of(setting.n_refreshed), worker.inventory.outermost) for of in planners)
    lines = {"full": setting.line("full precision", full, 32), "cache": setting.line("evenly spread", even, 32)}
    kinds = {"DEC": FitColumn.DEC, "DEC with history (ours)": FitColumn.CACHE_CORRECTION}
    for label, column in kinds.items():
        made = setting.line(f"evenly spread, {label}", setting.fit(even, column), 32)
        gain, interval = gain_over(made.deviations, lines["cache"].deviations)
        name = f"{setting.where}: {label} on evenly spread reuses lowers the deviation by"
        bench.target(name, gain, interval, at_least=0.2)
    fewer = fewest(setting, setting.seconds("evenly spread", even))
    setting.seconds("fewer steps", fewer)
    setting.line("fewer steps", fewer, 32)
    for bits in all_bits:
        alone = setting.fit(full, Precision(bits), layer_corrections=False)
        plain = AppliedTables.of(alone, worker.condition, worker.tables.of(alone)).quantization
        lines["quantization"] = setting.line("quantization", full, bits, plain)
        lines["naive"] = setting.line("naive combination", even, bits, plain)
        setting.line("+ DPS as published", published, bits, plain)
        lines["DPS"] = setting.line("+ DPS", planned, bits, plain)
        quantized = setting.fit(planned, Precision(bits))
        dec, history = (setting.fit(quantized, column) for column in kinds.values())
        lines["DEC"] = setting.line("+ DEC", dec, bits)
        setting.line("+ DEC with history (ours)", history, bits)
        above = [setting.scored(made) for made in (dec, history)]
        operations, n_bytes = lines["naive"].bit_operations, lines["DEC"].n_bytes / lines["full"].n_bytes
        lines["joint"] = lines["small"] = setting.line("joint", jointly(setting, above, operations, n_bytes), bits)
        if n_bytes > WEIGHTS:
            small = jointly(setting, above, operations, WEIGHTS)
            lines["small"] = setting.line("joint, a quarter of the bytes", small, bits)
        check(bench, f"{setting.where}, W{bits}A8", lines)


def jointly(setting: Setting, above: Sequence[Result], operations: float, n_bytes: float) -> Schedule:
    """Plan, bits and correction within shares of the full run's bit operations, to 1 %, and bytes of weights."""
    # To 1 %, since what is expected of a pair is off by less: without, the naive line's own plan may seem to go over.
    limits = (parse_constraint(f"bit-operations<={1.01 * operations}"), parse_constraint(f"weights<={n_bytes + 1e-9}"))
    choice = PrecisionChoice(replace(setting.context, objectives=("deviation",), constraints=limits))
    choice.tell([*setting.plans(), *above])
    for chosen, result in setting.found:  # within other budgets
        choice.note(result.proposal, chosen)
        choice.tell([result])
    for chosen in itertools.islice(iter(choice.next, None), N_CHOICES):
        setting.found.append((chosen, setting.scored(chosen.schedule(setting.fitted))))
        choice.note(setting.found[-1][1].proposal, chosen)
        choice.tell([setting.found[-1][1]])
    outcomes = [(one.proposal.schedule, one.measurement) for one in (*above, *(one for _, one in setting.found))]
    within = [(made.error, schedule) for schedule, made in outcomes if made and not total_violation(limits, made)]
    return min(within, key=lambda one: one[0])[1]


def all_plans(setting: Setting) -> list[Result]:
    """Evenly spread and planned reuses, of each kind of value and number of refreshes; those of the front corrected."""
    inventory = setting.worker.inventory
    front, found = ParetoArchive(("macs", "deviation")), list[Result]()
    counts = {setting.n_refreshed, *np.geomspace(3, setting.n_calls - 1, 10).round().astype(int).tolist()}
    for sites in (inventory.outermost,) if setting.bench.arguments.quick else (inventory.outermost, inventory.leaves):
        for refreshes in (setting.even, setting.planned):
            for n in sorted(counts):
                with contextlib.suppress(ScheduleError):  # no plan with so many refreshes
                    found.append(setting.scored(setting.cached(refreshes(n), sites)))
                    front.add(found[-1])
    corrected = ((one.schedule, setting.fit(one.schedule, FitColumn.CACHE_CORRECTION)) for one in front.members)
    return found + [setting.scored(made) for plain, made in corrected if made != plain]


def fewest(setting: Setting, share: float) -> Schedule:
    """The known solver whose fewer steps come closest on calibration prompts, of those with so small a share of MACs.

    The share is one of latency, of which prompts and pictures take some: the rival may take a little longer.
    """
    found: list[tuple[float, int, Schedule]] = []
    worker, searcher = setting.worker, FewerStepsSearcher(setting.context, 0)
    while asked := searcher.ask(1):
        schedule = asked[0].schedule
        if 0.8 * share <= setting.macs(schedule) <= share:
            latents = worker._run(schedule, setting.calibration, None).latents
            deviation = mean_deviation(latents, worker.reference(setting.calibration).latents)
            found.append((deviation, len(found), schedule))
    return min(found)[-1]


def check(bench: Benchmark, where: str, lines: dict[str, Line]) -> None:
    """The paper's ordering."""
    full, cache, alone, naive = (np.array(lines[n].deviations) for n in ("full", "cache", "quantization", "naive"))
    surplus = (naive - cache - alone + full).tolist()
    bench.row(
        "deviation of naive over the sum of parts, no target: independent errors add up in squares",
        statistics.fmean(surplus), bootstrap_interval(surplus), model=where, by_prompt=surplus,
    )  # fmt: skip
    squares, what = (naive**2 - cache**2 - alone**2 + full**2).tolist(), "more than the sum of squares of parts by"
    name = f"{where}: the square of naive is {what}"
    bench.target(name, statistics.fmean(squares), bootstrap_interval(squares), at_least=1e-9)
    steps = (("naive", "DPS", "DPS"), ("DPS", "DEC", "DEC"), ("DEC", "joint", "joint"))
    for before, after, what in (*steps, ("DEC", "small", "joint in a quarter of the bytes")):
        gain, bounds = gain_over(lines[after].deviations, lines[before].deviations)
        bench.target(f"{where}: {what} lowers the deviation of {before} by", gain, bounds, at_least=1e-9)
    n_bytes = lines["small"].n_bytes / lines["full"].n_bytes
    bench.target(f"{where}: bytes of weights of joint in a quarter of the bytes", n_bytes, None, at_most=WEIGHTS)


if __name__ == "__main__":
    main()
