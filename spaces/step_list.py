"""Whole steps that are computed or cached, as a list: a mask, or the indices of the computed steps.

Masks are what cache-dit calls `steps_computation_mask` and step planners print: one number per step, 1 for compute and
0 for cache. LeMiCa's and MeanCache's tables list the computed steps instead, counted from 0. Since the first step must
compute, a mask begins with 1 and a list of steps with 0, and no list can be taken for the other.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.errors import ScheduleError
from autotune.spaces.imported_plan import ImportedPlan
from autotune.spaces.inventory import STACK, Inventory
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.strict_json import parse_strict

REMARK = (
    "a cached step reuses what the whole stack of blocks added, of a UNet its last hidden state; tools that made such "
    "lists may reuse something else, so quality may differ from theirs"
)


def parse_step_list(text: str, inventory: Inventory, *, n_steps: int | None = None) -> ImportedPlan:
    """The schedule of a JSON list of numbers, the same for every site.

    Args:
        text: a mask such as `[1, 0, 0, 1]`, or computed steps such as `[0, 3]`.
        inventory: the sites of the plan.
        n_steps: number of steps; needed for computed steps, and for a mask it must be its length.

    Raises:
        ScheduleError: it is neither, or `n_steps` is missing or does not fit.
    """
    values = parse_strict(text, remedy="write a list such as [1, 0, 0, 1]")
    if not isinstance(values, list) or not values:
        raise ScheduleError(f"a step list must be a JSON list of whole numbers; got {text.strip()[:40]!r}")
    for i, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ScheduleError(f"a step list must hold whole numbers; got {value!r} at position {i}")
    mask = list(values) if values[0] == 1 else _mask_of_steps(values, n_steps)
    check_mask(mask, "a step list")
    if n_steps is not None and len(mask) != n_steps:
        raise ScheduleError(f"a mask must have one number per step; got {len(mask)} for {n_steps} steps")
    stack = [i for i, site in enumerate(inventory.sites) if site.component == STACK]
    sites = np.isin(np.arange(len(inventory)), stack or inventory.outermost)
    table = np.equal(mask, 0)[:, None] & sites[None, :]
    schedule = Schedule(n_steps=len(mask), cache=CachePlan.from_array(table))
    return ImportedPlan(schedule=canonical_schedule(schedule, inventory), remarks=(REMARK,))


def check_mask(mask: Sequence[object], name: str) -> None:
    """Return if a mask holds 0 (cache) and 1 (compute) only, and begins with 1.

    Raises:
        ScheduleError: it does not; the message says `name` and the position.
    """
    for i, value in enumerate(mask):
        if isinstance(value, bool) or value not in (0, 1):
            raise ScheduleError(f"{name} must hold 1 (compute) and 0 (cache) only; got {value!r} at position {i}")
    if not mask or mask[0] != 1:
        raise ScheduleError(
            f"{name} must begin with 1, since nothing is stored before the first step; if 1 stands for cache there, "
            f"swap 0 and 1"
        )


def _mask_of_steps(steps: list[int], n_steps: int | None) -> list[int]:
    if steps[0] != 0:
        raise ScheduleError(
            f"a step list must be a mask, which begins with 1, or the computed steps, which begin with 0; got "
            f"{steps[0]} first: count steps from 0, the noisiest"
        )
    if n_steps is None:
        raise ScheduleError(
            "a list of computed steps does not say how many steps there are; give their number (on the command line "
            "with --steps)"
        )
    if any(b <= a for a, b in itertools.pairwise(steps)) or steps[-1] >= n_steps:
        raise ScheduleError(
            f"computed steps must increase and be below the number of steps, {n_steps}; got {steps}: sort them"
        )
    computed = set(steps)
    return [int(i in computed) for i in range(n_steps)]
