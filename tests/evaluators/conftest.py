"""The three reference models and the random pipelines, made once per session, and the smallest call of each."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

import autotune.evaluators
from autotune.evaluators.apply import remove
from autotune.evaluators.load import load_model
from autotune.evaluators.worker import Worker
from autotune.storage.artifacts import ArtifactStore
from autotune.storage.database import Database

from .random_pipelines import NAMES, make_pipeline, random_args

ZOO = Path(autotune.evaluators.__path__[0]) / "zoo"
SMALLEST: dict[str, dict[str, Any]] = {
    "mini-flux": {"max_sequence_length": 16},
    "mini-pixart": {
        "guidance_scale": 3.0, "max_sequence_length": 16, "use_resolution_binning": False, "clean_caption": False,
    },
    "mini-sd": {"guidance_scale": 5.0},
}  # fmt: skip


def load(name: str) -> Any:
    """A reference model in float32 on the CPU, without its progress bar."""
    pipe: Any = DiffusionPipeline.from_pretrained(  # type: ignore[no-untyped-call]
        str(ZOO / name), torch_dtype=torch.float32, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call_args(name: str, *, steps: int = 4, size: int = 32) -> dict[str, Any]:
    """Arguments of a run of `steps` steps that returns latents; the generator is left to the caller."""
    sizes = {"height": size, "width": size, "num_inference_steps": steps, "output_type": "latent"}
    return {"prompt": "a red circle", **sizes, **SMALLEST[name]}


@pytest.fixture(scope="session")
def small_args() -> Callable[..., dict[str, Any]]:
    """`call_args`: name of a reference model -> arguments of its smallest run."""
    return call_args


@pytest.fixture(scope="session")
def flux_pipe() -> Any:
    return load("mini-flux")


@pytest.fixture(scope="session")
def pixart_pipe() -> Any:
    return load("mini-pixart")


@pytest.fixture(scope="session")
def sd_pipe() -> Any:
    return load("mini-sd")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    return Database.open(str(tmp_path_factory.mktemp("worker") / "a.db"))


@pytest.fixture(scope="module")
def artifacts(database: Database) -> ArtifactStore:
    return database.artifacts


@pytest.fixture(scope="module")
def flux(artifacts: ArtifactStore) -> Worker:
    """A worker that keeps its artifacts."""
    return Worker(load_model("mini-flux"), artifacts=artifacts)


@pytest.fixture(scope="module")
def pixart() -> Worker:
    """A worker that keeps nothing."""
    return Worker(load_model("mini-pixart"))


@pytest.fixture(autouse=True)
def _plain_afterwards(request: pytest.FixtureRequest) -> Iterator[None]:
    """Takes off what a test has applied to the shared pipelines."""
    yield
    for name in ("flux_pipe", "pixart_pipe", "sd_pipe"):
        if name in request.fixturenames:
            remove(request.getfixturevalue(name))


@pytest.fixture(params=["mini-flux", "mini-pixart", "mini-sd"])
def pipe_case(request: pytest.FixtureRequest) -> tuple[Any, dict[str, Any]]:
    """Each model in turn, with the arguments of its smallest call of four steps."""
    fixture = {"mini-flux": "flux_pipe", "mini-pixart": "pixart_pipe", "mini-sd": "sd_pipe"}[request.param]
    return request.getfixturevalue(fixture), call_args(request.param)


@pytest.fixture(scope="session")
def random_pipes() -> dict[str, Any]:
    """The random pipelines by name."""
    return {name: make_pipeline(name) for name in NAMES}


@pytest.fixture(params=NAMES)
def random_case(request: pytest.FixtureRequest, random_pipes: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Each random pipeline in turn, with the arguments of its smallest guided call of four steps."""
    pipe = random_pipes[request.param]
    scheduler = pipe.scheduler
    yield pipe, random_args(request.param)
    remove(pipe)
    pipe.scheduler = scheduler
