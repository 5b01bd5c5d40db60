"""The condition that a schedule was measured under, and is valid for."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import get_args

from autotune.spaces.errors import ScheduleError
from autotune.spaces.noise_schedule import KnownNoise, noise_schedule_from_json
from autotune.spaces.solver_formula import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Everything besides the schedule, the prompts and the seeds that decides what a run computes and how fast.

    `model` is a preset, hub id or folder name, `revision` a hub revision or a hash of local weights. `n_steps` is the
    number of steps of the pipeline's default run (the baseline), `prediction` what the network puts out (`noise`,
    `velocity` or `data`), `batch_size` the images per pipeline call. `start_timestep` is the noise level that every
    fixed-start run, the reference included, begins at. `scheduler_config` are (setting, JSON) pairs, what the
    pipeline's own scheduler has in other ways than its class does by default; None is not known. `versions` are
    (library, version) pairs.
    """

    model: str
    revision: str
    pipeline_class: str
    inventory_hash: str
    noise_schedule: KnownNoise
    prediction: Prediction
    scheduler_class: str
    start_timestep: float
    height: int
    width: int
    batch_size: int
    dtype: str
    guidance_scale: float
    n_steps: int
    device: str
    scheduler_config: tuple[tuple[str, str], ...] | None = None
    compile: str = "eager"
    versions: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, object]:
        """A JSON object that `condition_from_json` reads back."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        data |= {"noise_schedule": self.noise_schedule.to_json(), "versions": dict(self.versions)}
        settings = data.pop("scheduler_config")
        if settings is None:
            return data
        return data | {"scheduler_config": {name: json.loads(value) for name, value in settings}}

    @property
    def hash(self) -> str:
        """SHA-256 over all fields."""
        text = json.dumps(self.to_json(), separators=(",", ":"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def condition_from_json(data: dict[str, object]) -> Condition:
    """The condition that `Condition.to_json` wrote.

    Raises:
        ScheduleError: a field is missing, unknown or of the wrong type; the message names it.
    """
    fields = {f.name: f for f in dataclasses.fields(Condition)}
    for name in data:
        if name not in fields:
            raise ScheduleError(f"condition.{name} is not a known field; known: {', '.join(fields)}")
    kinds: dict[str, tuple[type, ...]] = {
        "start_timestep": (int, float), "guidance_scale": (int, float), "height": (int,), "width": (int,),
        "batch_size": (int,), "n_steps": (int,), "noise_schedule": (dict,), "versions": (dict,),
        "scheduler_config": (dict,),
    }  # fmt: skip
    for name in fields:
        if name not in data:
            if name == "scheduler_config":  # older files have none
                continue
            raise ScheduleError(f"condition.{name} is missing")
        expected = kinds.get(name, (str,))
        if not isinstance(data[name], expected) or isinstance(data[name], bool):
            raise ScheduleError(f"condition.{name} must be {expected[0].__name__}; got {data[name]!r}")
    if data["prediction"] not in get_args(Prediction):
        raise ScheduleError(f"condition.prediction must be one of {get_args(Prediction)}; got {data['prediction']!r}")
    values = dict(data)
    noise, versions, settings = values["noise_schedule"], values["versions"], values.get("scheduler_config")
    assert isinstance(noise, dict)
    assert isinstance(versions, dict)
    values["noise_schedule"] = noise_schedule_from_json(noise)
    if isinstance(settings, dict):
        values["scheduler_config"] = tuple(sorted((str(k), json.dumps(v, sort_keys=True)) for k, v in settings.items()))
    values["versions"] = tuple(sorted((str(k), str(v)) for k, v in versions.items()))
    return Condition(**values)  # type: ignore[arg-type]
