"""Which search of cache plans gets how far in how much time, replayed on a recorded table.

The protocol is that of autotuning_methodology (Willemsen et al. 2024): random search is the baseline; a contestant is
judged by when it reaches given shares of the best hypervolume that any of them found, and by a score: its gain over
random search at the same time, as a share of what there is to gain, averaged over the budget; 0 is random search, 1 the
best at once. Time is what the measurements would have taken, on a simulated clock; a contestant's own thinking is left
out, and stated. All see MACs and the deviation on all prompts of the table, and count the hypervolume of full
results. `search_rivals.py` says what each searches.

Intervals are 95 % bootstrap intervals over seeds. Prints a table and takes `--quick`, `--seed`, `--json FILE`,
`--jobs`, `--figure FILE`, `--table FILE`; with `--keep FOLDER` a run that was cut off goes on with the next seed;
`--device` has no effect. Needs pymoo: `pip install pymoo`.
"""

import argparse
import json
import math
import statistics
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
from harness import ROOT, Benchmark, parse_arguments
from matplotlib.figure import Figure
from numpy.typing import NDArray
from search_rivals import BASELINE, ENTRIES, Entry

from autotune.evaluators.recorded import RecordedEvaluator
from autotune.evaluators.schedule_features import ENCODINGS
from autotune.search.archive import ParetoArchive
from autotune.search.fewer_steps import FAMILY as FEWER_STEPS
from autotune.search.ladder import Ladder, merged
from autotune.search.searcher import Proposal, Result, SearchContext
from autotune.spaces.atomic_write import write_atomically
from autotune.spaces.evaluation import Measurement
from autotune.spaces.pareto import front_hypervolume
from autotune.spaces.recorded_table import RecordedTable, read_table
from autotune.spaces.schedule import Schedule
from autotune.spaces.statistics import bootstrap_interval

Array = NDArray[np.float64]

TABLE = ROOT / "benchmarks" / "tables" / "mini-flux.table.gz"
OBJECTIVES = ("macs", "deviation")
SHARES = (0.9, 0.95, 0.98, 0.99)
N_TIMES = 60
MAX_REPEATS = 1000
"""Known schedules in a row after which a contestant counts as exhausted."""

CURVE = "hypervolume over time"
TRIED = "schedules tried"
THINKING = "own seconds per schedule"


def main() -> None:
    arguments = parse_arguments(__doc__, add_options)
    bench = Benchmark("search", arguments)
    n, n_seeds = (60, 5) if arguments.quick else (250, 10)
    table = read_table(arguments.table)
    evaluator = replayed(arguments.table)
    for kind in ENCODINGS:
        accuracy = evaluator.accuracy(kind)
        if accuracy is not None:
            bench.row("surrogate's tau on held-out rows, deviation", accuracy.tau, kind=kind)
            bench.row("surrogate's R2 on held-out rows, log deviation", accuracy.r2, kind=kind)
            bench.row("surrogate's error on held-out rows, log deviation", accuracy.rmse, kind=kind)
            bench.target(f"tau of the surrogate, {kind}", accuracy.tau, None, at_least=0.85)
    bench.row("hypervolume of the recorded fewer-steps", rival_hypervolume(table))
    seeds = range(arguments.seed, arguments.seed + n_seeds)
    parts = [(arguments.table, entry.name, seed, n) for entry in ENTRIES for seed in seeds]
    bench.run(measure, parts, jobs=arguments.jobs)
    report(bench, n, default_s(evaluator), rival_hypervolume(table))
    bench.finish()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--figure", type=Path, help="PNG for the curves")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder that keeps the curves, to go on from")


def rival_hypervolume(table: RecordedTable) -> float:
    """Of fewer steps with known solvers, which is no contestant: it searches no cache plans."""
    rows = [row.outcome for row in table.rows if row.family == FEWER_STEPS]
    measured = [outcome for outcome in rows if isinstance(outcome, Measurement)]
    return front_hypervolume([m.relative_macs for m in measured], [m.mean("deviation") for m in measured])


