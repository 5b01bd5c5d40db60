"""Benchmarks are no tests, but they must start, and their machinery must keep what it is given."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = sorted(path for path in BENCHMARKS.glob("*.py") if "from harness import" in path.read_text())


def run(script: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A script as a user runs it, who has its folder on the module path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return subprocess.run(
        [sys.executable, script, *words], capture_output=True, text=True, check=False, env=environment
    )


HELP = """
import contextlib, runpy, sys
sys.path.insert(0, {folder!r})
sys.argv[1:] = ["--help"]
for script in {scripts!r}:
    print("====", script)
    with contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
"""


def test_all_start(tmp_path: Path) -> None:
    """In one process, since what they import takes longest."""
    starter = tmp_path / "start.py"
    starter.write_text(HELP.format(folder=str(BENCHMARKS), scripts=[str(path) for path in SCRIPTS]))
    result = run(starter)
    assert result.returncode == 0, result.stderr
    helps = result.stdout.split("==== ")[1:]
    assert [text.splitlines()[0] for text in helps] == [str(path) for path in SCRIPTS]
    for text in helps:
        assert {"--quick", "--seed", "--device", "--json"} <= set(text.replace(",", " ").split()), text


PARTS = """
import argparse, pathlib, sys
sys.path.insert(0, {folder!r})
from harness import Benchmark

def measure(bench, part):
    bench.row("square", part * part, part=part)
    bench.target("small", part, None, at_most=2)

if __name__ == "__main__":
    bench = Benchmark("squares", argparse.Namespace(json=pathlib.Path({out!r})))
    bench.run(measure, [(part,) for part in range(4)], {jobs})
    bench.finish()
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_parts_are_kept_in_order_however_many_run_at_a_time(jobs: int, tmp_path: Path) -> None:
    script = tmp_path / "squares.py"
    script.write_text(PARTS.format(folder=str(BENCHMARKS), out=str(tmp_path / "out.json"), jobs=jobs))
    result = run(script)
    assert result.returncode == 0, result.stderr
    data = json.loads((tmp_path / "out.json").read_text())
    assert [row["value"] for row in data["rows"]] == [0, 1, 4, 9]
    assert [target["met"] for target in data["targets"]] == [True, True, True, False]


CUT_OFF = """
import argparse, os, pathlib, sys
sys.path.insert(0, {folder!r})
import harness

harness.SAVE_EVERY = 0.0
bench = harness.Benchmark("squares", argparse.Namespace(json=pathlib.Path({out!r})))
bench.row("square", 4.0, part=2)
os._exit(1)
"""


def test_a_run_that_is_cut_off_leaves_what_it_has_measured(tmp_path: Path) -> None:
    script = tmp_path / "squares.py"
    script.write_text(CUT_OFF.format(folder=str(BENCHMARKS), out=str(tmp_path / "out.json")))
    assert run(script).returncode == 1
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["incomplete"]
    assert [row["value"] for row in data["rows"]] == [4.0]


@pytest.mark.parametrize("path", sorted((BENCHMARKS / "results").glob("*.json")), ids=lambda path: path.stem)
def test_committed_results_have_the_form_that_is_promised(path: Path) -> None:
    data = json.loads(path.read_text())
    assert {"benchmark", "commit", "hardware", "versions", "seconds", "rows", "targets"} <= set(data)
    assert all({"figure", "value", "interval"} <= set(row) for row in data["rows"])
    assert all(set(target) == {"name", "target", "value", "interval", "met"} for target in data["targets"])


LOCKSTEP = """
import functools, sys, time, types
sys.path.insert(0, {folder!r})
from lockstep import lockstep_seconds

order = []

def run(name, n_steps, turns):
    scheduler = types.SimpleNamespace(step=lambda: order.append(name))
    began = time.perf_counter()
    with turns.watching(scheduler):
        for _ in range(n_steps):
            time.sleep(0.05)
            scheduler.step()
    return time.perf_counter() - began

seconds = lockstep_seconds([functools.partial(run, "a", 6), functools.partial(run, "b", 3)], [6, 3], {at_once})
print("".join(order), *seconds)
"""


@pytest.mark.parametrize(("at_once", "expected"), [(1, "abaabaaba"), (3, "aaabbbaaa")])
def test_runs_in_lockstep_take_turns_and_do_not_count_each_others_time(
    at_once: int, expected: str, tmp_path: Path
) -> None:
    script = tmp_path / "turns.py"
    script.write_text(LOCKSTEP.format(folder=str(BENCHMARKS), at_once=at_once))
    result = run(script)
    assert result.returncode == 0, result.stderr
    order, first, second = result.stdout.split()
    assert order == expected
    assert 0.3 <= float(first) < 0.44  # 0.45 are those of both
    assert 0.15 <= float(second) < 0.29
