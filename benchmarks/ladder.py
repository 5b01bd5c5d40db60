"""What the fidelity ladder saves: network calls to the hypervolume that a search on all prompts ends with.

For each seed, `ecad` runs twice on a recorded table, in the real study loop: with every candidate measured on all
calibration prompts, and with the ladder. Both count the same hypervolume, of MACs and deviation on all calibration
prompts; the ladder's front holds no member that was measured on fewer.

The target's ratio is that of the network calls after which the mean hypervolume over the seeds first is what that of
the full searches is at their end; its interval comes from draws of seeds. Per seed the ratio is stated too, but the two
searches of a seed part after the first candidate that the ladder stops, and end by luck at one place or another: it
says more of that than of the ladder. Five seeds are few, too: of twenty others, four fives gave .17 to .24. Then the
fronts on held-out prompts.

Prints a table and takes `--quick`, `--seed`, `--json FILE`, `--jobs`, `--table FILE`; `--device` has no effect.
"""

import argparse
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from harness import ROOT, Benchmark, parse_arguments
from numpy.typing import NDArray

from autotune.evaluators.pool import InProcessPool
from autotune.evaluators.recorded import RecordedEvaluator
from autotune.search.budget import Budget
from autotune.search.clock import SimulatedClock
from autotune.search.ladder import LadderSettings
from autotune.search.progress import CandidateEvent, Phase
from autotune.search.study import StudyLoop
from autotune.search.study_plan import StudyPlan
from autotune.spaces.evaluation import Failure, Fidelity, Measurement
from autotune.spaces.front import calibration_front
from autotune.spaces.pareto import front_hypervolume
from autotune.spaces.recorded_table import read_table
from autotune.spaces.schedule import Schedule
from autotune.spaces.study_record import StudyRecord
from autotune.storage.database import Database

Array = NDArray[np.float64]

TABLE = ROOT / "benchmarks" / "tables" / "mini-flux.table.gz"
N_HELD_OUT = 12
N_SEEDS = 20
N_TIMES = 201
N_DRAWS = 2000
TARGET = 1 / 3


def main() -> None:
    arguments = parse_arguments(__doc__, add_options)
    bench = Benchmark("ladder", arguments)
    seeds = range(arguments.seed, arguments.seed + N_SEEDS)
    n = 100 if arguments.quick else 400
    bench.run(compare, [(arguments.table, seed, n) for seed in seeds], jobs=arguments.jobs)
    full, ladder = (np.array([row["value"] for row in bench.rows if row["figure"] == name]) for name in (FULL, LADDER))
    rng = np.random.default_rng(arguments.seed)
    bench.row("network calls, ladder over full, of the first five seeds", share_needed(full[:5], ladder[:5]))
    drawn = [share_needed(full[i], ladder[j]) for i, j in rng.integers(N_SEEDS, size=(N_DRAWS, 2, N_SEEDS))]
    interval = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf").tolist()
    ratio = share_needed(full, ladder)
    bench.target("network calls with the ladder over those without", ratio, interval, at_most=TARGET)
    bench.finish()


def share_needed(full: Array, ladder: Array) -> float:
    """Calls with the ladder over those without, from curves (n_seeds, `N_TIMES`) over the same budget."""
    goal = float(full.mean(axis=0)[-1])
    with_all, with_ladder = (curves.mean(axis=0) >= goal for curves in (full, ladder))
    return float(np.argmax(with_ladder) / np.argmax(with_all)) if with_ladder.any() else float("inf")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--jobs", type=int, default=1)


RATIO = "network calls, ladder over full"
FULL, LADDER = "hypervolume over network calls, full", "hypervolume over network calls, ladder"


@dataclass
class Course:
    """An onlooker that keeps how the hypervolume grew with the network calls, and where candidates ended."""

    budget: int
    points: list[tuple[float, float]] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def on_phase(self, phase: Phase, total: int | None = None) -> None:
        """Nothing to keep."""

    def on_fewer_prompts(self, n_calibration: int, n_held_out: int) -> None:
        """Nothing to keep."""

    def on_exhausted(self) -> None:
        """Nothing to keep."""

    def on_candidate(self, event: CandidateEvent) -> None:
        """Keep what the search has reached so far."""
        if event.phase is not Phase.VERIFICATION:
            self.points.append((event.used_fraction * self.budget, event.hypervolume))
            self.ends.append(event.outcome.n_prompts if isinstance(event.outcome, Measurement) else 0)

    @property
    def hypervolume(self) -> float:
        """At the end."""
        return self.points[-1][1]

    @property
    def curve(self) -> list[float]:
        """The hypervolume at `N_TIMES` even shares of the budget, from 0 on."""
        calls, values = zip((0.0, 0.0), *self.points, strict=True)
        at = np.searchsorted(calls, np.linspace(0.0, self.budget, N_TIMES), side="right") - 1
        return [float(values[i]) for i in at]

    def calls_to(self, hypervolume: float) -> float:
        """Network calls at which it was first reached; infinite if it was not."""
        return next((calls for calls, value in self.points if value >= hypervolume), float("inf"))


