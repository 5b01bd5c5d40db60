"""What a schedule computes: multiply-accumulates of its network calls."""

import numpy as np

from autotune.spaces.branch_plans import of_calls
from autotune.spaces.cache_plan import call_macs
from autotune.spaces.errors import ScheduleError
from autotune.spaces.guidance_column import dropped_rows
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule


def schedule_macs(schedule: Schedule, inventory: Inventory, n_calls: int, n_branches: int) -> int:
    """Multiply-accumulates of all network calls for one image.

    Args:
        schedule: its cache and guidance columns have `n_calls` rows.
        inventory: the sites of one call of one branch.
        n_calls: network calls of a run.
        n_branches: guidance branches of a call, 1 or 2, of which the guidance column leaves one out.

    Raises:
        ScheduleError: the schedule does not fit the inventory, or has a plan for a branch that is not there.
    """
    if schedule.unconditional_cache is not None and n_branches == 1:
        raise ScheduleError(
            "unconditional_cache needs classifier-free guidance, and here there is none; leave it out, or raise the "
            "guidance scale"
        )
    macs = call_macs(schedule.cache, inventory, n_calls)
    if n_branches == 1:
        return int(macs.sum())
    both = ~np.array(dropped_rows(schedule.guidance, n_calls))
    if schedule.unconditional_cache is None:
        return int(macs.sum() + macs[both].sum())
    plan = of_calls(schedule.unconditional_cache, both)
    return int(macs.sum() + (0 if plan is None else call_macs(plan, inventory, plan.n_calls).sum()))
