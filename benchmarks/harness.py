"""What every benchmark shares: options, a printed table, and a JSON file of rows and targets."""

import argparse
import json
import multiprocessing
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from autotune.evaluators.hardware import describe_machine
from autotune.spaces.atomic_write import write_atomically
from autotune.spaces.statistics import mean_ratio_interval

ROOT = Path(__file__).resolve().parents[1]


def parse_arguments(
    description: str | None, add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None
) -> argparse.Namespace:
    """The options that every benchmark takes, and those of one benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller, at most 10 minutes on two cores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="file for the rows and targets")
    add_options(parser)
    return parser.parse_args()


def spread(values: Sequence[float]) -> list[float]:
    """First and third quartile."""
    if len(values) < 2:
        return [values[0], values[0]]
    low, _, high = statistics.quantiles(values, n=4)
    return [low, high]


def gain_over(ours: Sequence[float], theirs: Sequence[float], power: int = 1) -> tuple[float, list[float]]:
    """1 - ratio of the means of errors to a power, and its 95 % interval by paired resampling."""
    top, bottom = (np.power(errors, power) for errors in (ours, theirs))
    low, high = mean_ratio_interval(top.tolist(), bottom.tolist())
    return 1.0 - float(top.mean() / bottom.mean()), [1.0 - high, 1.0 - low]


Rows: TypeAlias = list[dict[str, object]]
SAVE_EVERY = 60.0
"""Seconds after which what is new is written: a run that is cut off loses no more."""


class Benchmark:
    """Collects rows and targets, prints each as it comes, and writes them now and then and at the end."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self._name = name
        self._began = self._saved = time.monotonic()
        self._commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()
        self.rows: Rows = []
        self.targets: Rows = []

    def row(self, figure: str, value: float, interval: Sequence[float] | None = None, **what: object) -> None:
        """Note a figure; `interval` is its spread. Of `what`, lists are noted and not printed."""
        self.rows.append({**what, "figure": figure, "value": value, "interval": interval})
        where = " ".join(str(part) for part in what.values() if not isinstance(part, list))
        bounds = "" if interval is None else f"   [{interval[0]:.4g}, {interval[1]:.4g}]"
        print(f"{where:24} {figure:44} {value:10.4g}{bounds}", flush=True)
        self._save_now_and_then()

    def target(
        self,
        name: str,
        value: float,
        interval: Sequence[float] | None,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
        above: float = 0.0,
    ) -> None:
        """Note a target that an issue sets, met or not.

        What is to be `at_least` so much must have an interval `above` what is no gain: 0, or 1 for a ratio.
        """
        if at_least is None:
            met, target = at_most is None or value <= at_most, f"<= {at_most}"
        else:
            met, target = (
                value >= at_least and (interval is None or interval[0] > above or at_least <= above),
                f">= {at_least}",
            )
        self.targets.append({"name": name, "target": target, "value": value, "interval": interval, "met": met})
        print(f"{'':24} {name}: {value:.4g}, target {target}: {'met' if met else 'MISSED'}", flush=True)
        self._save_now_and_then()

    def run(self, measure: Callable[..., None], parts: Sequence[tuple[object, ...]], jobs: int) -> None:
        """Call `measure` with a benchmark and each part, in `jobs` processes; rows and targets stay in order."""
        if jobs == 1:
            for part in parts:
                measure(self, *part)
            return
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, spawn, _share_cores, (jobs,)) as pool:
            measured = [pool.submit(_measured, self._name, self.arguments, measure, part) for part in parts]
            for future in measured:
                rows, targets = future.result()
                self.rows += rows
                self.targets += targets
                self._save_now_and_then()

    def finish(self) -> None:
        """Write the JSON file, if one was asked for."""
        print(f"{time.monotonic() - self._began:.0f} s")
        self._save({})

    def _save_now_and_then(self) -> None:
        if time.monotonic() - self._saved >= SAVE_EVERY:
            self._save({"incomplete": "the run had not ended"})

    def _save(self, remark: dict[str, str]) -> None:
        self._saved = time.monotonic()
        if self.arguments.json is None:
            return
        machine = describe_machine()
        data = {
            "benchmark": self._name,
            "commit": self._commit or "unknown",
            **remark,
            "hardware": {name: machine[name] for name in ("processor", "cores", "memory_gb", "accelerators")},
            "versions": {name: machine[name] for name in ("torch", "diffusers", "transformers", "autotune")}
            | {"python": platform.python_version()},
            "seconds": round(self._saved - self._began, 1),
            "rows": self.rows,
            "targets": self.targets,
        }
        write_atomically(self.arguments.json, (json.dumps(data, indent=1) + "\n").encode())


def _measured(
    name: str, arguments: argparse.Namespace, measure: Callable[..., None], part: tuple[object, ...]
) -> tuple[Rows, Rows]:
    """One part's rows and targets, in a process of the pool."""
    bench = Benchmark(name, argparse.Namespace(**{**vars(arguments), "json": None}))
    measure(bench, *part)
    return bench.rows, bench.targets


def _share_cores(n_processes: int) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // n_processes))