def compare(bench: Benchmark, path: Path, seed: int, n: int) -> None:
    """One seed, with and without the ladder, on a budget of `n` full evaluations of the default run."""
    replay = Replay(path)
    budget = n * replay.n_calls * len(replay.calibration.prompts)
    full, ladder = Course(budget), Course(budget)
    with_all = LadderSettings(first=len(replay.calibration.prompts))
    record = replay.run(seed, full, with_all)
    ladder_record = replay.run(seed, ladder, LadderSettings())
    goal_calls = full.calls_to(full.hypervolume), ladder.calls_to(full.hypervolume)
    for name, course in ((FULL, full), (LADDER, ladder)):
        bench.rows.append({"seed": seed, "figure": name, "value": course.curve, "interval": None})
    bench.row("hypervolume of the full search", full.hypervolume, seed=seed)
    bench.row("hypervolume with the ladder", ladder.hypervolume, seed=seed)
    bench.row("network calls to it, full", goal_calls[0], seed=seed)
    bench.row("network calls to it, ladder", goal_calls[1], seed=seed)
    bench.row(RATIO, goal_calls[1] / goal_calls[0], seed=seed)
    bench.row("candidates, full", len(full.points), seed=seed)
    bench.row("candidates, ladder", len(ladder.points), seed=seed)
    for rung in sorted(set(ladder.ends)):
        share = ladder.ends.count(rung) / len(ladder.ends)
        bench.row(f"share of candidates that ended on {rung} prompts", share, seed=seed)
    bench.row("held-out hypervolume, full", replay.held_out_hypervolume(record), seed=seed)
    bench.row("held-out hypervolume, ladder", replay.held_out_hypervolume(ladder_record), seed=seed)


class Replay:
    """Studies on a recorded table, its last prompts held out."""

    def __init__(self, path: Path) -> None:
        self._clock = SimulatedClock()
        table = read_table(path)
        self._evaluator = RecordedEvaluator(table, clock=self._clock)
        n = len(table.fidelity.prompts) - N_HELD_OUT
        after = table.fidelity.after(n)
        self.calibration = table.fidelity.first(n)
        self._held_out = Fidelity(name="held_out", prompts=after.prompts, seeds=after.seeds)
        self.n_calls = len(self._evaluator.own_timesteps(table.condition.n_steps))

    def run(self, seed: int, course: Course, ladder: LadderSettings) -> StudyRecord:
        """A study of `ecad` with as little of `fewer-steps` as can be: one candidate."""
        plan = StudyPlan(
            name="replay",
            family="ecad",
            calibration=self.calibration,
            held_out=self._held_out,
            budget=Budget(network_calls=course.budget),
            objectives=("macs", "deviation"),
            seed=seed,
            rival_share=1e-9,
            policy_share=0.0,
            ladder=ladder,
        )
        evaluator, clock = self._evaluator, self._clock
        with tempfile.TemporaryDirectory() as folder, Database.open(f"{folder}/replay.db") as database:
            database.create_study(
                plan.name,
                settings={"objectives": list(plan.objectives)},
                provenance={},
                condition=evaluator.condition,
                inventory=evaluator.inventory,
            )
            pool = InProcessPool(evaluator, clock.now)
            StudyLoop(plan, pool, database, clock, progress=course).run()
            return database.load_study(plan.name)

    def score(self, schedule: Schedule, fidelity: Fidelity) -> Measurement | Failure:
        """What the table says of a schedule."""
        return self._evaluator.score(schedule, fidelity)

    def held_out_hypervolume(self, record: StudyRecord) -> float:
        """Of the front's members, all measured on the held-out prompts."""
        scores = [self.score(c.schedule, self._held_out) for c in calibration_front(record)]
        measured = [m for m in scores if isinstance(m, Measurement)]
        return front_hypervolume([m.relative_macs for m in measured], [m.mean("deviation") for m in measured])


if __name__ == "__main__":
    main()
