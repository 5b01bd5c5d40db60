"""A searched schedule in production: a file, a new process, the plain pipeline, and other precisions."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.apply import attach, remove
from autotune.evaluators.inventory import list_inventory
from autotune.evaluators.noise import noise_schedule_of
from autotune.spaces.noise_schedule import Flow
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.schedule_file import ScheduleFile, save_schedule_file
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.time_grid import uniform_lambda

from .conftest import ZOO, call_args, load
from .gradient_cases import some_correction
from .mini_pipelines import run
from .schedule_files import condition_of

N = 5
BOUNDS = {
    ("mini-flux", "bfloat16"): 0.012,
    ("mini-flux", "float16"): 0.001,
    ("mini-pixart", "bfloat16"): 0.2,
    ("mini-pixart", "float16"): 0.022,
    ("mini-sd", "bfloat16"): 0.042,
    ("mini-sd", "float16"): 0.0042,
}
"""Relative distance of the images to those in float32: twice what was measured."""

SCRIPT = """
import json, sys
import numpy as np
import torch
from diffusers import DiffusionPipeline
import autotune
folder, file, arguments, out = sys.argv[1:]
for name in ("float32", "bfloat16", "float16"):
    pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True).to(getattr(torch, name))
    pipe.set_progress_bar_config(disable=True)
    autotune.apply(pipe, file)
    images = pipe(**json.loads(arguments), generator=torch.Generator().manual_seed(7)).images
    np.save(f"{out}/{name}.npy", images.float().numpy())
"""


def searched(pipe: Any) -> Schedule:
    """Every part of the solver columns at once, as a search with fits may leave it."""
    noise = noise_schedule_of(pipe.scheduler, 0.0)
    straight: Any = ("velocity" if isinstance(noise, Flow) else "noise", "sigma")
    view, domain = straight
    solver = (
        SolverStep(view="data", domain="lambda", order=1, corrector=True, slope=0.93),
        SolverStep(view=view, domain=domain, order=2, slope=0.9),
        SolverStep(view="noise", domain="lambda", order=2, relaxation="b2", slope=1.1, slope_points=2, corrector=True),
        SolverStep(view="data", domain="lambda", order=3, slope_points=1, curvature=0.8, corrector=True),
        SolverStep(view=view, domain=domain, order=2, slope=1.05, state_gain=0.96, output_gain=1.03),
    )
    schedule = Schedule(
        n_steps=N,
        time=uniform_lambda(noise, N, t_start=0.94 * noise.t_max, t_end=25.0),
        solver=solver,
        start=noise.t_max,
        compensation=(1.0, 1.0, 0.97, 1.04, 0.95),
        correction=some_correction(N),
    )
    return canonical_schedule(schedule, list_inventory(pipe))


def relative(a: np.ndarray, b: np.ndarray) -> float:
    assert np.all(np.isfinite(a))
    return float(np.linalg.norm(a.astype(float) - b) / np.linalg.norm(b.astype(float)))


@pytest.fixture(scope="module", params=["mini-flux", "mini-pixart", "mini-sd"])
def images(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Images here, with the schedule attached, and by precision from a process that has the file alone."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    pipe = load(name)
    arguments = {**call_args(name, steps=N), "output_type": "pt"}
    attach(pipe, searched(pipe))
    with torch.no_grad():
        here = run(pipe, arguments).numpy()
    remove(pipe)
    plain = run(pipe, arguments).numpy()
    save_schedule_file(folder / "s.json", ScheduleFile(schedule=searched(pipe), condition=condition_of(pipe)))
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(ZOO / name), str(folder / "s.json")]
    subprocess.run([*command, json.dumps(arguments), str(folder)], check=True, timeout=300)
    made = {dtype: np.load(folder / f"{dtype}.npy") for dtype in ("float32", "bfloat16", "float16")}
    return {"name": name, "here": here, "plain": plain, **made}


def test_a_new_process_makes_the_images_that_were_measured(images: dict[str, Any]) -> None:
    assert relative(images["float32"], images["here"]) < 1e-5
    assert relative(images["plain"], images["here"]) > 0.05


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_close(images: dict[str, Any], dtype: str) -> None:
    assert relative(images[dtype], images["float32"]) < BOUNDS[images["name"], dtype]
