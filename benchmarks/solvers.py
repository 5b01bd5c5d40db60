"""Searched solver schedules against the best known solver and time grid, at equal numbers of network calls.

Prints a table and takes `--quick` (at most 10 minutes on two cores), `--seed`, `--device`, `--json FILE`. With
`--storage FILE`, a database that keeps every measurement, a run that was cut off goes on where it stopped;
`--only MODEL ...` measures some models' cells, `--jobs N` several cells at a time. Rivals, searches and fits choose on
calibration prompts; what is printed comes from held-out prompts and fresh seeds. A gain is 1 - deviation / rival's
deviation, with a paired 95 % bootstrap interval over prompts.
"""

import argparse
import dataclasses
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from harness import Benchmark, gain_over, parse_arguments, spread
from solver_rivals import N_FINALISTS, Rivals

from autotune.evaluators.feature_net import CLASSES
from autotune.evaluators.load import load_model
from autotune.evaluators.pool import InProcessPool
from autotune.evaluators.worker import Worker
from autotune.search.dispatcher import Dispatcher, Request
from autotune.search.heartbeat import Heartbeat
from autotune.search.s3 import S3Searcher, S3Settings
from autotune.search.searcher import Proposal, Result, SearchContext
from autotune.spaces.column_fit import ColumnFit, FitColumn, FitTarget
from autotune.spaces.compensation_regression import CompensationRegression, RatioSample
from autotune.spaces.errors import ScheduleError
from autotune.spaces.evaluation import Failure, Fidelity, Measurement
from autotune.spaces.schedule import Schedule, canonical_schedule, schedule_hash
from autotune.spaces.statistics import mean_draws, percentile_interval
from autotune.spaces.traced_run import N_TRACED, TRACE_LEVELS
from autotune.storage.database import Database

CONDITIONS = (("mini-flux", 1.0), ("mini-pixart", 3.0), ("mini-pixart", 7.5), ("mini-sd", 5.0), ("mini-sd", 7.5))
COUNTS = (4, 5, 6, 8, 10)
LONGER = 1.7
"""A searched schedule of N calls should do what the best rival does in this many times N."""

CALIBRATION = ("a photo of the {}", "an image of a {}", "the {}", "a good photo of a {}", "one {}")
HELD_OUT = ("a {}", "a photo of a {}", "a picture of a {}", "a small photo of a {}", "a close up of a {}", "{}")
HELD_OUT_SEED = 1_000_000
IMAGES = 8_000
"""What a search may take by default, and takes to the last evaluation; runs with gradients count as three."""

N_SEARCHED = 10
"""Prompts that S3 searches on."""

QUICK_EVALUATIONS = 60


def main() -> None:
    arguments = parse_arguments(__doc__, _options)
    conditions = [(name, guidance) for name, guidance in CONDITIONS if name in (arguments.only or [name])]
    counts = arguments.counts or COUNTS
    if arguments.quick:
        conditions, counts = conditions[:1], arguments.counts or (5,)
    bench = Benchmark("solvers", arguments)
    with tempfile.TemporaryDirectory() as folder:
        arguments.storage = arguments.storage or Path(folder) / "solvers.db"
        Database.open(str(arguments.storage)).close()  # made once, before several processes open it
        lengths = sorted({length for n in counts for length in (n, math.ceil(LONGER * n))})
        bench.run(_measure_rivals, [(*c, n) for c in conditions for n in lengths], arguments.jobs)
        bench.run(_measure_cell, [(*c, n) for c in conditions for n in reversed(counts)], arguments.jobs)
        if len(counts) >= 4:
            guided = sorted({name for name, guidance in conditions if guidance > 1.0})
            bench.run(_measure_regression, [(name, counts) for name in guided], arguments.jobs)
    bench.finish()


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storage", type=Path, help="database file that keeps the measurements")
    parser.add_argument("--jobs", type=int, default=1, help="cells that are measured at a time, each in a process")
    parser.add_argument("--only", nargs="+", help="the cells of these models only")
    parser.add_argument("--images", type=int, default=IMAGES, help="images that a search may take")
    parser.add_argument("--counts", type=int, nargs="+", help="numbers of network calls")


