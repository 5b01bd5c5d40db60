"""Put a schedule on an unmodified diffusers pipeline, and take it off again.

Example:
    >>> import autotune
    >>> pipe = DiffusionPipeline.from_pretrained(...)                       # doctest: +SKIP
    >>> autotune.apply(pipe, "flux.schedule.json")                          # doctest: +SKIP
    >>> pipe("a photo of a cat", num_inference_steps=20)                    # doctest: +SKIP
    >>> autotune.remove(pipe)                                               # doctest: +SKIP
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autotune.evaluators.adapters import Adapter, find_adapter
from autotune.evaluators.attachment import Attachment, MeasuredRun
from autotune.evaluators.cache_runtime import CacheRuntime
from autotune.evaluators.correction_table import read_correction
from autotune.evaluators.guidance import GuidanceRuntime
from autotune.evaluators.hardware import device_name
from autotune.evaluators.inventory import list_inventory
from autotune.evaluators.noise import noise_schedule_of, prediction_of
from autotune.evaluators.policies import make_policy
from autotune.evaluators.policy_runtime import PolicyRuntime, PolicyUsage
from autotune.evaluators.presets import PRESETS
from autotune.evaluators.solver_scheduler import SolverProgramScheduler
from autotune.spaces.cache_correction import CacheCorrection
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.condition import Condition
from autotune.spaces.errors import ScheduleError, ScheduleMismatchError
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.inventory import Inventory
from autotune.spaces.noise_schedule import Flow, KnownNoise
from autotune.spaces.schedule import Schedule
from autotune.spaces.schedule_file import ScheduleFile, load_schedule_file

_ATTRIBUTE = "_autotune"


def attach(
    pipe: Any,
    schedule: Schedule,
    *,
    inventory: Inventory | None = None,
    noise: KnownNoise | None = None,
    correction: CacheCorrection | None = None,
) -> None:
    """Put a schedule on a pipeline without checking what it was measured on; `apply` does.

    An earlier schedule is taken off first. On an error the pipeline is as it was.

    Args:
        pipe: a diffusers pipeline.
        schedule: what to execute.
        inventory: the pipeline's inventory, if known; else its module tree is listed.
        noise: the noise schedule that the column `time` was made for. By default the pipeline's own, and a shift that
            it derives from the resolution leaves `time` alone.
        correction: the table that the column `cache_correction` names.

    Raises:
        ScheduleError: the cache plan does not fit the inventory, a column does not fit the noise schedule, or a table
            is missing.
        ScheduleMismatchError: a guidance column on a pipeline that doesn't guide in one batch.
        UnsupportedModelError: a cache or guidance column, and no adapter knows the denoiser.
    """
    _attach(pipe, schedule, inventory=inventory, noise=noise, correction=correction)


def compile_leaves(pipe: Any, **options: Any) -> None:
    """Compile the modules that schedules decide on, each on its own; do it before a schedule is applied.

    The number of graphs does not depend on the schedule, and `remove` leaves them as they are. Larger parts may be
    compiled instead, before `apply` and without `fullgraph=True`.

    Args:
        pipe: a diffusers pipeline.
        options: as `torch.compile` takes them.

    Raises:
        UnsupportedModelError: no adapter knows the denoiser.
    """
    inventory, denoiser = list_inventory(pipe), find_adapter(pipe).denoiser_of(pipe)
    for site in inventory.leaves:
        denoiser.get_submodule(inventory.sites[site].name).compile(**options)


def remove(pipe: Any) -> None:
    """Take an applied schedule off; the pipeline is exactly as before. Nothing happens if none is applied."""
    attachment = vars(pipe).get(_ATTRIBUTE)
    if attachment is not None:
        delattr(pipe, _ATTRIBUTE)
        attachment.uninstall()


def cache_runtime_of(pipe: Any) -> CacheRuntime | None:
    """What executes the applied schedule's cache plan; None without one."""
    attachment = vars(pipe).get(_ATTRIBUTE)
    return None if attachment is None else attachment.cache


def policy_usage(pipe: Any) -> PolicyUsage | None:
    """What the applied schedule's policy has computed since it was applied; None without a policy."""
    attachment = vars(pipe).get(_ATTRIBUTE)
    return None if attachment is None or attachment.policy is None else attachment.policy.usage


def apply(pipe: Any, source: str | Path | ScheduleFile) -> None:
    """Put a schedule file on a pipeline, if it was made for this model and sampler.

    Another dtype, device, resolution or model id warns; where the schedule has tables, another resolution, guidance
    scale or model id is an error. On an error the pipeline is as it was.

    Args:
        pipe: a diffusers pipeline.
        source: path of a schedule file, or its content.

    Raises:
        ScheduleError: the file can't be read or breaks a rule.
        ScheduleMismatchError: the schedule belongs to another denoiser, noise schedule, prediction or scheduler, or a
            table to another schedule or condition.
        UnsupportedModelError: no adapter knows the denoiser.
    """
    file = source if isinstance(source, ScheduleFile) else load_schedule_file(source)
    condition = file.condition
    adapter, inventory = find_adapter(pipe), list_inventory(pipe)
    check_file(pipe, file, inventory, stacklevel=3)
    correction = read_correction(file.schedule, condition, file.tables)
    shape = adapter.latent_shape(pipe, condition.height, condition.width)
    says_scale = adapter.guidance_argument == "guidance_scale"
    run = MeasuredRun(latent_shape=shape, guidance_scale=condition.guidance_scale if says_scale else None)
    noise = condition.noise_schedule
    _attach(pipe, file.schedule, inventory=inventory, noise=noise, correction=correction, measured=run)


