"""What a study measures with: one worker in this process, or several in others."""

import dataclasses
import socket
from functools import partial

from autotune.evaluators.load import LoadedModel, load_model
from autotune.evaluators.pool import InProcessPool, WorkerPool
from autotune.evaluators.ray_pool import RayPool
from autotune.evaluators.reference import ArtifactCache
from autotune.evaluators.worker import Worker
from autotune.search.settings import Settings
from autotune.spaces.condition import Condition
from autotune.spaces.errors import UsageError
from autotune.spaces.study_record import StudyRecord
from autotune.storage.database import Database
from autotune.storage.location import parse_location


def make_pool(
    settings: Settings,
    database: Database,
    *,
    storage: str | None,
    adopted: LoadedModel | None = None,
    n_workers: int = 1,
    ray_address: str | None = None,
) -> WorkerPool:
    """The workers of a study.

    One worker runs in this process, unless there is a cluster to use. Others load the model themselves, and share
    references, traces and fits through the artifacts of `storage`.

    Raises:
        UsageError: the number is not positive, or several workers shall share a pipeline that the user built.
        ModelNotFoundError: the weights can't be had.
    """
    if n_workers < 1:
        raise UsageError(f"the number of workers must be at least 1; got {n_workers}")
    load = partial(load_worker, settings, storage, socket.gethostname())
    if n_workers == 1 and ray_address is None:
        model = adopted or load_model(settings.model, device=settings.device, dtype=settings.dtype)
        spare = None if adopted else load
        return InProcessPool(_worker(settings, model, database.artifacts), make_spare=spare)
    if adopted is not None:
        raise UsageError("workers in other processes load the model by its name; give that, or use one worker")
    return RayPool(load, n_workers, address=ray_address)


def check_condition(record: StudyRecord, condition: Condition) -> None:
    """Raise a UsageError that names the first difference between a study's condition and the one here."""
    then, now = record.condition.to_json(), condition.to_json()
    for field, value in now.items():
        if then[field] != value:
            raise UsageError(
                f"a study goes on under the condition that it began under; {field} was {then[field]!r} and is "
                f"{value!r} here: restore it, or begin a new study"
            )


def load_worker(settings: Settings, storage: str | None, host: str) -> Worker:
    """A worker in a process of its own; `host` is the machine of the study.

    On another machine an SQLite file of that name would be another one: nothing is shared then.
    """
    model = load_model(settings.model, device=settings.device, dtype=settings.dtype)
    is_shared = host == socket.gethostname() or parse_location(storage).path is None
    return _worker(settings, model, Database.open(storage).artifacts if is_shared else None)


def _worker(settings: Settings, model: LoadedModel, artifacts: ArtifactCache | None) -> Worker:
    return Worker(dataclasses.replace(model, preset=settings.adapt(model.preset)), artifacts=artifacts)
