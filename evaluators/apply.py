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
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from autotune.evaluators.adapters import Adapter, find_adapter
from autotune.evaluators.applied_tables import AppliedTables
from autotune.evaluators.attachment import Attachment
from autotune.evaluators.cache_runtime import CacheRuntime
from autotune.evaluators.file_check import check_file
from autotune.evaluators.guidance import BatchedGuidance, GuidanceRuntime, SeparateGuidance
from autotune.evaluators.guidance_gain import GuidanceGain
from autotune.evaluators.inventory import list_inventory
from autotune.evaluators.measured_run import MeasuredRun
from autotune.evaluators.noise import divides_by_alpha, noise_schedule_of, prediction_of
from autotune.evaluators.policies import make_policy
from autotune.evaluators.policy_runtime import PolicyRuntime, PolicyUsage
from autotune.evaluators.quantized_layers import KERNELS, QuantizationRuntime
from autotune.evaluators.solver_scheduler import SolverProgramScheduler
from autotune.spaces.branch_plans import fresh_with_both
from autotune.spaces.cache_correction import CacheCorrection
from autotune.spaces.cache_plan import CachePlan
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
    tables: AppliedTables | None = None,
) -> None:
    """Put a schedule on a pipeline without checking what it was measured on; `apply` does.

    An earlier schedule is taken off first. On an error the pipeline is as it was.

    Args:
        pipe: a diffusers pipeline.
        schedule: what to execute.
        inventory: the pipeline's inventory, if known; else its module tree is listed.
        noise: the noise schedule that the column `time` was made for. By default the pipeline's own, and a shift that
            it derives from the resolution leaves `time` alone.
        tables: what the columns `cache_correction` and `quantization` name.

    Raises:
        ScheduleError: the cache plan does not fit the inventory, a column does not fit the noise schedule, or a table
            is missing.
        ScheduleMismatchError: a guidance column on a pipeline that has no classifier-free guidance.
        UnsupportedModelError: a cache or guidance column, and no adapter knows the denoiser.
    """
    _attach(pipe, schedule, inventory=inventory, noise=noise, tables=tables)


def compile_leaves(pipe: Any, **options: Any) -> None:
    """Compile the modules that schedules decide on, each on its own; do it before a schedule is applied.

    The graphs are the same whatever the cache plan; where guidance drops branches, half batches have their own, at most
    as many again. `remove` leaves them as they are. Larger parts may be compiled instead, before `apply` and without
    `fullgraph=True`.

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


def quantization_runtime_of(pipe: Any) -> QuantizationRuntime | None:
    """What executes the applied schedule's quantization; None without one."""
    attachment = vars(pipe).get(_ATTRIBUTE)
    return None if attachment is None else attachment.quantization


def policy_usage(pipe: Any) -> PolicyUsage | None:
    """What the applied schedule's policy has computed since it was applied; None without a policy."""
    policy = _policy_of(pipe)
    return None if policy is None else policy.usage


def _policy_of(pipe: Any) -> PolicyRuntime | None:
    attachment = vars(pipe).get(_ATTRIBUTE)
    return None if attachment is None else attachment.policy


