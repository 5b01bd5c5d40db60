"""The command `autotune`."""

import atexit
import gc
import logging
import os
import signal
import sys

import typer

from autotune.cli import (
    bench,
    compare,
    database,
    doctor,
    fit_tables,
    foreign,
    runs,
    schedules,
    studies,
    table,
    transfer,
    workers,
)
from autotune.cli.config import expand_config
from autotune.spaces.errors import AutotuneError, ModelNotFoundError, ScheduleError, StudyExistsError, UsageError

SPINS = "10000"
"""How often torch's threads look whether the others have come, at the end of each operation, before they sleep.

By default they do so for milliseconds. Where other processes want the cores too, that made mini-flux on two cores 35
times as slow as with these; on an idle machine it is faster by a tenth.
"""

USAGE_ERRORS = (UsageError, ScheduleError, StudyExistsError, ModelNotFoundError)

app = typer.Typer(
    name="autotune",
    help="Find the fastest schedules of a diffusion model. `autotune --model M` is short for `autotune run --model M`.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (
    runs,
    transfer,
    workers,
    studies,
    compare,
    bench,
    schedules,
    fit_tables,
    foreign,
    table,
    database,
    doctor,
):
    module.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 usage, 3 no feasible point, 130 interrupted and resumable."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        words = ["--help"]
    if words[0].startswith("-") and words[0] not in ("--help", "--version"):
        words.insert(0, "run")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # advice on torchvision would drown our own messages
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read once, when torch is imported
    atexit.register(gc.freeze)  # to look for cycles among what dies with the process takes two seconds
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `autotune front S | head` ends quietly
    try:
        words = expand_config(words)
        app(args=words, prog_name="autotune")
    except AutotuneError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2 if isinstance(error, USAGE_ERRORS) else 1)
    except OSError as error:
        print(f"error: the operating system refused: {error}", file=sys.stderr)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def options(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Print the version."""
    if version:
        from importlib.metadata import version as installed

        print(installed("diffusion-autotune"))


if __name__ == "__main__":
    main()