@lru_cache(maxsize=1)
def replayed(path: Path) -> RecordedEvaluator:
    """The evaluator of a table, whose surrogate is fitted once per process."""
    return RecordedEvaluator(read_table(path))


def default_s(evaluator: RecordedEvaluator) -> float:
    """Simulated seconds of the default run on all prompts."""
    return scored(evaluator, Schedule(n_steps=evaluator.condition.n_steps), 0, len(evaluator.fidelity.prompts)).wall_s


def scored(evaluator: RecordedEvaluator, schedule: Schedule, start: int, stop: int) -> Measurement:
    """A schedule on some of the prompts."""
    fidelity = evaluator.fidelity.first(stop)
    outcome = evaluator.score(schedule, fidelity.after(start) if start else fidelity)
    assert isinstance(outcome, Measurement), outcome  # all contestants search cache plans, which can be predicted
    return outcome


def measure(bench: Benchmark, path: Path, name: str, seed: int, n: int) -> None:
    """Run one contestant with one seed for the time of `n` default runs, or read what was kept of that."""
    folder: Path | None = bench.arguments.keep
    kept = None if folder is None else folder / f"{name.replace(' ', '-')}-{seed}-{n}.json"
    if kept is not None and kept.exists():
        bench.rows += json.loads(kept.read_text())
        return
    fresh = Benchmark("search", bench.arguments)
    run_race(fresh, path, name, seed, n)
    bench.rows += fresh.rows
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, json.dumps(fresh.rows).encode())


def run_race(bench: Benchmark, path: Path, name: str, seed: int, n: int) -> None:
    """Run one contestant with one seed for the time of `n` default runs."""
    evaluator = replayed(path)
    (entry,) = (entry for entry in ENTRIES if entry.name == name)
    race = Race(entry, evaluator, seed)
    budget_s = n * default_s(evaluator)
    race.run(budget_s)
    curve = race.values_at(np.linspace(0.0, budget_s, N_TIMES))
    bench.rows.append({"search": name, "seed": seed, "figure": CURVE, "value": curve.tolist(), "interval": None})
    bench.row("hypervolume at the end", float(curve[-1]), search=name, seed=seed)
    bench.row(TRIED, race.n_tried, search=name, seed=seed)
    bench.row(THINKING, race.thinking_s / race.n_tried, search=name, seed=seed)


class Race:
    """One contestant on one table: asks, measures on the simulated clock, tells, and notes the hypervolume."""

    def __init__(self, entry: Entry, evaluator: RecordedEvaluator, seed: int) -> None:
        self._evaluator = evaluator
        context = SearchContext(
            condition=evaluator.condition,
            inventory=evaluator.inventory,
            own_timesteps=evaluator.own_timesteps,
            objectives=OBJECTIVES,
        )
        self._contestant = entry.make(context, seed)
        self._max_tried = math.inf if entry.max_tried is None else entry.max_tried
        self._n_prompts = len(evaluator.fidelity.prompts)
        self._ladder = Ladder(self._n_prompts, OBJECTIVES, ())
        self._rungs = self._ladder.rungs if entry.has_ladder else (self._n_prompts,)
        self._archive = ParetoArchive(OBJECTIVES)
        self._known: dict[str, Result] = {}
        self._now_s = 0.0
        self._times_s: list[float] = []
        self._values: list[float] = []
        self.thinking_s = 0.0

    @property
    def n_tried(self) -> int:
        """Schedules that were measured."""
        return len(self._known)

    def run(self, budget_s: float) -> None:
        """Race until the time is used, or the contestant's schedules, or nothing new is asked for.

        The default run comes first.
        """
        default = Schedule(n_steps=self._evaluator.condition.n_steps)
        self._contestant.tell(self._measured(Proposal(schedule=default, family="baseline", label="")))
        n_repeats = 0
        while self._now_s < budget_s and n_repeats < MAX_REPEATS and self.n_tried < self._max_tried:
            began = time.perf_counter()
            proposal = self._contestant.ask()
            self.thinking_s += time.perf_counter() - began
            if proposal is None:
                return
            known = self._known.get(proposal.schedule_hash)
            n_repeats = 0 if known is None else n_repeats + 1
            result = known or self._measured(proposal)
            began = time.perf_counter()
            self._contestant.tell(result)
            self.thinking_s += time.perf_counter() - began

    def values_at(self, times_s: Array) -> Array:
        """The hypervolume at given times; 0 before the first result."""
        return np.concatenate([[0.0], self._values])[np.searchsorted(self._times_s, times_s, side="right")]

    def _measured(self, proposal: Proposal) -> Result:
        """Measure a new schedule, rung by rung; what the contestant is told of it."""
        rung = self._rungs[0]
        outcome = scored(self._evaluator, proposal.schedule, 0, rung)
        while rung < self._n_prompts and (higher := self._ladder.judge(outcome)) is not None:
            outcome = merged(outcome, scored(self._evaluator, proposal.schedule, rung, higher))
            rung = higher
        self._now_s += outcome.wall_s
        if rung == self._n_prompts:
            self._ladder.note(outcome)
            self._archive.add(Result(proposal=proposal, outcome=outcome))
            self._times_s.append(self._now_s)
            self._values.append(self._archive.hypervolume)
        self._known[proposal.schedule_hash] = Result(proposal=proposal, outcome=self._ladder.estimate(outcome))
        return self._known[proposal.schedule_hash]