def apply(pipe: Any, source: str | Path | ScheduleFile) -> None:
    """Put a schedule file on a pipeline, if it was made for this model and sampler.

    A pipeline that was given real kernels by `use_kernels` keeps them in place of the schedule's quantization.
    Another dtype, device, resolution, guidance scale, model id or setting of the sampler warns; where the schedule has
    tables, all but the first two are errors, and so is another time grid. On an error the pipeline is as it was.

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
    check_file(pipe, file, inventory, own_scheduler(pipe), stacklevel=3)
    tables = AppliedTables.of(file.schedule, condition, file.tables)
    run = MeasuredRun.of(pipe, adapter, own_scheduler(pipe), file)
    _attach(pipe, file.schedule, inventory=inventory, noise=condition.noise_schedule, tables=tables, measured=run)


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
    tables: AppliedTables | None = None,
    measured: MeasuredRun | None = None,
    every_site: bool = False,
) -> Attachment:
    scheduler = own_scheduler(pipe)
    tables = AppliedTables() if tables is None else tables
    for name in schedule.tables:
        if getattr(tables, name) is None:
            raise ScheduleError(f"{name} needs its table; apply the schedule's file, which has it beside it")
    quantization: QuantizationRuntime | None = None
    adapter = None if measured is None else find_adapter(pipe)
    if tables.quantization is not None:
        adapter = find_adapter(pipe)
        if not hasattr(adapter.denoiser_of(pipe), KERNELS):  # else its layers are quantized already
            quantization = QuantizationRuntime(tables.quantization)
    cache: CacheRuntime | None = None
    policy: PolicyRuntime | None = None
    if schedule.cache is not None:
        adapter = find_adapter(pipe)
        inventory = list_inventory(pipe) if inventory is None else inventory
        cache = _cache_runtime(pipe, schedule, schedule.cache, adapter, inventory, tables.cache_correction)
    initial_scale, gains = 1.0, None
    if schedule.time is not None or schedule.policy is not None:
        noise = _noise_of(scheduler) if noise is None else noise
        prediction = prediction_of(scheduler)
        if schedule.time is not None:
            scheduler = SolverProgramScheduler.from_schedule(schedule, scheduler, noise, prediction)
            initial_scale, gains = scheduler.program.initial_scale, scheduler.program.guidance_gains
        if schedule.policy is not None:
            adapter = find_adapter(pipe)
            inventory = list_inventory(pipe) if inventory is None else inventory
            policy = make_policy(
                schedule.policy, pipe, adapter, inventory, noise, prediction, by_alpha=divides_by_alpha(scheduler),
                replaced=_policy_of(pipe),
            )  # fmt: skip
    guidance = _guidance_runtime(pipe, schedule, gained=gains is not None)
    adapter = adapter if guidance is None else find_adapter(pipe)
    remove(pipe)
    attachment = Attachment(
        pipe,
        schedule,
        cache=cache,
        guidance=guidance,
        gain=None if gains is None else GuidanceGain(gains.tolist(), separate=isinstance(guidance, SeparateGuidance)),
        policy=policy,
        quantization=quantization,
        initial_scale=initial_scale,
        measured=measured,
    )
    attachment.install(scheduler, adapter, every_site=every_site)
    setattr(pipe, _ATTRIBUTE, attachment)
    return attachment


def _noise_of(scheduler: Any) -> KnownNoise:
    noise = noise_schedule_of(scheduler, 0.0)
    return dataclasses.replace(noise, dynamic=False) if isinstance(noise, Flow) else noise


def _cache_runtime(
    pipe: Any,
    schedule: Schedule,
    plan: CachePlan,
    adapter: Adapter,
    inventory: Inventory,
    correction: CacheCorrection | None,
) -> CacheRuntime:
    if inventory.denoiser_class != adapter.denoiser_class:
        raise ScheduleMismatchError(
            f"an inventory fits one class of denoisers; got one of {inventory.denoiser_class} for a "
            f"{adapter.denoiser_class}; leave it out to have it listed"
        )
    dropped = [action is not GuidanceAction.BOTH for action in schedule.guidance or ()]
    if any(dropped) and schedule.unconditional_cache is None:
        plan = fresh_with_both(plan, np.array(dropped))  # as it must be in one batch, and the canonical form says
    denoiser = adapter.denoiser_of(pipe)
    return CacheRuntime(
        plan,
        inventory,
        unconditional=schedule.unconditional_cache,
        dropped=dropped,
        separate=adapter.guidance != "batch",
        copied=adapter.copied,
        spans=adapter.list_spans(denoiser),
        norms=adapter.list_norms(denoiser) if getattr(pipe, adapter.denoiser_attr) is denoiser else {},
        correction=correction,
    )


def _guidance_runtime(pipe: Any, schedule: Schedule, *, gained: bool) -> GuidanceRuntime | None:
    """What executes the guidance column; also where there is none, if two plans or gains need a guided run."""
    column, gained = schedule.guidance, gained or schedule.unconditional_cache is not None
    if not gained and set(column or ()) <= {GuidanceAction.BOTH}:
        return None
    if column is None:
        n_calls = schedule.n_steps if schedule.cache is None else schedule.cache.n_calls
        column = (GuidanceAction.BOTH,) * n_calls
    return SeparateGuidance(column) if guides_in_two_calls(pipe) else BatchedGuidance(column)


def guides_in_two_calls(pipe: Any) -> bool:
    """Whether the branches of classifier-free guidance are two calls of a step, not the halves of one batch.

    Raises:
        ScheduleMismatchError: the pipeline has no such guidance.
    """
    adapter = find_adapter(pipe)
    if adapter.guidance == "batch":
        return False
    # FLUX is distilled, and guides in two calls besides, if it is asked to.
    if adapter.guidance == "calls" or "true_cfg_scale" in inspect.signature(pipe.__call__).parameters:
        return True
    raise ScheduleMismatchError(
        f"the columns guidance and unconditional_cache, and a guidance_gain, need classifier-free guidance; "
        f"{type(pipe).__name__} has none; use a schedule without them"
    )


def own_scheduler(pipe: Any) -> Any:
    """The pipeline's scheduler without any schedule applied."""
    attachment = vars(pipe).get(_ATTRIBUTE)
    return pipe.scheduler if attachment is None else attachment.scheduler_after_removal()
