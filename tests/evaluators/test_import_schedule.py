"""Other tools' files as schedule files for the reference models, made without their weights and applied to them."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.apply import apply, attach, remove
from autotune.evaluators.import_schedule import READERS, import_schedule
from autotune.evaluators.inventory import list_inventory
from autotune.evaluators.presets import PRESETS, ZOO
from autotune.evaluators.weightless import describe_model
from autotune.evaluators.worker import Worker
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.errors import ModelNotFoundError, ScheduleError, UsageError
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.schedule_file import load_schedule_file, save_schedule_file

from .mini_pipelines import run


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_json(data: object) -> Path:
        path = tmp_path / "theirs.json"
        path.write_text(json.dumps(data))
        return path

    return write_json


def ecad(recompute: np.ndarray, **config: Any) -> dict[str, Any]:
    """A file in ECAD's layout for PixArt, from a table (steps, 3 x blocks)."""
    n_blocks = recompute.shape[1] // 3
    cells = recompute.reshape(len(recompute), n_blocks, 3).tolist()
    schedule = {
        f"{t:03d}": {str(b): dict(zip(("attn1", "attn2", "ff"), cells[t][b], strict=True)) for b in range(n_blocks)}
        for t in range(len(recompute))
    }
    described = {"num_blocks": n_blocks, "num_inference_steps": len(recompute), "schedule": schedule}
    return {"cache_schedule": described, "config": config}


def test_the_condition_is_that_of_a_study_of_the_model(flux: Worker, pixart: Worker) -> None:
    for name, worker in (("mini-flux", flux), ("mini-pixart", pixart)):
        described = describe_model(name)
        assert described.condition(PRESETS[name].n_steps) == worker.condition
        assert described.inventory.hash == worker.inventory.hash
        assert all(p.device.type == "meta" for p in described.pipe.transformer.parameters())


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"height": 250}, "theirs.json: resolution must be a multiple of 8 pixels; got 250"),
        ({"width": 4}, "theirs.json: resolution must be at least 8; got 4"),
        ({"guidance_scale": -1.0}, "theirs.json: guidance must be a finite number, 0 or above; got -1"),
    ],
)
def test_a_run_that_can_not_be_is_refused(config: Any, said: str, write: Any) -> None:
    with pytest.raises(ScheduleError, match=said):
        import_schedule(write(ecad(np.ones((4, 42), bool), **config)), "ecad", "mini-pixart")


def of_leaves(reuse: np.ndarray, inventory: Inventory) -> CachePlan:
    table = np.zeros((len(reuse), len(inventory)))
    table[:, list(inventory.leaves)] = reuse
    return CachePlan.from_array(table)


def test_a_file_of_ecad_is_applied(pixart_pipe: Any, small_args: Any, write: Any, tmp_path: Path) -> None:
    recompute = np.random.default_rng(1).random((4, 42)) < 0.5
    path = write(ecad(recompute, height=32, width=32, guidance_scale=3.0, pipeline={"name": "P", "kwargs": {"a": 1}}))
    file, remarks = import_schedule(path, "ecad", "mini-pixart")
    condition = file.condition
    assert (condition.guidance_scale, condition.height, condition.n_steps, condition.model) == (
        3.0,
        32,
        4,
        "mini-pixart",
    )
    assert file.measured == {}
    imported = file.provenance["imported"]
    assert isinstance(imported, dict)
    assert (imported["format"], imported["file"], len(imported["sha256"])) == ("ecad", "theirs.json", 64)
    assert len(remarks) == 1
    save_schedule_file(tmp_path / "ours.json", file)
    assert load_schedule_file(tmp_path / "ours.json") == file
    kwargs = small_args("mini-pixart")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        apply(pixart_pipe, tmp_path / "ours.json")
        drawn = run(pixart_pipe, kwargs)
    remove(pixart_pipe)
    attach(pixart_pipe, Schedule(n_steps=4, cache=of_leaves(~recompute, list_inventory(pixart_pipe))))
    assert torch.equal(run(pixart_pipe, kwargs), drawn)


