import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from autotune.evaluators.load import load_model
from autotune.evaluators.presets import ZOO
from autotune.evaluators.worker import Worker
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.schedule_file import ScheduleFile, save_schedule_file
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "apply_schedule.py"
PROMPTS = Fidelity(name="held_out", prompts=("a photo of a cat", "a photo of a ship", "one truck"), seeds=(5, 6, 7))


def cached_and_solved(worker: Worker, n_steps: int) -> Schedule:
    """A schedule with every column that changes what is computed: a grid, a solver, and a third of the sites reused."""
    noise, rng = worker.condition.noise_schedule, np.random.default_rng(0)
    plan = CachePlan.from_array(rng.random((n_steps, len(worker.inventory))) < 1 / 3)
    time = uniform_lambda(noise, n_steps, t_start=worker.condition.start_timestep)
    schedule = Schedule(n_steps=n_steps, time=time, solver=make_solver("unipc-2", n_steps, noise), cache=plan)
    return canonical_schedule(schedule, worker.inventory)


@pytest.mark.parametrize("model", ["mini-flux", "mini-pixart", "mini-sd"])
def test_production_draws_the_images_that_the_study_measured(model: str, tmp_path: Path) -> None:
    """In a process that imports neither the search nor the database; the example itself asserts that."""
    worker = Worker(load_model(model))
    schedule = cached_and_solved(worker, 8)
    save_schedule_file(tmp_path / "s.json", ScheduleFile(schedule=schedule, condition=worker.condition))
    words = [word for prompt in PROMPTS.prompts for word in ("--prompt", prompt)]
    words += ["--seed", "5", "-o", str(tmp_path / "images.safetensors")]
    ended = subprocess.run(
        [sys.executable, str(EXAMPLE), str(ZOO / model), str(tmp_path / "s.json"), *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ended.returncode == 0, ended.stderr
    drawn = load_file(tmp_path / "images.safetensors")["images"]
    studied = worker._run(schedule, PROMPTS, None).images
    plain = worker._run(Schedule(n_steps=8), PROMPTS, None).images
    assert float((drawn - studied).abs().max()) <= 1e-5
    assert float((drawn - plain).abs().max()) > 1e-2, "the schedule must have changed something"
    assert torch.isfinite(drawn).all()
