"""What a schedule computes: multiply-accumulates of its network calls."""

import numpy as np

from autotune.spaces.cache_plan import call_macs
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
    """
    branches = np.full(n_calls, n_branches)
    if n_branches > 1:
        branches -= np.array(dropped_rows(schedule.guidance, n_calls), int)
    return int((call_macs(schedule.cache, inventory, n_calls) * branches).sum())