def test_every_format_makes_the_same_schedule_of_the_same_plan(pixart_pipe: Any, write: Any) -> None:
    mask = np.array([1, 0, 1, 0, 0], bool)
    table = np.repeat(mask[:, None], 42, axis=1)
    numbers = [int(m) for m in mask]
    files = {"ecad": ecad(table), "smoothcache": dict.fromkeys(("attn1", "attn2", "ff"), numbers), "steps": [0, 2]}
    assert set(files) == set(READERS)
    inventory = list_inventory(pixart_pipe)
    leaves = of_leaves(~table, inventory)
    whole = np.zeros((5, len(inventory)))
    whole[:, 1] = ~mask
    expected = {"ecad": leaves, "smoothcache": leaves, "steps": CachePlan.from_array(whole)}
    for form, data in files.items():
        file, _ = import_schedule(write(data), form, "mini-pixart", n_steps=5)
        assert file.schedule == canonical_schedule(Schedule(n_steps=5, cache=expected[form]), inventory), form


def test_size_and_guidance_that_are_given_win(write: Any) -> None:
    path = write(ecad(np.ones((4, 42), bool), height=64, width=64, guidance_scale=4.0))
    condition = import_schedule(path, "ecad", "mini-pixart", resolution=32, guidance_scale=2.0)[0].condition
    assert (condition.height, condition.width, condition.guidance_scale) == (32, 32, 2.0)


def test_what_is_refused(write: Any, tmp_path: Path) -> None:
    mask = write([1, 0, 1])
    for arguments, said in (({"n_steps": 0}, "steps"), ({"resolution": 33}, "33"), ({"guidance_scale": -1.0}, "-1")):
        with pytest.raises(UsageError, match=said):
            import_schedule(mask, "steps", "mini-flux", **arguments)
    with pytest.raises(UsageError, match="ecad, smoothcache, steps; got 'yaml'"):
        import_schedule(mask, "yaml", "mini-flux")
    with pytest.raises(UsageError, match="nofile"):
        import_schedule(tmp_path / "nofile", "steps", "mini-flux")
    with pytest.raises(ModelNotFoundError, match="mini-flux"):
        import_schedule(mask, "steps", "mini-flxu")
    with pytest.raises(ScheduleError, match=r"theirs\.json: a mask must have one number per step; got 3 for 4"):
        import_schedule(mask, "steps", "mini-flux", n_steps=4)
    with pytest.raises(ScheduleError, match="PNDMScheduler makes 4 calls in 3 steps"):
        import_schedule(mask, "steps", "mini-sd")
    with pytest.raises(ScheduleError, match="num_blocks must be the model's number of blocks, 14; got 3"):
        import_schedule(write(ecad(np.ones((4, 9), bool))), "ecad", "mini-pixart")
    with pytest.raises(ScheduleError, match="the 3 steps that were asked for; got 4"):
        import_schedule(write(ecad(np.ones((4, 42), bool))), "ecad", "mini-pixart", n_steps=3)


def test_no_weights_are_loaded(write: Any, tmp_path: Path) -> None:
    """In a process that can't load any: the safetensors reader for torch is gone."""
    code = (
        "import sys, diffusers, safetensors.torch\n"
        "from pathlib import Path\n"
        "from autotune.evaluators.import_schedule import import_schedule\n"
        "def refuse(*args, **kwargs): raise AssertionError('weights')\n"
        "diffusers.ModelMixin.from_pretrained = safetensors.torch.load_file = refuse\n"
        "file, _ = import_schedule(Path(sys.argv[1]), 'steps', sys.argv[2])\n"
        "print(file.condition.model)\n"
    )
    words = [sys.executable, "-P", "-c", code, str(write([1, 0])), str(ZOO / "mini-flux")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout == "mini-flux\n", done.stderr