def _measure_rivals(bench: Benchmark, name: str, guidance: float, n: int) -> None:
    with Database.open(str(bench.arguments.storage)) as database, Heartbeat(database):
        Cells(bench, database, name, guidance).measure_rivals(n)


def _measure_cell(bench: Benchmark, name: str, guidance: float, n: int) -> None:
    with Database.open(str(bench.arguments.storage)) as database, Heartbeat(database):
        Cells(bench, database, name, guidance).measure(n)


def _measure_regression(bench: Benchmark, name: str, counts: Sequence[int]) -> None:
    """Ratios predicted at each guidance scale and inner step count from the fits at the others.

    Beside the scales of the model's cells their mean is measured, of which the regression sees no fit at all.
    """
    scales = [guidance for other, guidance in CONDITIONS if other == name]
    with Database.open(str(bench.arguments.storage)) as database, Heartbeat(database):
        cells = {scale: Cells(bench, database, name, scale) for scale in (*scales, statistics.mean(scales))}
        fits = {(scale, n): cell.compensated(n)[1] for scale, cell in cells.items() for n in counts}
        for scale, cell in cells.items():
            for n in sorted(counts)[1:-1]:
                unseen = {n} if scale in scales else set(counts)
                samples = [
                    RatioSample.of(fitted, other)
                    for (other, count), fitted in fits.items()
                    if other != scale or count not in unseen
                ]
                cell.measure_regression(n, CompensationRegression.fit(samples))


def prompts_of(name: str, templates: Sequence[str], first_seed: int) -> Fidelity:
    """Every class in every template, one seed each."""
    prompts = tuple(template.format(label) for template in templates for label in CLASSES)
    return Fidelity(name=name, prompts=prompts, seeds=tuple(range(first_seed, first_seed + len(prompts))))


