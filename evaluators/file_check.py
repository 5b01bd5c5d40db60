"""Whether a schedule file was made for a pipeline."""

import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.hardware import device_name
from autotune.evaluators.noise import changed_settings, noise_schedule_of, prediction_of
from autotune.evaluators.presets import PRESETS
from autotune.evaluators.schedule_table import weights_of
from autotune.evaluators.weight_sample import check_weights
from autotune.spaces.condition import Condition
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.inventory import Inventory
from autotune.spaces.noise_schedule import Flow, KnownNoise
from autotune.spaces.schedule import Schedule
from autotune.spaces.schedule_file import ScheduleFile


def check_file(pipe: Any, file: ScheduleFile, inventory: Inventory, scheduler: Any, *, stacklevel: int = 2) -> None:
    """Return if a schedule file was made for this model and sampler; another dtype, device or model id warns.

    So does another setting of the sampler, where the schedule brings none. With tables, another model id or setting is
    an error. `scheduler` is the pipeline's own, without any schedule applied.

    Raises:
        ScheduleMismatchError: see `apply`.
    """
    _check_fit(scheduler, file.schedule, file.condition, inventory)
    if file.schedule.tables and (other := _other_model(pipe, file.condition)):
        raise ScheduleMismatchError(f"the tables of a schedule fit one model; {other}: fit them for it")
    setting = "" if file.schedule.time is not None else _other_setting(scheduler, file.condition)
    if file.schedule.tables and setting:
        raise ScheduleMismatchError(
            f"the tables of a schedule fit one sampler; {setting}: restore it, or fit the tables for this sampler"
        )
    for digest in file.schedule.tables.values():
        weights = weights_of(file.tables[digest]) if digest in file.tables else None
        if weights is not None:
            check_weights(weights, find_adapter(pipe).denoiser_of(pipe))
    for difference in filter(None, (setting, *_differences(pipe, file.condition))):
        warnings.warn(f"{difference}: speed and quality may differ from what was measured", stacklevel=stacklevel)


def _check_fit(scheduler: Any, schedule: Schedule, condition: Condition, inventory: Inventory) -> None:
    """Raise ScheduleMismatchError for anything that would make the schedule compute something else."""
    remedy = f"use a schedule made for this pipeline, or load {condition.model} ({condition.pipeline_class})"
    if inventory.hash != condition.inventory_hash:
        raise ScheduleMismatchError(
            f"a schedule fits one set of modules; its inventory hash is {condition.inventory_hash[:12]}, the "
            f"{inventory.denoiser_class} here has {inventory.hash[:12]}; {remedy}"
        )
    noise = noise_schedule_of(scheduler, 0.0)
    if _levels(noise) != _levels(condition.noise_schedule):
        raise ScheduleMismatchError(
            f"a schedule fits one noise schedule; it was made for {condition.noise_schedule}, "
            f"the pipeline's {type(scheduler).__name__} has {noise}; {remedy}"
        )
    prediction = prediction_of(scheduler)
    if prediction != condition.prediction:
        raise ScheduleMismatchError(
            f"a schedule fits one kind of prediction; it was made for {condition.prediction!r}, "
            f"the pipeline's {type(scheduler).__name__} says {prediction!r}; {remedy}"
        )
    if schedule.time is None and type(scheduler).__name__ != condition.scheduler_class:
        raise ScheduleMismatchError(
            f"the rows of a schedule without a solver column belong to one sampler; it was made for "
            f"{condition.scheduler_class}, the pipeline has {type(scheduler).__name__}; set pipe.scheduler = "
            f"{condition.scheduler_class}.from_config(pipe.scheduler.config) first"
        )


def _other_setting(scheduler: Any, condition: Condition) -> str:
    """The first setting of the sampler that is another than it was measured with, in words; empty if none is."""
    if condition.scheduler_config is None:
        return ""
    then, now = dict(condition.scheduler_config), dict(changed_settings(scheduler))
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            was, is_ = (settings.get(name, "its default") for settings in (then, now))
            return f"{name} of the {type(scheduler).__name__} was {was} when it was measured, and is {is_} here"
    return ""


def _levels(noise: KnownNoise) -> KnownNoise:
    """The noise schedule without a shift that depends on the resolution."""
    return dataclasses.replace(noise, mu=0.0) if isinstance(noise, Flow) and noise.dynamic else noise


def _differences(pipe: Any, condition: Condition) -> Iterator[str]:
    """What may change figures but not meaning, one sentence each."""
    dtype = str(pipe.dtype).removeprefix("torch.")
    if dtype != condition.dtype:
        yield f"the schedule was measured in {condition.dtype}, the pipeline is in {dtype}"
    device = device_name(pipe._execution_device)
    if device != condition.device:
        yield f"the schedule was measured on {condition.device}, the pipeline is on {device}"
    if other := _other_model(pipe, condition):
        yield other


def _other_model(pipe: Any, condition: Condition) -> str:
    """Which other model the pipeline was loaded from, in words; empty if it is the same, or not known."""
    source = str(pipe.config.get("_name_or_path") or "")
    preset = PRESETS.get(condition.model)
    known = {condition.model} | ({str(preset.source)} if preset is not None else set())
    if not source or Path(source).name in {Path(name).name for name in known}:
        return ""
    return f"the schedule was measured on {condition.model}, the pipeline was loaded from {source}"
