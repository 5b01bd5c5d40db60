"""What a schedule makes the network do: calls and multiply-accumulates."""

from collections.abc import Callable
from typing import Literal

from autotune.evaluators.policy_runtime import PolicyUsage
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule
from autotune.spaces.schedule_macs import schedule_macs


class ScheduleWork:
    """Counts for one model.

    `guidance` says where its two branches run, `embedded` if there is one; see `Adapter`. `own_calls(n)` are the calls
    of the pipeline's own run of n steps. `usage` is what a run with a policy computed.
    """

    def __init__(
        self, inventory: Inventory, guidance: Literal["batch", "calls", "embedded"], own_calls: Callable[[int], int]
    ) -> None:
        self._inventory, self._guidance, self._own_calls = inventory, guidance, own_calls

    def n_calls(self, schedule: Schedule, usage: PolicyUsage | None = None) -> int:
        """Network calls per image; a guided pair counts as one."""
        if usage is not None:
            return round(usage.computed_calls)
        return schedule.n_steps if schedule.time is not None else self._own_calls(schedule.n_steps)

    def macs(self, schedule: Schedule, usage: PolicyUsage | None = None) -> int:
        """Multiply-accumulates for one image, all branches."""
        if usage is not None:  # of one row of the batch, over all calls
            return round(usage.macs_per_row * (2 if self._guidance == "batch" else 1))
        return self._counted(schedule, self._inventory)

    def bit_operations(self, schedule: Schedule, weighed: Inventory, usage: PolicyUsage | None = None) -> int:
        """The same in bit operations, which `weighed` counts in place of multiply-accumulates.

        Of a policy, whatever it skips is taken to have the mean precision of the network.
        """
        if usage is not None:
            return round(self.macs(schedule, usage) * weighed.total_macs / self._inventory.total_macs)
        return self._counted(schedule, weighed)

    def _counted(self, schedule: Schedule, inventory: Inventory) -> int:
        n_branches = 1 if self._guidance == "embedded" else 2
        return schedule_macs(schedule, inventory, self.n_calls(schedule), n_branches)
