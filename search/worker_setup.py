"""What a study measures with: one worker in this process, or several in others."""

import dataclasses
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from autotune.evaluators.energy import EnergyMeter, make_energy_meter
from autotune.evaluators.hardware import choose_device
from autotune.evaluators.load import LoadedModel, load_model
from autotune.evaluators.metrics import RewardModel
from autotune.evaluators.pool import InProcessPool, WorkerPool
from autotune.evaluators.ray_pool import RayPool
from autotune.evaluators.reference import ArtifactCache
from autotune.evaluators.rewards import ENERGY_METRIC, parse_metric
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
        UsageError: several workers shall share a pipeline that the user built.
        ModelNotFoundError: the weights can't be had, or those of a reward.
    """
    load = partial(load_worker, settings, storage, socket.gethostname())
    if n_workers == 1 and ray_address is None:
        instruments = load_instruments(settings.metrics, settings.device)
        model = adopted or load_model(settings.model, device=settings.device, dtype=settings.dtype)
        spare = None if adopted else load
        return InProcessPool(_worker(settings, model, instruments, database.artifacts), make_spare=spare)
    if adopted is not None:
        raise UsageError("workers in other processes load the model by its name; give that, or use one worker")
    return RayPool(load, n_workers, address=ray_address)


def check_condition(record: StudyRecord, condition: Condition, protocol: str) -> None:
    """Raise a UsageError that names the first difference between a study's condition and the one here."""
    then, now = record.condition.to_json(), condition.to_json()
    # What is measured, and with which rewards: their weights may have changed in the hub or on the disk.
    then["protocol"], now["protocol"] = record.provenance.get("protocol", protocol), protocol
    for field, value in now.items():
        if then.get(field) != value:
            raise UsageError(
                f"a study goes on under the condition that it began under; {field} was {then.get(field)!r} and is "
                f"{value!r} here: restore it, or begin a new study"
            )


def load_worker(settings: Settings, storage: str | None, host: str) -> Worker:
    """A worker in a process of its own; `host` is the machine of the study.

    On another machine an SQLite file of that name would be another one: nothing is shared then.
    """
    instruments = load_instruments(settings.metrics, settings.device)
    model = load_model(settings.model, device=settings.device, dtype=settings.dtype)
    is_shared = host == socket.gethostname() or parse_location(storage).path is None
    return _worker(settings, model, instruments, Database.open(storage).artifacts if is_shared else None)


@dataclass(frozen=True, slots=True)
class Instruments:
    """What a study measures with beyond the usual."""

    rewards: tuple[RewardModel, ...]
    meter: EnergyMeter | None


def load_instruments(metrics: Sequence[str], device: str) -> Instruments:
    """Before the model, which takes longer to load: what is missing is said at once."""
    choices = [parse_metric(text) for text in metrics]
    metered = any(choice.name == ENERGY_METRIC for choice in choices)
    meter = make_energy_meter(choose_device(device)) if metered else None
    wanted = [choice for choice in choices if choice.name != ENERGY_METRIC]
    if not wanted:
        return Instruments((), meter)
    from autotune.evaluators.clip_reward import load_reward  # imports that few studies need

    return Instruments(tuple(map(load_reward, wanted)), meter)


def _worker(
    settings: Settings, model: LoadedModel, instruments: Instruments, artifacts: ArtifactCache | None
) -> Worker:
    return Worker(
        dataclasses.replace(model, preset=settings.adapt(model.preset)),
        artifacts=artifacts,
        rewards=instruments.rewards,
        meter=instruments.meter,
    )
