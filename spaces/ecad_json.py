"""Cache schedules in the JSON layout of ECAD (Aggarwal et al. 2025, arXiv 2506.15682).

`cache_schedule.schedule` maps a step ("000", "001", ..) to a block ("0", .., then "single_0", ..) to a component to a
boolean. Polarity: `true` is *recompute*, `false` is reuse. What is stored is a module's output before the gate and the
residual of its block, as here, and a reuse of nothing is a recompute there as here. `attributes` and `metrics` are
ECAD's own counts and figures, and are not read; any other key that is not known is an error.
"""

from collections.abc import Mapping

import numpy as np

from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.errors import ScheduleError
from autotune.spaces.imported_plan import ImportedPlan
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.strict_json import as_object, check_keys, parse_strict

_FLUX = {
    "": ("num_blocks", "transformer_blocks", {"full_attn": "attn", "full_ff": "ff", "full_ff_context": "ff_context"}),
    "single_": (
        "num_single_blocks",
        "single_transformer_blocks",
        {"single_attn": "attn", "single_proj_mlp": "proj_mlp", "single_proj_out": "proj_out"},
    ),
}
_PIXART = {"": ("num_blocks", "transformer_blocks", {"attn1": "attn1", "attn2": "attn2", "ff": "ff"})}

LAYOUTS: Mapping[str, Mapping[str, tuple[str, str, Mapping[str, str]]]] = {
    "FluxTransformer2DModel": _FLUX,
    "PixArtTransformer2DModel": _PIXART,
}
"""By denoiser class and prefix of ECAD's block: its key for their number, our blocks' path, our leaf by component."""

_SCHEDULE = ("num_blocks", "num_single_blocks", "num_inference_steps", "name", "attributes", "schedule")
_CONFIG = ("height", "width", "guidance_scale", "transformer_weights", "pipeline")
_CUSTOM = ("custom_compute_attn", "custom_compute_ff")
_REMEDY = "the file is truncated or is no JSON: get it again"


def parse_ecad(text: str, inventory: Inventory) -> ImportedPlan:
    """The schedule of a file's text over the sites of an inventory, whatever their order.

    Raises:
        ScheduleError: a key is unknown, missing or of the wrong type, which the message names; the blocks are not
            those of the inventory; or a block computes by code of ECAD's own.
    """
    data = as_object(parse_strict(text, remedy=_REMEDY), "a file of ECAD")
    check_keys(data, "", ("cache_schedule", "config", "metrics"), required=("cache_schedule",))
    described = as_object(data["cache_schedule"], "cache_schedule")
    check_keys(described, "cache_schedule.", _SCHEDULE, required=("num_blocks", "num_inference_steps", "schedule"))
    n_steps = _count(described, "num_inference_steps", least=1)
    columns = _columns(described, inventory)
    steps = as_object(described["schedule"], "cache_schedule.schedule")
    names = [f"{i:03d}" for i in range(n_steps)]
    check_keys(steps, "cache_schedule.schedule.", names, required=names)
    table = np.zeros((n_steps, len(inventory)), np.uint8)
    for row, name in zip(table, names, strict=True):
        _read_step(steps[name], f"cache_schedule.schedule.{name}", columns, row)
    config = as_object(data.get("config", {}), "config")
    check_keys(config, "config.", _CONFIG, required=())
    guidance = config.get("guidance_scale")
    if guidance is not None and (isinstance(guidance, bool) or not isinstance(guidance, int | float)):
        raise ScheduleError(f"config.guidance_scale must be a number; got {guidance!r}")
    return ImportedPlan(
        schedule=canonical_schedule(Schedule(n_steps=n_steps, cache=CachePlan.from_array(table)), inventory),
        name=str(described.get("name", "")),
        height=_size(config, "height"),
        width=_size(config, "width"),
        guidance_scale=None if guidance is None else float(guidance),
        remarks=_remarks(config),
    )


def _columns(described: Mapping[str, object], inventory: Inventory) -> dict[str, dict[str, int]]:
    """Column of the plan by ECAD's block and component."""
    layout = LAYOUTS.get(inventory.denoiser_class)
    if layout is None:
        raise ScheduleError(
            f"ECAD's files are for one of {', '.join(LAYOUTS)}; got a {inventory.denoiser_class}; name another model"
        )
    places = {site.name: i for i, site in enumerate(inventory.sites)}
    columns: dict[str, dict[str, int]] = {}
    expected = dict.fromkeys(("num_blocks", "num_single_blocks"), 0)
    for prefix, (count, path, leaves) in layout.items():
        blocks = dict.fromkeys(site.block for site in inventory.sites if site.block.startswith(f"{path}."))
        expected[count] = len(blocks)
        for block in blocks:
            columns[prefix + block.removeprefix(f"{path}.")] = {
                component: places[f"{block}.{leaf}"] for component, leaf in leaves.items()
            }
    for count, n in expected.items():
        if (count in described or n) and _count(described, count) != n:
            raise ScheduleError(
                f"cache_schedule.{count} must be the model's number of blocks, {n}; got {described[count]}: "
                f"name the model that the file was made for"
            )
    return columns


def _read_step(value: object, where: str, columns: Mapping[str, Mapping[str, int]], row: np.ndarray) -> None:
    """Set the reused cells of one row of the plan."""
    blocks = as_object(value, where)
    check_keys(blocks, f"{where}.", list(columns), required=list(columns))
    for block, places in columns.items():
        cells = as_object(blocks[block], f"{where}.{block}")
        for name in _CUSTOM:
            if cells.get(name) is not None:
                raise ScheduleError(
                    f"{where}.{block}.{name} asks for code of ECAD's own, as T-GATE does, which no schedule here can "
                    f"express; use a file without it"
                )
        check_keys(cells, f"{where}.{block}.", [*places, *_CUSTOM], required=list(places))
        for component, column in places.items():
            recompute = cells[component]
            if not isinstance(recompute, bool):
                raise ScheduleError(
                    f"{where}.{block}.{component} must be true (recompute) or false (reuse); got {recompute!r}"
                )
            row[column] = CacheAction.RECOMPUTE if recompute else CacheAction.REUSE


def _remarks(config: Mapping[str, object]) -> tuple[str, ...]:
    remarks = []
    pipeline = as_object(config.get("pipeline") or {}, "config.pipeline")
    check_keys(pipeline, "config.pipeline.", ("name", "kwargs"), required=())
    if pipeline.get("kwargs"):
        remarks.append(f"config.pipeline.kwargs is left out: pass {pipeline['kwargs']} to the pipeline yourself")
    if config.get("transformer_weights"):
        remarks.append(f"config.transformer_weights is left out: the file was made for {config['transformer_weights']}")
    return tuple(remarks)


def _count(data: Mapping[str, object], name: str, *, least: int = 0) -> int:
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ScheduleError(f"cache_schedule.{name} must be a whole number, at least {least}; got {value!r}")
    return value


def _size(config: Mapping[str, object], name: str) -> int | None:
    value = config.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ScheduleError(f"config.{name} must be a positive whole number of pixels; got {value!r}")
    return value