class Cells:
    """All step counts under one condition."""

    def __init__(self, bench: Benchmark, database: Database, name: str, guidance: float) -> None:
        self._bench, self._quick, self._seed = bench, bench.arguments.quick, bench.arguments.seed
        model = load_model(name, device=bench.arguments.device)
        preset = dataclasses.replace(model.preset, guidance_scale=guidance)
        self._worker = Worker(dataclasses.replace(model, preset=preset), artifacts=database.artifacts)
        self._dispatcher = Dispatcher(InProcessPool(self._worker), database)
        self._where = f"{name} cfg {guidance:g}" if guidance > 1.0 else name
        self._guidance = guidance
        self._calibration = prompts_of("calibration", CALIBRATION[: 1 if self._quick else None], 0)
        self._held_out = prompts_of("held_out", HELD_OUT[: 2 if self._quick else None], HELD_OUT_SEED)
        self._rivals = Rivals(self._worker, self._calibration)

    def measure_rivals(self, n: int) -> None:
        """The best known solver and grid of n calls."""
        name, schedule, _ = self._rivals.best(n, self._score)
        deviation = self._held_out_of(schedule).mean("deviation")
        self._bench.row("best rival, deviation", deviation, where=self._where, n=n, rival=name)

    def measure(self, n: int) -> None:
        """The cell of n calls."""
        _, rival, finalists = self._rivals.best(n, self._score)
        held = {"best rival": self._held_out_of(rival)}
        searched, n_images = self._s3(n, finalists)
        held["S3"] = self._held_out_of(searched)
        base, compensated = self.compensated(n)
        held["UniPC-2"] = self._held_out_of(base)
        held["DC on UniPC-2"] = self._held_out_of(compensated)
        held["S3 + DC"] = self._held_out_of(self._fit(searched, FitColumn.COMPENSATION).schedule)
        for figure, start in (("S3 + distill", searched), ("solver-distill", rival)):
            fit = self._fit(start, FitColumn.CORRECTION)
            held[figure] = self._held_out_of(fit.schedule)
            self._bench.row(f"{figure}, network calls of the fit", fit.network_calls, where=self._where, n=n)
        for figure, measurement in held.items():
            self._report(n, figure, measurement, held["best rival"])
        self._bench.row("S3, images of the search", n_images, where=self._where, n=n)
        calls = n_images * n + N_TRACED * TRACE_LEVELS
        self._bench.row("S3, network calls of the search", calls, where=self._where, n=n)
        self._targets(n, held)

    def _report(self, n: int, figure: str, measurement: Measurement, rival: Measurement) -> None:
        gain, interval = _gain(measurement, rival)
        if measurement is not rival:
            self._bench.row(f"{figure}, deviation", measurement.mean("deviation"), where=self._where, n=n)
        self._bench.row(f"{figure}, PSNR", measurement.mean("psnr"), where=self._where, n=n)
        self._bench.row(f"{figure}, alignment", measurement.mean("alignment"), where=self._where, n=n)
        if measurement is not rival:
            self._bench.row(f"{figure}, gain over the best rival", gain, interval, where=self._where, n=n)

    def _targets(self, n: int, held: dict[str, Measurement]) -> None:
        gain, interval = _gain(held["S3"], held["best rival"])
        least = 0.5 if n <= 6 else 0.4
        self._bench.target(f"{self._where}, {n} calls: S3's gain over the best rival", gain, interval, at_least=least)
        if self._guidance == 7.5 and n in (5, 10):
            gain, interval = _gain(held["DC on UniPC-2"], held["UniPC-2"], power=2)
            self._bench.target(
                f"{self._where}, {n} calls: DC's gain in MSE", gain, interval, at_least=0.09 if n == 5 else 0.2
            )
        longer = math.ceil(LONGER * n)
        _, rival, _ = self._rivals.best(longer, self._score)
        for name in ("S3", "S3 + distill"):
            ratio = _gain(held[name], self._held_out_of(rival))
            self._bench.target(
                f"{self._where}: gain of {name} in {n} calls over the best rival in {longer}", *ratio, at_least=0.0
            )

    def _s3(self, n: int, known: Sequence[Schedule]) -> tuple[Schedule, int]:
        """The best schedule that S3 finds, and the images that the search took, those of the rivals with it.

        It searches on the first prompts, and the finalists go on to all of them, as the rivals do.
        """
        searched = self._calibration.first(N_SEARCHED)
        n_prompts, n_finals = len(searched.prompts), N_FINALISTS * len(self._calibration.prompts)
        n_images, max_images = self._rivals.n_images(n), self._bench.arguments.images - n_finals
        n_evaluations = QUICK_EVALUATIONS if self._quick else max_images

        def fit(schedule: Schedule, column: FitTarget) -> ColumnFit:
            nonlocal n_images
            left = max_images - n_images - n_prompts  # what it makes is to be scored
            made = self._worker.fit(schedule, column, searched, max_image_runs=left)
            n_images += made.image_runs
            return made

        context = SearchContext(
            condition=self._worker.condition,
            inventory=self._worker.inventory,
            own_timesteps=self._worker.own_timesteps,
            guided=self._worker.guided,
            fit=fit,
            trace=lambda: self._worker.trace(self._calibration, N_TRACED, TRACE_LEVELS),
        )
        searcher = S3Searcher(context, self._seed, S3Settings(step_counts=(n,)))
        results = [self._result(Proposal(schedule=schedule, family="rival", label=""), searched) for schedule in known]
        searcher.tell(results)
        while len(results) < n_evaluations and n_images + n_prompts <= max_images:
            result = self._result(searcher.ask(1)[0], searched)
            searcher.tell([result])
            results.append(result)
            n_images += n_prompts
        for stage in searcher.stages:
            self._bench.row(f"S3's predictor, Kendall's tau, stage {stage.number}", stage.tau, where=self._where, n=n)
        taus = [stage.tau for stage in searcher.stages if stage.number > 2]
        if taus:  # of a search that came to a third stage
            self._bench.target(
                f"{self._where}, {n} calls: median tau of S3's predictor after stage 2",
                statistics.median(taus),
                spread(taus),
                at_least=0.7,
            )
        finalists = sorted(results, key=_deviation)[:N_FINALISTS]
        finals = [self._result(result.proposal, self._calibration) for result in finalists]
        return min(finals, key=_deviation).proposal.schedule, n_images + n_finals

    def measure_regression(self, n: int, regression: CompensationRegression) -> None:
        """What predicted ratios gain at a step count that the regression was not told of under this condition."""
        base, fitted = self.compensated(n)
        predicted = self._held_out_of(regression.compensated(base, self._guidance))
        before = self._held_out_of(base)
        gain, interval = _gain(predicted, before, power=2)
        self._bench.row("CPR, RMS error of the ratios", regression.rms_error, where=self._where, n=n)
        self._bench.row("CPR, gain in MSE where it never fitted", gain, interval, where=self._where, n=n)
        self._share_kept(n, before, self._held_out_of(fitted), predicted)

    def _share_kept(self, n: int, before: Measurement, fitted: Measurement, predicted: Measurement) -> None:
        """The share of the fit's gain in MSE that CPR keeps; missed where the fit itself gains nothing for certain."""
        where = f"{self._where}, {n} calls"
        fitted_gain, interval = _gain(fitted, before, power=2)
        if interval[0] <= 0.0:
            name = f"{where}: gain in MSE of the fitted ratios, of which CPR is to keep a share"
            self._bench.target(name, fitted_gain, interval, at_least=1e-9)
            return
        errors = [np.square(m.quality["deviation"]) for m in (before, fitted, predicted)]
        of_fit, of_regression = errors[0] - errors[1], errors[0] - errors[2]
        kept = float(of_regression.mean() / of_fit.mean())
        top, bottom = (mean_draws(gains.tolist(), 0) for gains in (of_regression, of_fit))
        bounds = percentile_interval(top[bottom > 0.0] / bottom[bottom > 0.0])
        self._bench.target(f"{where}: share of the fitted gain that CPR keeps", kept, bounds, at_least=0.8)

    def compensated(self, n: int) -> tuple[Schedule, Schedule]:
        """UniPC-2 on the default grid, without and with fitted ratios."""
        base = self._rivals.schedule("unipc-2", "default", n)
        assert base is not None
        return base, self._fit(base, FitColumn.COMPENSATION).schedule

    def _fit(self, schedule: Schedule, column: FitTarget) -> ColumnFit:
        try:
            return self._worker.fit(schedule, column, self._calibration)
        except ScheduleError:  # too few steps
            return ColumnFit(schedule=schedule, before=0.0, after=0.0, image_runs=0)

    def _result(self, proposal: Proposal, fidelity: Fidelity) -> Result:
        return Result(proposal=proposal, outcome=self._outcome(proposal.schedule, fidelity))

    def _score(self, schedule: Schedule, fidelity: Fidelity) -> Measurement | None:
        outcome = self._outcome(canonical_schedule(schedule, self._worker.inventory), fidelity)
        return outcome if isinstance(outcome, Measurement) else None

    def _outcome(self, schedule: Schedule, fidelity: Fidelity) -> Measurement | Failure:
        self._dispatcher.submit([Request(schedule=schedule, schedule_hash=schedule_hash(schedule), fidelity=fidelity)])
        (measured,) = self._dispatcher.collect()
        return measured.outcome

    def _held_out_of(self, schedule: Schedule) -> Measurement:
        measurement = self._score(schedule, self._held_out)
        assert measurement is not None, "a chosen schedule must be measurable"
        return measurement


def _deviation(result: Result) -> float:
    return np.inf if result.measurement is None else result.measurement.mean("deviation")


def _gain(ours: Measurement, theirs: Measurement, power: int = 1) -> tuple[float, list[float]]:
    return gain_over(ours.quality["deviation"], theirs.quality["deviation"], power)


if __name__ == "__main__":
    main()
