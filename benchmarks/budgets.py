"""Whether a budget of wall time is kept: `autotune run --model mini-flux --budget B`, by family and budget.

Each study is a process of its own, as a user starts it, with an empty database; the time is that of the process, from
start to exit, so Python's start, the model's loading, the references, and the report count too. The figure is this time
over the budget. It should lie within 5 % of 1; it may lie below where a family has nothing more to try.

Prints a table and takes `--quick` (a minute of three families), `--seed`, `--device`, `--json FILE`; `--families` and
`--budgets` (seconds) measure a part, `--jobs N` runs so many studies at a time, as on a machine that others use too.
"""

import argparse
import subprocess
import sys
import tempfile
import time

from harness import Benchmark, parse_arguments

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
    bench.target("shortest study over its budget", min(ratios), None, at_least=1.0 - TOLERANCE)
    bench.finish()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--families", nargs="+", help="search families")
    parser.add_argument("--budgets", nargs="+", type=int, help="seconds")
    parser.add_argument("--jobs", type=int, default=1, help="studies at a time")


def measure(bench: Benchmark, family: str, budget_s: int) -> None:
    """One study."""
    ratio = run_s(bench.arguments, family, budget_s) / budget_s
    bench.row("time of the process over the budget", ratio, family=family, budget_s=budget_s)


def run_s(arguments: argparse.Namespace, family: str, budget_s: int) -> float:
    """Seconds of a study's process."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-P", "-m", "autotune.cli.main", "run", "--model", MODEL]
        words += ["--family", family, "--quiet"]
        words += ["--budget", f"{budget_s}s", "--seed", str(arguments.seed), "--device", arguments.device]
        words += ["--storage", f"{folder}/study.db", "--out", f"{folder}/out"]
        began = time.monotonic()
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - began
    if done.returncode != 0:
        raise SystemExit(f"{family}: exit {done.returncode}\n{done.stderr}")
    return seconds


if __name__ == "__main__":
    main()
