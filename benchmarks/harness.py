"""What every benchmark shares: options, a printed table, and a JSON file of rows and targets."""

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from autotune.evaluators.hardware import describe_machine
from autotune.spaces.atomic_write import write_atomically

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


class Benchmark:
    """Collects rows and targets, prints each as it comes, and writes them at the end."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self._name, self._arguments = name, arguments
        self._began = time.monotonic()
        self._rows: list[dict[str, object]] = []
        self._targets: list[dict[str, object]] = []

    def row(self, figure: str, value: float, interval: Sequence[float] | None = None, **what: object) -> None:
        """Note a figure; `interval` is its spread."""
        self._rows.append({**what, "figure": figure, "value": value, "interval": interval})
        where = " ".join(str(part) for part in what.values())
        bounds = "" if interval is None else f"   [{interval[0]:.4g}, {interval[1]:.4g}]"
        print(f"{where:24} {figure:44} {value:10.4g}{bounds}", flush=True)

    def target(
        self,
        name: str,
        value: float,
        interval: Sequence[float] | None,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        """Note a target that an issue sets, met or not; a gain of `at_least` must have an interval above 0."""
        if at_least is None:
            met, target = at_most is None or value <= at_most, f"<= {at_most}"
        else:
            met, target = (
                value >= at_least and (interval is None or interval[0] > 0.0 or at_least <= 0.0),
                f">= {at_least}",
            )
        self._targets.append({"name": name, "target": target, "value": value, "interval": interval, "met": met})
        print(f"{'':24} {name}: {value:.4g}, target {target}: {'met' if met else 'MISSED'}", flush=True)

    def finish(self) -> None:
        """Write the JSON file, if one was asked for."""
        seconds = time.monotonic() - self._began
        print(f"{seconds:.0f} s")
        if self._arguments.json is None:
            return
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()
        machine = describe_machine()
        data = {
            "benchmark": self._name,
            "commit": commit or "unknown",
            "hardware": {name: machine[name] for name in ("processor", "cores", "memory_gb", "accelerators")},
            "versions": {name: machine[name] for name in ("torch", "diffusers", "transformers", "autotune")}
            | {"python": platform.python_version()},
            "seconds": round(seconds, 1),
            "rows": self._rows,
            "targets": self._targets,
        }
        write_atomically(self._arguments.json, (json.dumps(data, indent=1) + "\n").encode())
