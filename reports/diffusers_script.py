"""A Python file that applies a cache plan to a pipeline on its own: `cached_pipeline.py` with a plan in it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan, canonical_plan, cell_use
from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import BLOCK, FINAL, STACK, Inventory
from autotune.spaces.schedule import Schedule, canonical_schedule, schedule_hash

_TEMPLATE = Path(__file__).with_name("cached_pipeline.py")
_BEGIN, _END = "# --- plan\n", "# --- end of plan\n"

COPIED = frozenset({"stage", "resnet"})
"""Components whose values others may change in place: `autotune.evaluators.adapters.Adapter.copied` of the UNet."""


def diffusers_script(schedule: Schedule, inventory: Inventory, remarks: Sequence[str] = ()) -> str:
    """Source of the file; `remarks` are sentences that are put on top as comments.

    Raises:
        ScheduleError: the schedule caches nothing, or forecasts, or caches blocks as a whole.
    """
    plan = None if schedule.cache is None else canonical_plan(schedule.cache, inventory)
    if plan is None:
        raise ScheduleError("only a schedule that caches makes a script for diffusers; export as autotune")
    if (plan.table > CacheAction.REUSE).any():
        share = float((plan.table > CacheAction.REUSE).mean())
        raise ScheduleError(
            f"a script for diffusers can't forecast; {share:.1%} of the plan's cells do: export as autotune, or choose "
            f"a schedule that reuses only"
        )
    letters = _letters(plan, inventory)
    spans = [site.component in (FINAL, STACK, BLOCK) for site in inventory.sites]
    if (letters[:, spans] != ".").any():
        raise ScheduleError(
            "a script for diffusers caches leaf modules and stages only; this plan also caches blocks, their stack or "
            "the hidden state: export as autotune, or choose another schedule"
        )
    gated = np.flatnonzero((letters != ".").any(axis=0))
    copied = sorted(inventory.sites[i].name for i in gated if inventory.sites[i].component in COPIED)
    name = schedule_hash(canonical_schedule(schedule, inventory))[:12]
    top = [
        f"# The cache plan of schedule {name}, written by autotune (Apache-2.0).",
        *(f"# Note: {remark}." for remark in remarks),
    ]
    lines = [
        f'DENOISER = "{inventory.denoiser_class}"',
        f"N_STEPS = {schedule.n_steps}",
        f"COPIED: frozenset[str] = frozenset({copied})",
        *_tuple_lines("SITES", [inventory.sites[i].name for i in gated]),
        *_tuple_lines("ROWS", ["".join(row) for row in letters[:, gated]]),
    ]
    before, rest = _TEMPLATE.read_text(encoding="utf-8").split(_BEGIN)
    after = rest.split(_END)[1]
    return "\n".join(top) + "\n" + before + _BEGIN + "\n".join(lines) + "\n" + _END + after


def _letters(plan: CachePlan, inventory: Inventory) -> np.ndarray:
    """What each site does in each call, in the letters of `cached_pipeline.ROWS`: (n_calls, n_sites)."""
    use = cell_use(plan, inventory)
    computed = np.where(use.runs & (use.kept > 0), "w", ".")
    read = np.where(use.kept > 0, "r", "t")
    return np.where(use.reads, read, np.where(use.called & ~use.runs, "d", computed))


def _tuple_lines(name: str, texts: Sequence[str]) -> list[str]:
    return [f"{name}: tuple[str, ...] = (", *(f'    "{text}",' for text in texts), ")"]
