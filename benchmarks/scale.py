"""A search on 1,000 workers with 200,000 evaluations: what the driver's part costs, and whether it grows.

The study loop, the searchers and the database (SQLite in a temporary folder) are the real ones; the workers are
simulated, their results come from a formula, and their clock is moved. The formula is worked out in the driver's
process, at some milliseconds per evaluation, which real workers would not cost it: that time is left out of all
figures but the one that states it.

The driver's memory counts as flat if its resident set grows by at most 10 % from the first mark to the last, and by at
most 100 MiB. Some growth there must be: what was tried has to be known.

Then the archive and the sort alone, on fronts that grow: time per point, and the exponent of the total time, which is
1 for a linear and 2 for a quadratic algorithm. Last NSGA-II's selection, out of populations that the user sizes.

Prints a table and takes `--quick` (5,000 evaluations), `--seed`, `--json FILE`; `--device` has no effect.
"""

import gc
import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast
from unittest.mock import patch

import numpy as np
from front_timing import archive_seconds, selection_seconds, sort_seconds
from harness import Benchmark, parse_arguments

from autotune.evaluators.simulated_pool import SimulatedPool, seeded_pace
from autotune.evaluators.tabulated import TabulatedEvaluator
from autotune.search.budget import Budget
from autotune.search.clock import SimulatedClock
from autotune.search.families import make_searcher
from autotune.search.progress import CandidateEvent, Phase
from autotune.search.searcher import SearchContext, Searcher
from autotune.search.study import StudyLoop
from autotune.search.study_plan import StudyPlan
from autotune.spaces.evaluation import Failure, Fidelity, Measurement
from autotune.spaces.schedule import Schedule
from autotune.storage.database import Database

FAMILIES = ("ecad", "random")
N_WORKERS = 1000
PACE_SPREAD = 0.2
GRANULARITY_S = 0.02
MARKS = (10_000, 50_000, 200_000)
QUICK_MARKS = (250, 1_250, 5_000)
N_PROMPTS = 4
MEBIBYTE = 2**20
FORMULA = "formula"
TIMED = ("ask", "tell", "storage", FORMULA)


def main() -> None:
    arguments = parse_arguments(__doc__)
    bench = Benchmark("scale", arguments)
    marks = QUICK_MARKS if arguments.quick else MARKS
    for family in FAMILIES:
        # Two processes may run, so that this one part gets a process, and with it a memory, of its own.
        bench.run(study, [(family, marks)], jobs=2)
    sizes = (1_000, 10_000, 100_000)
    archive_sizes = (1_000, 3_000, 10_000) if arguments.quick else sizes
    seed = arguments.seed
    for objectives in (("macs", "deviation"), ("macs", "deviation", "psnr")):
        growth(
            bench,
            f"archive of {len(objectives)} objectives",
            archive_sizes,
            partial(archive_seconds, objectives=objectives, seed=seed),
        )
    for n_objectives in (2, 3, 4):
        growth(
            bench,
            f"sort of {n_objectives} objectives",
            sizes,
            partial(sort_seconds, n_objectives=n_objectives, seed=seed),
        )
    for n_objectives, n in itertools.product((2, 3), (28, 504, 5_004)):
        took = selection_seconds(n, n_objectives, seed)
        bench.row("NSGA-II selection, ms", 1000.0 * took, objectives=n_objectives, individuals=n)
    bench.finish()


Seconds: TypeAlias = defaultdict[str, float]


class Stopwatch:
    """Sums the seconds that are spent in functions, by name."""

    def __init__(self) -> None:
        self.seconds: Seconds = defaultdict(float)

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time counted under a name; of an iterator that it returns, all steps."""

        def call(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                value = function(*arguments, **options)
            finally:
                self.seconds[name] += time.perf_counter() - began
            return self._steps(name, value) if isinstance(value, Iterator) else value

        return call

    def _steps(self, name: str, values: Iterator[Any]) -> Iterator[Any]:
        step = self.timed(name, lambda: next(values, self))
        while (value := step()) is not self:
            yield value


class TimedDatabase:
    """A database whose methods are timed."""

    def __init__(self, database: Database, watch: Stopwatch) -> None:
        self._database, self._watch = database, watch

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._database, name)
        return self._watch.timed("storage", attribute) if callable(attribute) else attribute


class TimedSearcher:
    """A searcher whose methods are timed."""

    def __init__(self, searcher: Searcher, watch: Stopwatch) -> None:
        self.ask = watch.timed("ask", searcher.ask)
        self.tell = watch.timed("tell", searcher.tell)


class TimedEvaluator(TabulatedEvaluator):
    """The formula, timed."""

    watch: Stopwatch

    def score(self, schedule: Schedule, fidelity: Fidelity, *, repeats: int = 1) -> Measurement | Failure:
        """See `Evaluator.score`."""
        outcome = self.watch.timed(FORMULA, super().score)(schedule, fidelity, repeats=repeats)
        return cast(Measurement | Failure, outcome)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Where a study stood after `n` evaluations; `memory` is the resident set in MiB."""

    n: int
    wall_s: float
    seconds: Seconds
    memory: float
    front: int


