"""Schedules written for other tools: what each file can say, and a sentence on whatever it can't."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from autotune.reports.diffusers_script import diffusers_script
from autotune.spaces.atomic_write import write_atomically
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.errors import ScheduleError, UsageError
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.inventory import Inventory
from autotune.spaces.plan_projection import PlanProjection, project_plan
from autotune.spaces.schedule import TABLE_COLUMNS, Schedule

_OTHER_COLUMNS = ("time", "solver", "compensation", "start", "correction", *TABLE_COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignFile:
    """A file for another tool. `lost` are sentences, each on something that the schedule does and the file does not."""

    text: str
    lost: tuple[str, ...]


def export_cache_dit(schedule: Schedule, inventory: Inventory) -> ForeignFile:
    """YAML for `cache_dit.load_configs`: a `steps_computation_mask`, 1 for a step that is computed.

    cache-dit decides for whole steps. A step is computed if at least half of the plan's cells in it are.

    Raises:
        ScheduleError: there is no cache column, its rows are no steps, or nothing of it is left.
    """
    plan = _cache_of(schedule)
    projection = project_plan(plan, inventory, ["step"] * len(inventory.leaves))
    mask = [int(computed) for computed in projection.computed[:, 0]]
    lost = (
        *_changes(projection, f"whole steps, of which {sum(mask)} of {len(mask)} are computed"),
        "in a step that is not computed cache-dit runs the first block and reuses the residual of all others, not the "
        "outputs of modules, so that its images are not those that were measured",
        *_left_out(schedule),
    )
    lines = [
        *(f"# {sentence}" for sentence in lost),
        "cache_config:",
        f"  num_inference_steps: {schedule.n_steps}",
        f"  steps_computation_mask: {mask}",
        "  steps_computation_policy: static",
        "  max_warmup_steps: 0",
        "  Fn_compute_blocks: 1",
        "  Bn_compute_blocks: 0",
    ]
    return ForeignFile(text="\n".join(lines) + "\n", lost=lost)


def export_smoothcache(schedule: Schedule, inventory: Inventory) -> ForeignFile:
    """JSON for SmoothCache: per type of component a list of 0 and 1, 1 for compute, that all blocks follow.

    A component computes in the steps in which at least half of its blocks do.

    Raises:
        ScheduleError: there is no cache column, its rows are no steps, or nothing of it is left.
    """
    components = [inventory.sites[i].component for i in inventory.leaves]
    projection = project_plan(_cache_of(schedule), inventory, components)
    lists = {
        name: [int(computed) for computed in column]
        for name, column in zip(dict.fromkeys(components), projection.computed.T, strict=True)
    }
    lost = (
        *_changes(projection, "types of components, the same in all blocks"),
        *_skipped(projection),
        *_left_out(schedule),
    )
    return ForeignFile(text=json.dumps(lists) + "\n", lost=lost)


def export_diffusers(schedule: Schedule, inventory: Inventory) -> ForeignFile:
    """A Python file that applies the columns cache and guidance to a diffusers pipeline, without this package.

    Raises:
        ScheduleError: the schedule has neither of them, or see `diffusers_script`.
    """
    lost = _left_out(replace(schedule, guidance=None))
    return ForeignFile(text=diffusers_script(schedule, inventory, lost), lost=lost)


FOREIGN_EXPORTS: Mapping[str, Callable[[Schedule, Inventory], ForeignFile]] = {
    "cache-dit": export_cache_dit,
    "smoothcache": export_smoothcache,
    "diffusers": export_diffusers,
}
"""By the name that `autotune export --format` takes."""


def write_for(form: str, schedule: Schedule, inventory: Inventory, path: Path) -> tuple[str, ...]:
    """Write the schedule in a format of `FOREIGN_EXPORTS`, whole or not at all; what is lost, in sentences.

    Raises:
        UsageError: there is no such format.
        ScheduleError: the format can't express the schedule.
        StorageError: the file can't be written.
    """
    if form not in FOREIGN_EXPORTS:
        raise UsageError(f"a format to export to is autotune or one of {', '.join(FOREIGN_EXPORTS)}; got {form!r}")
    file = FOREIGN_EXPORTS[form](schedule, inventory)
    write_atomically(path, file.text.encode())
    return file.lost


def _cache_of(schedule: Schedule) -> CachePlan:
    plan = schedule.cache
    if plan is None:
        raise ScheduleError("only a schedule with a cache column says something to another tool; export as autotune")
    if schedule.unconditional_cache is not None:
        raise ScheduleError("no other tool caches each guidance branch by a plan of its own; export as autotune")
    if plan.n_calls != schedule.n_steps:
        raise ScheduleError(
            f"lists with one number per step need one network call per step; the schedule has {plan.n_calls} calls in "
            f"{schedule.n_steps} steps: export as autotune or diffusers"
        )
    return plan


def _changes(projection: PlanProjection, grain: str) -> tuple[str, ...]:
    if projection.changed == 0.0:
        return ()
    before, after = projection.relative_macs
    work = "" if before != before else f"; multiply-accumulates go from {before:.1%} to {after:.1%} of an uncached run"
    forecasts = f" ({projection.forecasts:.1%} are forecasts, which become reuses)" if projection.forecasts else ""
    return (
        f"{projection.changed:.1%} of the plan's cells change{forecasts}, since the format decides for {grain}{work}",
    )


def _skipped(projection: PlanProjection) -> tuple[str, ...]:
    if projection.skipped == 0.0:
        return ()
    return (
        f"{projection.skipped:.1%} of the plan's cells are skipped with the block, the stack or the whole network "
        "around them, where SmoothCache reuses the outputs of modules, so that its images are not those measured",
    )


def _left_out(schedule: Schedule) -> tuple[str, ...]:
    columns = [name for name in _OTHER_COLUMNS if getattr(schedule, name) is not None]
    columns += ["guidance"] * _drops_branches(schedule)
    if not columns:
        return ()
    return (
        f"left out: {', '.join(columns)}; the pipeline's own way runs instead, and what was measured does not hold",
    )


def _drops_branches(schedule: Schedule) -> bool:
    return any(action is not GuidanceAction.BOTH for action in schedule.guidance or ())
