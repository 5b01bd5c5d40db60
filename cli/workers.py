"""The command by which a machine joins a cluster: worker."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from autotune.spaces.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(worker)


def worker(
    ray_address: Annotated[str, typer.Option("--ray-address", help="HOST:PORT of the cluster's head.")],
    workers: Annotated[
        int | None, typer.Option("--workers", help="Workers that this machine shall run: one per GPU, or one in all.")
    ] = None,
) -> None:
    """Join a Ray cluster and offer workers to `autotune --ray-address`, until this command is stopped.

    The same version of this package must be installed everywhere, and the cluster's token be known here.
    """
    number = _default_number() if workers is None else workers
    if number < 1:
        raise UsageError(f"the number of workers must be at least 1; got {number}")
    if ":" not in ray_address:
        raise UsageError(f"--ray-address must read HOST:PORT, such as 10.0.0.1:6379; got {ray_address!r}")
    # The script of Ray that belongs to this Python.
    ray = shutil.which("ray", path=str(Path(sys.executable).parent))
    if ray is None:
        raise UsageError("a worker needs Ray; pip install 'diffusion-autotune[ray]'")
    from autotune.evaluators.ray_cluster import SETTINGS, SLOT  # without torch

    print(f"offering {number} worker{'s' * (number > 1)} to {ray_address}; Ctrl-C leaves", file=sys.stderr, flush=True)
    command = [ray, "start", "--address", ray_address, "--resources", json.dumps({SLOT: number}), "--block"]
    os.execve(ray, command, SETTINGS | os.environ)  # from here on this process is Ray's, and signals reach it


def _default_number() -> int:
    nvidia_smi = shutil.which("nvidia-smi")
    if nvidia_smi is None:
        return 1
    found = subprocess.run([nvidia_smi, "--list-gpus"], capture_output=True, text=True, check=False)
    return max(1, len(found.stdout.splitlines()))
