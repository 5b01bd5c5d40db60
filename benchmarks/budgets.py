"""Whether a budget of wall time is kept: `autotune run --model mini-flux --budget B`, by family and budget.

Each study is a process of its own, as a user starts it, with an empty database; the time is that of the process, from
start to exit, so Python's start, the model's loading, the references, and the report count too. The figure is this time
over the budget. It should lie within 5 % of 1; it may lie below where a study says that its family has nothing more to
try, which the row tells.

Prints a table and takes `--quick` (a minute of three families), `--seed`, `--device`, `--json FILE`; `--families` and
`--budgets` (seconds) measure a part, `--jobs N` runs so many studies at a time, as on a machine that others use too.
"""

import argparse
import subprocess
import sys
import tempfile
import time

from harness import Benchmark, parse_arguments

from autotune.cli.progress import EXHAUSTED
from autotune.search.families import FAMILIES

MODEL = "mini-flux"
TOLERANCE = 0.05
NEEDS_FILES = "given"
"""The one family that tries nothing of its own."""

LONGER = {300: ("joint", "ecad", "s3"), 1200: ("joint",)}
"""Families whose longer budgets are tried too: the ones with the most to plan, trace and fit."""

QUICK = ("joint", "s3", "fewer-steps")


def main() -> None:
    arguments = parse_arguments(__doc__, add_options)
    bench = Benchmark("budgets", arguments)
    everything = [name for name in FAMILIES if name != NEEDS_FILES]
    plan = {60: QUICK} if arguments.quick else {60: everything, **LONGER}
    if arguments.families or arguments.budgets:
        plan = dict.fromkeys(arguments.budgets or plan, arguments.families or everything)
    parts = [(family, budget_s) for budget_s, families in plan.items() for family in families]
    bench.run(measure, parts, arguments.jobs)
    ratios = [float(str(row["value"])) for row in bench.rows]
    bench.target("longest study over its budget", max(ratios), None, at_most=1.0 + TOLERANCE)
    spent = [float(str(row["value"])) for row in bench.rows if not row["exhausted"]]
    bench.target("shortest study over its budget", min(spent, default=1.0), None, at_least=1.0 - TOLERANCE)
    bench.finish()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--families", nargs="+", help="search families")
    parser.add_argument("--budgets", nargs="+", type=int, help="seconds")
    parser.add_argument("--jobs", type=int, default=1, help="studies at a time")


def measure(bench: Benchmark, family: str, budget_s: int) -> None:
    """One study."""
    seconds, is_exhausted = run(bench.arguments, family, budget_s)
    figure = "time of the process over the budget"
    bench.row(figure, seconds / budget_s, family=family, budget_s=budget_s, exhausted=is_exhausted)


def run(arguments: argparse.Namespace, family: str, budget_s: int) -> tuple[float, bool]:
    """Seconds of a study's process, and whether its family had nothing more to try."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-P", "-m", "autotune.cli.main", "run", "--model", MODEL]
        words += ["--family", family]
        words += ["--budget", f"{budget_s}s", "--seed", str(arguments.seed), "--device", arguments.device]
        words += ["--storage", f"{folder}/study.db", "--out", f"{folder}/out"]
        began = time.monotonic()
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - began
    if done.returncode != 0:
        raise SystemExit(f"{family}: exit {done.returncode}\n{done.stderr}")
    return seconds, EXHAUSTED in done.stderr


if __name__ == "__main__":
    main()