class Onlooker:
    """Notes where the study stands at certain numbers of evaluations."""

    def __init__(self, at: Sequence[int], watch: Stopwatch) -> None:
        self._at, self._watch = set(at), watch
        self._began = time.perf_counter()
        self.marks: list[Mark] = []

    def on_phase(self, phase: Phase, total: int | None = None) -> None:
        """Phases are all the same here."""

    def on_fewer_prompts(self, n_calibration: int, n_held_out: int) -> None:
        """The plan names its prompts."""

    def on_exhausted(self) -> None:
        """A search on random masks never is."""

    def on_candidate(self, event: CandidateEvent) -> None:
        """Take a mark."""
        if event.number + 1 in self._at and event.phase is not Phase.VERIFICATION:
            gc.collect()
            self.marks.append(
                Mark(
                    n=event.number + 1,
                    wall_s=time.perf_counter() - self._began,
                    seconds=self._watch.seconds.copy(),
                    memory=resident_set() / MEBIBYTE,
                    front=event.front_size,
                )
            )


def resident_set() -> int:
    """Bytes of this process in memory (Linux, proc(5))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status names no VmRSS")


def study(bench: Benchmark, family: str, marks: Sequence[int]) -> None:
    """One study to its end; figures per evaluation are those since the mark before."""
    watch, clock, evaluator = Stopwatch(), SimulatedClock(), TimedEvaluator()
    evaluator.watch = watch

    def make_timed(name: str, context: SearchContext, seed: int = 0) -> Searcher:
        return TimedSearcher(make_searcher(name, context, seed), watch)

    plan = StudyPlan(
        name="scale",
        family=family,
        calibration=prompts("calibration", 0),
        held_out=prompts("held_out", 1000),
        budget=Budget(evaluations=marks[-1]),
        objectives=("macs", "deviation"),
        seed=bench.arguments.seed,
    )
    with (
        patch("autotune.search.exploration.make_searcher", make_timed),
        tempfile.TemporaryDirectory() as folder,
        Database.open(f"{folder}/scale.db") as database,
    ):
        database.create_study(
            plan.name,
            settings={"objectives": list(plan.objectives), "constraints": []},
            provenance={},
            condition=evaluator.condition,
            inventory=evaluator.inventory,
        )
        pool = SimulatedPool(
            evaluator, clock, N_WORKERS, pace=seeded_pace(PACE_SPREAD, plan.seed), granularity_s=GRANULARITY_S
        )
        onlooker = Onlooker(marks, watch)
        StudyLoop(plan, pool, cast(Database, TimedDatabase(database, watch)), clock, progress=onlooker).run()
        end_s = time.perf_counter() - onlooker._began - onlooker.marks[-1].wall_s
        size = sum(path.stat().st_size for path in Path(folder).iterdir()) / MEBIBYTE
    report(bench, family, onlooker.marks)
    bench.row("verification and the rest, s", end_s, family=family)
    bench.row("size of the database, MiB", size, family=family)


def prompts(name: str, first_seed: int) -> Fidelity:
    seeds = range(first_seed, first_seed + N_PROMPTS)
    return Fidelity(name=name, prompts=tuple(f"prompt {seed}" for seed in seeds), seeds=tuple(seeds))


def report(bench: Benchmark, family: str, marks: Sequence[Mark]) -> None:
    """The rows and targets of a study."""
    start = Mark(n=0, wall_s=0.0, seconds=defaultdict(float), memory=0.0, front=0)
    for before, mark in itertools.pairwise([start, *marks]):
        n = mark.n - before.n
        spent = {name: 1000.0 * (mark.seconds[name] - before.seconds[name]) / n for name in TIMED}
        all_ms = 1000.0 * (mark.wall_s - before.wall_s) / n - spent[FORMULA]
        figures = {
            "wall time so far, formula left out, s": mark.wall_s - mark.seconds[FORMULA],
            "driver per evaluation, ms": all_ms,
            **{f"of it in {name}, ms": spent[name] for name in TIMED if name != FORMULA},
            "of it elsewhere, ms": all_ms - sum(spent[name] for name in TIMED if name != FORMULA),
            "formula per evaluation, not in it, ms": spent[FORMULA],
            "resident memory, MiB": mark.memory,
            "front": mark.front,
        }
        for figure, value in figures.items():
            bench.row(figure, value, family=family, evaluations=mark.n)
    first, last = marks[0], marks[-1]
    per_evaluation = 1000.0 * (last.seconds["ask"] + last.seconds["tell"]) / last.n
    bench.target(f"ask and tell per evaluation, {family}, ms", per_evaluation, None, at_most=5.0)
    growth = last.memory - first.memory
    bench.row("memory per evaluation, bytes", growth * MEBIBYTE / (last.n - first.n), family=family)
    span = f"memory growth from {first.n} to {last.n} evaluations, {family}"
    bench.target(f"{span}, MiB", growth, None, at_most=100.0)
    bench.target(f"{span}, %", 100.0 * growth / first.memory, None, at_most=10.0)


def growth(bench: Benchmark, name: str, sizes: Sequence[int], seconds: Callable[[int], float]) -> None:
    """Time per point at each size, and the exponent of the total time: the slope of its logarithm."""
    totals = [seconds(n) for n in sizes]
    for n, total in zip(sizes, totals, strict=True):
        bench.row("time per point, us", 1e6 * total / n, what=name, points=n)
    exponent = float(np.polyfit(np.log(sizes), np.log(totals), 1)[0])
    bench.target(f"exponent of {name}", exponent, None, at_most=1.5)


if __name__ == "__main__":
    main()
