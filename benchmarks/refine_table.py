"""How far a recorded table may be trusted where searches on it lead, and a table that may be trusted further.

A search finds what a surrogate overrates. So, round by round: `ecad` is replayed on the table with several seeds, the
fronts' members that are predicted are measured by the model on all prompts, and become rows. A round shows the
hypervolume of its fronts as predicted and as measured, and by how much the predictions were off.

Prints a table and takes `--quick`, `--seed`, `--json FILE`, `--table FILE`, `--rounds`, `--members`; `--output FILE`
gets the refined table after each round.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from harness import Benchmark, parse_arguments
from ladder import TABLE, Course, Replay

from autotune.evaluators.load import load_model
from autotune.evaluators.worker import Worker
from autotune.search.ladder import LadderSettings
from autotune.spaces.errors import UsageError
from autotune.spaces.evaluation import Measurement
from autotune.spaces.front import calibration_front
from autotune.spaces.pareto import front_hypervolume
from autotune.spaces.recorded_table import RecordedRow, RecordedTable, read_table, save_table
from autotune.spaces.schedule import schedule_hash

MODEL = "mini-flux"
N_SEEDS = 4
FIRST_SEED = 1000
"""Apart from the seeds of the benchmarks that replay the table."""


def main() -> None:
    arguments = parse_arguments(__doc__, add_options)
    bench = Benchmark("refine_table", arguments)
    worker = Worker(load_model(MODEL, device=arguments.device))
    path: Path = arguments.table
    if worker.condition.hash != read_table(path).condition.hash:
        raise UsageError(f"{path} was recorded under another condition than {MODEL}'s; record it anew")
    for number in range(1 if arguments.quick else arguments.rounds):
        table = read_table(path)
        rows = predicted_front(bench, path, table, number)
        measured = tuple(measure(worker, table, row) for row in rows)
        compare(bench, rows, measured, number)
        if arguments.output is not None:
            path = arguments.output
            save_table(replace(table, rows=table.rows + measured), path)
    bench.finish()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--output", type=Path, help="the refined table")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--members", type=int, default=50, help="schedules to measure per round")


def predicted_front(bench: Benchmark, path: Path, table: RecordedTable, number: int) -> list[RecordedRow]:
    """The fronts' members of replays that the table does not hold, at most `--members`, as rows of predictions."""
    arguments = bench.arguments
    replay = Replay(path)
    known = {schedule_hash(row.schedule) for row in table.rows}
    found: dict[str, RecordedRow] = {}
    first = FIRST_SEED + arguments.seed + number * N_SEEDS
    for seed in range(first, first + (1 if arguments.quick else N_SEEDS)):
        budget = (50 if arguments.quick else 400) * replay.n_calls * len(replay.calibration.prompts)
        course = Course(budget)
        record = replay.run(seed, course, LadderSettings())
        bench.row("hypervolume of a replay", course.hypervolume, round=number, seed=seed)
        for candidate in calibration_front(record):
            outcome = replay.score(candidate.schedule, table.fidelity)
            label = f"{candidate.label}, round {number} of replays"
            row = RecordedRow(family="ecad", label=label, schedule=candidate.schedule, outcome=outcome)
            if schedule_hash(candidate.schedule) not in known:
                found.setdefault(schedule_hash(candidate.schedule), row)
    rows = list(found.values())
    chosen = np.random.default_rng(first).permutation(len(rows))[: 3 if arguments.quick else arguments.members]
    return [rows[i] for i in sorted(chosen)]


def measure(worker: Worker, table: RecordedTable, row: RecordedRow) -> RecordedRow:
    """The row as the model measures it."""
    return replace(row, outcome=worker.score(row.schedule, table.fidelity))


def compare(bench: Benchmark, predicted: list[RecordedRow], measured: tuple[RecordedRow, ...], number: int) -> None:
    """What the round's schedules were predicted to be, and what they are."""
    pairs = [
        (before.outcome, after.outcome)
        for before, after in zip(predicted, measured, strict=True)
        if isinstance(before.outcome, Measurement) and isinstance(after.outcome, Measurement)
    ]
    costs = [after.relative_macs for _, after in pairs]
    errors = np.array([[m.mean("deviation") for m in pair] for pair in pairs]).reshape(-1, 2)
    bench.row("schedules measured", len(pairs), round=number)
    for what, column in zip(("predicted", "measured"), errors.T, strict=True):
        bench.row(f"their hypervolume, {what}", front_hypervolume(costs, column.tolist()), round=number)
    if len(pairs):
        ratios = errors[:, 1] / errors[:, 0]
        quartiles = np.quantile(ratios, [0.25, 0.75]).tolist()
        bench.row("measured deviation over predicted, median", float(np.median(ratios)), quartiles, round=number)


if __name__ == "__main__":
    main()
