"""How long a schedule takes, from the times of the sites that run and what reading and storing values costs."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.branch_plans import branch_uses
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan, CellUse
from autotune.spaces.errors import ScheduleError
from autotune.spaces.guidance_column import dropped_rows
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyModel:
    """Times in milliseconds per image; the lists have one entry per site of the inventory.

    A run takes `run_ms` (preparation, decoding) and what its network calls take. A call takes `call_ms` (sampler, all
    of the network that is no site), or `half_call_ms` where the guidance column drops a branch, `solver_ms` more where
    the schedule has its own solver (less, if negative), and for each site: `site_ms` (`half_site_ms` with a dropped
    branch) where it runs, sites inside it left out; `write_ms` where its value is stored; `read_ms` where a stored
    value is handed out, and `term_ms` for each value that a forecast combines. Half a batch is read and written in half
    the time. Where each branch has a plan of its own, a call is two calls of one branch.
    """

    run_ms: float
    call_ms: float
    half_call_ms: float
    solver_ms: float
    site_ms: tuple[float, ...]
    half_site_ms: tuple[float, ...]
    read_ms: tuple[float, ...]
    term_ms: tuple[float, ...]
    write_ms: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("half_site_ms", "read_ms", "term_ms", "write_ms"):
            if len(getattr(self, name)) != len(self.site_ms):
                raise ScheduleError(
                    f"{name} of a latency model must have one entry per site; got {len(getattr(self, name))} for "
                    f"{len(self.site_ms)} sites; measure it again"
                )
        numbers = [value for name in self.__slots__ for value in np.atleast_1d(getattr(self, name))]
        if not np.isfinite(numbers).all():
            raise ScheduleError("the times of a latency model must be finite; measure it again")

    @classmethod
    def of_macs(cls, inventory: Inventory, *, run_ms: float, call_ms: float, mac_ms: float, half: float) -> Self:
        """A model in which all time of the network goes into multiply-accumulates, at `mac_ms` each.

        `call_ms` is what a call takes besides; `half` the share of its multiply-accumulates with a dropped branch.
        """
        own = inventory.tree.own_macs * mac_ms
        outside = (inventory.total_macs * mac_ms) - float(own.sum())
        sites, free = tuple(own.tolist()), (0.0,) * len(inventory)
        return cls(
            run_ms=run_ms,
            call_ms=call_ms + outside,
            half_call_ms=call_ms + half * outside,
            solver_ms=0.0,
            site_ms=sites,
            half_site_ms=tuple((half * own).tolist()),
            read_ms=free,
            term_ms=free,
            write_ms=free,
        )

    def run_time_ms(self, schedule: Schedule, inventory: Inventory, n_calls: int) -> float:
        """Milliseconds per image of a run of `n_calls` network calls under the schedule.

        Raises:
            ScheduleError: the schedule does not fit the inventory.
        """
        return float(self.run_ms + self.call_times_ms(schedule, inventory, n_calls).sum())

    def call_times_ms(self, schedule: Schedule, inventory: Inventory, n_calls: int) -> Array:
        """Milliseconds per image of each network call: (n_calls,); see `run_time_ms`."""
        dropped = np.array(dropped_rows(schedule.guidance, n_calls))
        plan = schedule.cache
        if plan is None:
            plan = CachePlan.from_array(np.full((n_calls, len(inventory)), CacheAction.RECOMPUTE, np.uint8))
        conditional, unconditional = branch_uses(plan, schedule.unconditional_cache, dropped, inventory)
        solver = self.solver_ms * (schedule.solver is not None)
        if schedule.unconditional_cache is None:
            return solver + self._times_ms(conditional, dropped)
        alone = np.ones(n_calls, bool)
        return solver + self._times_ms(conditional, alone) + ~dropped * self._times_ms(unconditional, alone)

    def _times_ms(self, use: CellUse, half: NDArray[np.bool_]) -> Array:
        """Of each network call, made of both branches or, where `half`, of one: (n_calls,)."""
        share = np.where(half, 0.5, 1.0)[:, None]
        cells = np.where(half[:, None], self.half_site_ms, self.site_ms) * use.runs
        cells = cells + share * (use.reads * (np.array(self.read_ms) + combined(use) * np.array(self.term_ms)))
        cells = cells + share * (written(use) * np.array(self.write_ms))
        return np.asarray(np.where(half, self.half_call_ms, self.call_ms) + cells.sum(axis=1))


def written(use: CellUse) -> NDArray[np.bool_]:
    """Where a fresh value is stored, since a later call reads it: bool (n_calls, n_sites)."""
    return use.runs & (use.kept > 0)


def combined(use: CellUse) -> NDArray[np.int_]:
    """How many values a cell's forecast combines; 0 where a value is handed out as it is: int (n_calls, n_sites)."""
    return np.where(use.order > 0, use.order + 1, 0)