def check_file(pipe: Any, file: ScheduleFile, inventory: Inventory, *, stacklevel: int = 2) -> None:
    """Return if a schedule file was made for this model and sampler; another dtype, device or model id warns.

    Raises:
        ScheduleMismatchError: see `apply`.
    """
    _check_fit(pipe, file.schedule, file.condition, inventory)
    if file.schedule.tables and (other := _other_model(pipe, file.condition)):
        raise ScheduleMismatchError(f"the tables of a schedule fit one model; {other}: correct the schedule for it")
    for difference in _differences(pipe, file.condition):
        warnings.warn(f"{difference}: speed and quality may differ from what was measured", stacklevel=stacklevel)


@contextlib.contextmanager
def applied(pipe: Any, source: str | Path | ScheduleFile) -> Iterator[None]:
    """`apply` for the length of a `with` block, also if it raises."""
    apply(pipe, source)
    try:
        yield
    finally:
        remove(pipe)


def _attach(
    pipe: Any,
    schedule: Schedule,
    *,
    inventory: Inventory | None = None,
    noise: KnownNoise | None = None,
    correction: CacheCorrection | None = None,
    measured: MeasuredRun | None = None,
    every_site: bool = False,
) -> Attachment:
    scheduler = _own_scheduler(pipe)
    adapter: Adapter | None = None
    cache: CacheRuntime | None = None
    guidance: GuidanceRuntime | None = None
    policy: PolicyRuntime | None = None
    if schedule.cache is not None:
        adapter = find_adapter(pipe)
        inventory = list_inventory(pipe) if inventory is None else inventory
        cache = _cache_runtime(pipe, schedule, schedule.cache, adapter, inventory, correction)
    if schedule.guidance is not None and any(action is not GuidanceAction.BOTH for action in schedule.guidance):
        adapter = find_adapter(pipe)
        if adapter.guidance != "batch":
            raise ScheduleMismatchError(
                f"a guidance column needs classifier-free guidance in one batch; {type(pipe).__name__} has none; "
                f"use a schedule without the column"
            )
        guidance = GuidanceRuntime(schedule.guidance)
    initial_scale = 1.0
    if noise is None and (schedule.time is not None or schedule.policy is not None):
        noise = noise_schedule_of(scheduler, 0.0)
        noise = dataclasses.replace(noise, dynamic=False) if isinstance(noise, Flow) else noise
    if schedule.policy is not None:
        assert noise is not None
        adapter = find_adapter(pipe)
        remove(pipe)  # diffusers refuses a second cache
        inventory = list_inventory(pipe) if inventory is None else inventory
        policy = make_policy(schedule.policy, pipe, adapter, inventory, noise, prediction_of(scheduler))
    if schedule.time is not None:
        assert noise is not None
        scheduler = SolverProgramScheduler.from_schedule(schedule, scheduler, noise, prediction_of(scheduler))
        initial_scale = scheduler.program.initial_scale
    remove(pipe)
    attachment = Attachment(
        pipe,
        schedule,
        cache=cache,
        guidance=guidance,
        policy=policy,
        initial_scale=initial_scale,
        measured=measured,
    )
    attachment.install(scheduler, adapter, every_site=every_site)
    setattr(pipe, _ATTRIBUTE, attachment)
    return attachment


def _cache_runtime(
    pipe: Any,
    schedule: Schedule,
    plan: CachePlan,
    adapter: Adapter,
    inventory: Inventory,
    correction: CacheCorrection | None,
) -> CacheRuntime:
    if schedule.cache_correction is not None and correction is None:
        raise ScheduleError("cache_correction needs its table; apply the schedule's file, which has it beside it")
    if inventory.denoiser_class != adapter.denoiser_class:
        raise ScheduleMismatchError(
            f"an inventory fits one class of denoisers; got one of {inventory.denoiser_class} for a "
            f"{adapter.denoiser_class}; leave it out to have it listed"
        )
    dropped = [action is not GuidanceAction.BOTH for action in schedule.guidance or ()]
    spans = adapter.list_spans(adapter.denoiser_of(pipe))
    return CacheRuntime(plan, inventory, dropped=dropped, copied=adapter.copied, spans=spans, correction=correction)


def _own_scheduler(pipe: Any) -> Any:
    """The pipeline's scheduler without any schedule applied."""
    attachment = vars(pipe).get(_ATTRIBUTE)
    return pipe.scheduler if attachment is None else attachment.scheduler_after_removal()


def _check_fit(pipe: Any, schedule: Schedule, condition: Condition, inventory: Inventory) -> None:
    """Raise ScheduleMismatchError for anything that would make the schedule compute something else."""
    scheduler = _own_scheduler(pipe)
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
