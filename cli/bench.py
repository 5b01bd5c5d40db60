"""The command that measures a schedule file again: bench."""

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli import options
from autotune.cli.foreign import print_warnings
from autotune.cli.output import Format, print_rows, print_tables
from autotune.cli.runs import EXIT_INTERRUPTED
from autotune.cli.studies import FormatOption, StorageOption


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(bench)


def bench(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Schedule file.")],
    model: Annotated[
        str | None, typer.Option("--model", help="A preset, a hub id, or a folder; the model of the file by default.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="Text file, a prompt per line; the model's held-out prompts by default."),
    ] = None,
    n_prompts: Annotated[
        int | None, typer.Option("--n-prompts", help="Measure on the first N of them; all by default.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Which block of fresh seeds.")] = 0,
    repeats: Annotated[int, typer.Option("--repeats", help="Timed runs of each, in turn with the default run.")] = 5,
    metric: options.Metrics = None,
    kernels: Annotated[
        str | None,
        typer.Option("--kernels", help="Measure a quantized schedule with torchao's kernels too: int8 or float8."),
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    storage: StorageOption = None,
    form: FormatOption = Format.TABLE,
    quiet: options.Quiet = False,
) -> None:
    """Measure a schedule file again, on seeds that no study uses, beside the default run and the best cheap rival.

    Size, steps and guidance are those of the file. The rival is the pipeline with fewer steps, by its own sampler or a
    good solver, at no more latency. No study is made. In Python: autotune.bench(FILE).
    """
    from autotune.spaces.schedule_file import load_schedule_file

    load_schedule_file(file)  # what is wrong with it is said before seconds of imports
    from autotune.reports.bench_table import bench_json, bench_tables, csv_rows
    from autotune.search.bench import BenchOptions, bench_file

    def tell(line: str) -> None:
        if not quiet:
            print(line, file=sys.stderr, flush=True)

    wanted = BenchOptions(
        model=model, prompts=prompts, n_prompts=n_prompts, seed=seed, repeats=repeats, metrics=tuple(metric or ()),
        kernels=kernels, device=device, dtype=dtype, storage=storage,
    )  # fmt: skip
    try:
        with warnings.catch_warnings(record=True) as caught:
            result = bench_file(file, wanted, on_measured=tell)
    except KeyboardInterrupt:
        print("stopped; reference runs that were done are kept", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    print_warnings(str(warning.message) for warning in caught if warning.category is UserWarning)
    if form is Format.JSON:
        print(json.dumps(bench_json(result), indent=1))
    elif form is Format.CSV:
        print_rows(csv_rows(result), {}, form)
    else:
        print_tables(bench_tables(result))
