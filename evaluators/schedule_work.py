"""What a schedule makes the network do: calls and multiply-accumulates."""

from collections.abc import Callable

import numpy as np

from autotune.spaces.cache_plan import call_macs
from autotune.spaces.guidance_column import dropped_rows
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule


class ScheduleWork:
    """Counts for one model: `n_branches` per guided call, `own_calls(n)` calls of the pipeline's own run of n steps."""

    def __init__(self, inventory: Inventory, n_branches: int, own_calls: Callable[[int], int]) -> None:
        self._inventory, self._n_branches, self._own_calls = inventory, n_branches, own_calls

    def n_calls(self, schedule: Schedule) -> int:
        """Network calls per image; a guided pair counts as one."""
        return schedule.n_steps if schedule.time is not None else self._own_calls(schedule.n_steps)

    def macs(self, schedule: Schedule) -> int:
        """Multiply-accumulates for one image, all branches."""
        n_calls = self.n_calls(schedule)
        branches = np.where(dropped_rows(schedule.guidance, n_calls), 1, self._n_branches)
        return int((call_macs(schedule.cache, self._inventory, n_calls) * branches).sum())
