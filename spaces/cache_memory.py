"""How much memory the stored values of a schedule take at their peak: exactly what the runtime counts.

Except for what a history correction keeps of the last refreshes: four tensors of the latents' size.
"""

from dataclasses import dataclass

import numpy as np

from autotune.spaces.branch_plans import branch_uses
from autotune.spaces.errors import ScheduleError
from autotune.spaces.guidance_column import differences_kept, dropped_rows
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMemory:
    """Bytes of each site's value for one image, and the order in which sites end within a network call.

    `value_bytes` has a row per network call of a step (two where each guidance branch is a call, the conditional one
    first), each with an entry per site; a value of a guided batch covers both branches. `order` lists the sites.
    `difference_bytes` is the size of a difference of the branches, for one image.
    """

    value_bytes: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]
    difference_bytes: int = 0

    def __post_init__(self) -> None:
        n_sites = len(self.order)
        if sorted(self.order) != list(range(n_sites)) or any(len(row) != n_sites for row in self.value_bytes):
            raise ScheduleError(
                f"the sizes of cached values need one entry per site and an order of them; got "
                f"{[len(row) for row in self.value_bytes]} and an order of {n_sites}; measure them again"
            )

    def peak_bytes(self, schedule: Schedule, inventory: Inventory) -> int:
        """Most bytes that cached values and differences of the branches take at one time, of one image.

        Raises:
            ScheduleError: the schedule does not fit the inventory.
        """
        column = schedule.guidance
        if schedule.cache is None:
            return self.difference_bytes * max(differences_kept(column or ()), default=0)
        dropped = np.array(dropped_rows(column, schedule.cache.n_calls))
        uses = branch_uses(schedule.cache, schedule.unconditional_cache, dropped, inventory)
        branches = [use.kept for use in uses]
        sizes = np.array(self.value_bytes, np.int64)
        if len(sizes) == 1 and schedule.unconditional_cache is not None:  # then each branch is a call, of half a batch
            sizes = np.repeat(sizes // 2, 2, axis=0)
        if len(sizes) == 1:
            kept = (branches[0] + branches[1])[:, None] / 2
        else:  # a whole value of each branch, in its own call
            kept = np.stack([branches[min(call, 1)] for call in range(len(sizes))], axis=1)
        changes = np.diff(kept, axis=0, prepend=0)
        # Call by call, and in each site by site: what a site frees makes room for those after it only.
        events = (changes * sizes)[..., list(self.order)]
        held = np.cumsum(events).reshape(len(changes), -1)
        if column is None:
            return max(0, int(held.max()))
        after = self.difference_bytes * np.array(differences_kept(column))  # they change as a step's last call ends
        during = np.insert(after[:-1], 0, 0)
        return max(0, int(np.maximum(held.max(axis=1) + during, held[:, -1] + after).max()))
