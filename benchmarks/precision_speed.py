"""Latency of the reference models in several precisions: what they bring on this device, quality apart.

A run of four pictures in bfloat16, and with the kernels of torchao, eager and with compiled leaves, each in turn with
one in float32. Precisions that the device lacks, or all of torchao's without torchao, are named and left out.

Prints a table and takes `--quick` (fewer repeats), `--seed` (without effect), `--device`, `--json FILE`; `--models`
measure a part.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from harness import Benchmark, parse_arguments, spread

from autotune.evaluators.applied_tables import AppliedTables
from autotune.evaluators.apply import compile_leaves
from autotune.evaluators.load import load_model
from autotune.evaluators.presets import read_prompts
from autotune.evaluators.real_kernels import quantize_layers
from autotune.evaluators.sampling import Purpose
from autotune.evaluators.worker import Worker
from autotune.spaces.column_fit import Precision
from autotune.spaces.errors import UsageError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule import Schedule

MODELS = ("mini-flux", "mini-pixart", "mini-sd")
ENOUGH_S = 120.0
"""Where seven pairs of runs take longer, as in bfloat16 on processors that emulate it, three or more will do."""


def main() -> None:
    arguments = parse_arguments(__doc__, add_options)
    bench = Benchmark("precision_speed", arguments)
    for name in arguments.models:
        speeds(bench, name)
    bench.finish()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)


def speeds(bench: Benchmark, name: str) -> None:
    """Latency of the full run in several precisions, each in turn with one in float32."""
    kinds: dict[str, dict[str, Any]] = {
        "bfloat16": {"dtype": torch.bfloat16},
        "float32, compiled leaves": {"compiled": True},
        "bfloat16, compiled leaves": {"dtype": torch.bfloat16, "compiled": True},
        "torchao int8": {"kernel": "int8"},
        "torchao int8, compiled leaves": {"kernel": "int8", "compiled": True},
        "torchao float8": {"kernel": "float8", "dtype": torch.bfloat16},
    }
    for label, how in kinds.items():
        try:
            plain, other = pipeline_of(bench, name), pipeline_of(bench, name, **how)
            for run in (plain, other):
                run()
            pairs: list[tuple[float, float]] = []
            most, began = 3 if bench.arguments.quick else 7, time.perf_counter()
            while len(pairs) < min(3, most) or (len(pairs) < most and time.perf_counter() - began < ENOUGH_S):
                pairs.append((run_seconds(plain), run_seconds(other)))
        except UsageError as error:
            print(f"{name:24} {label}: {error}")
            continue
        ratios = [after / before for before, after in pairs]
        bench.row("latency over float32, eager", statistics.median(ratios), spread(ratios), model=name, precision=label)


def pipeline_of(
    bench: Benchmark, name: str, *, dtype: torch.dtype = torch.float32, compiled: bool = False, kernel: Any = None
) -> Any:
    """A function that draws one batch."""
    dtype_name = str(dtype).removeprefix("torch.")
    model = load_model(name, device=bench.arguments.device, dtype=dtype_name)
    if kernel is not None:
        worker = Worker(model)
        chosen = read_prompts(model.preset.calibration_prompts)[:1]
        one = Fidelity(name="calibration", prompts=chosen, seeds=(0,))
        fitted = worker.fit(Schedule(n_steps=2), Precision(8.0), one).schedule
        made = AppliedTables.of(fitted, worker.condition, worker.tables.of(fitted)).quantization
        assert made is not None
        quantize_layers(model.pipe, made, kernel)
    if compiled:
        compile_leaves(model.pipe)
    worker = Worker(model)
    prompts = read_prompts(model.preset.calibration_prompts)[:4]
    some = Fidelity(name="calibration", prompts=prompts, seeds=tuple(range(len(prompts))))
    default = Schedule(n_steps=model.preset.n_steps)
    return lambda: worker._run(default, some, None, purpose=Purpose.TIMED)


def run_seconds(run: Any) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