def report(bench: Benchmark, n: int, default_s: float, rival: float) -> None:
    """Scores and times of all contestants against random search, and the figure."""
    curves = {entry.name: _curves(bench, entry.name) for entry in ENTRIES}
    times = np.linspace(0.0, n * default_s, N_TIMES)
    best = max(float(curve.max()) for curve in curves.values())
    floor = curves[BASELINE].mean(axis=0)
    bench.row("best hypervolume found", best)
    for name, curve in curves.items():
        gains = ((curve - floor) / (best - floor))[:, 1:].mean(axis=1)
        bench.row("score over random search", float(gains.mean()), bootstrap_interval(gains.tolist()), search=name)
        ends = curve[:, -1].tolist()
        bench.row("hypervolume at the end, mean", statistics.fmean(ends), bootstrap_interval(ends), search=name)
        for share in SHARES:
            reached = [
                float(times[np.argmax(row >= share * best)]) if row[-1] >= share * best else np.inf for row in curve
            ]
            took = [seconds for seconds in reached if np.isfinite(seconds)]
            figure = f"default runs' time to {share:.0%} of the best"
            bench.row(f"seeds that reach {share:.0%} of the best", len(took), search=name)
            if len(took) == len(reached):
                runs = [seconds / default_s for seconds in took]
                bench.row(figure, statistics.fmean(runs), bootstrap_interval(runs), search=name)
    if bench.arguments.figure is not None:
        draw(curves, times / default_s, rival).savefig(bench.arguments.figure, dpi=120)


def _curves(bench: Benchmark, name: str) -> Array:
    """Hypervolume over time (n_seeds, N_TIMES) of a contestant."""
    return np.array([row["value"] for row in bench.rows if row["figure"] == CURVE and row["search"] == name])


def draw(curves: dict[str, Array], times: Array, rival: float) -> Figure:
    """Mean hypervolume over time, with the band of its bootstrap interval over seeds."""
    figure = Figure(figsize=(9.0, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        (line,) = axes.plot(times, curve.mean(axis=0), label=name)
        band = np.array([bootstrap_interval(column.tolist()) for column in curve.T])
        axes.fill_between(times, band[:, 0], band[:, 1], color=line.get_color(), alpha=0.2, linewidth=0.0)
    axes.axhline(rival, color="black", linestyle=":", label="fewer steps, all recorded")
    axes.set(xlabel="simulated time, in default runs on all prompts", ylabel="hypervolume (MACs, deviation)")
    low = min(float(curve[:, len(times) // 10].mean()) for curve in curves.values())
    axes.set_ylim(bottom=0.9 * low)
    figure.legend(loc="outside right upper")
    return figure


if __name__ == "__main__":
    main()
