"""The cache column of a schedule: one action per network call and site."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import Inventory, Relation


class CacheAction(IntEnum):
    """What a site does in one network call."""

    RECOMPUTE = 0
    REUSE = 1


@dataclass(frozen=True, slots=True)
class CachePlan:
    """A table of `CacheAction`s, `n_calls` rows (network calls in execution order) x `n_sites` columns, row-major."""

    n_calls: int
    n_sites: int
    actions: bytes

    def __post_init__(self) -> None:
        if self.n_calls < 1 or self.n_sites < 1:
            raise ScheduleError(
                f"a cache plan needs at least one row and one column; got {self.n_calls} x {self.n_sites}"
            )
        if len(self.actions) != self.n_calls * self.n_sites:
            raise ScheduleError(
                f"a cache plan of {self.n_calls} x {self.n_sites} needs {self.n_calls * self.n_sites} actions; "
                f"got {len(self.actions)}"
            )
        if max(self.actions) > max(CacheAction):
            raise ScheduleError(f"cache actions must be in 0..{int(max(CacheAction))}; got {max(self.actions)}")

    @classmethod
    def from_array(cls, actions: ArrayLike) -> "CachePlan":
        """The plan of an integer or bool array (n_calls, n_sites); True is REUSE."""
        table = np.asarray(actions)
        if table.ndim != 2:
            raise ScheduleError(f"a cache plan is a table (n_calls, n_sites); got {table.ndim} dimensions")
        return cls(table.shape[0], table.shape[1], table.astype(np.uint8).tobytes())

    @property
    def table(self) -> NDArray[np.uint8]:
        """Actions as a read-only array (n_calls, n_sites)."""
        return np.frombuffer(self.actions, np.uint8).reshape(self.n_calls, self.n_sites)


def needed_sites(table: NDArray[np.uint8], inventory: Inventory) -> NDArray[np.bool_]:
    """Where a site's value, fresh or stored, changes the network's output: bool (n_calls, n_sites).

    A value is not needed in a call in which the site's parent, or the parent's parent, is reused.
    """
    needed = np.ones(table.shape, bool)
    for i in _parents_first(inventory):
        parent = inventory.sites[i].parent
        if parent is not None:
            needed[:, i] = needed[:, parent] & (table[:, parent] == CacheAction.RECOMPUTE)
    return needed


def canonical_plan(plan: CachePlan, inventory: Inventory) -> CachePlan | None:
    """The plan without dead genes, or None if it never reuses anything that matters.

    Rules R1 and R2 of the cache literature's canonicalisation: row 0 recomputes all; a recomputed cell whose value is
    neither needed in its own call nor read before the site's next recompute is a reuse. A site inside a reused parent
    is not called, so it can't refresh.

    Raises:
        ScheduleError: the plan does not fit the inventory.
    """
    if plan.n_sites != len(inventory):
        raise ScheduleError(f"the cache plan has {plan.n_sites} columns; the inventory has {len(inventory)} sites")
    table = plan.table.copy()
    table[0] = CacheAction.RECOMPUTE
    for i in _parents_first(inventory):  # parents are final before their children are looked at
        site = inventory.sites[i]
        if site.parent is None:
            continue
        needed = needed_sites(table, inventory)[:, i]
        called = np.ones(len(table), bool)
        if site.relation is Relation.INSIDE:
            called = needed
        table[~called, i] = CacheAction.REUSE
        read_later = False
        for t in range(len(table) - 1, 0, -1):
            if table[t, i] == CacheAction.RECOMPUTE:
                if not needed[t] and not read_later:
                    table[t, i] = CacheAction.REUSE
                else:
                    read_later = False
            elif needed[t]:
                read_later = True
    if (table[needed_sites(table, inventory)] == CacheAction.RECOMPUTE).all():
        return None
    return CachePlan.from_array(table)


def stored_sites(plan: CachePlan, inventory: Inventory) -> NDArray[np.bool_]:
    """Sites whose value some later call reads, so that memory must be kept for them: bool (n_sites,)."""
    reads = (plan.table == CacheAction.REUSE) & needed_sites(plan.table, inventory)
    return np.asarray(reads.any(axis=0))


def call_macs(plan: CachePlan | None, inventory: Inventory, n_calls: int) -> NDArray[np.int64]:
    """Multiply-accumulates of each network call for one image of one branch under the plan: int64 (n_calls,).

    A site that runs costs its own MACs less those of the sites inside it, which are counted by themselves.
    """
    if plan is None:
        return np.full(n_calls, inventory.total_macs, np.int64)
    own = np.array([site.macs for site in inventory.sites], np.int64)
    for site in inventory.sites:
        if site.relation is Relation.INSIDE and site.parent is not None:
            own[site.parent] -= site.macs
    runs = (plan.table == CacheAction.RECOMPUTE) & _called(plan.table, inventory)
    return np.asarray(inventory.total_macs - own.sum() + (runs * own).sum(axis=1), np.int64)


def plan_macs(plan: CachePlan | None, inventory: Inventory, n_calls: int) -> int:
    """Multiply-accumulates of `n_calls` network calls for one image of one branch under the plan."""
    return int(call_macs(plan, inventory, n_calls).sum())


def _called(table: NDArray[np.uint8], inventory: Inventory) -> NDArray[np.bool_]:
    called = np.ones(table.shape, bool)
    for i in _parents_first(inventory):
        site = inventory.sites[i]
        if site.parent is not None and site.relation is Relation.INSIDE:
            called[:, i] = called[:, site.parent] & (table[:, site.parent] == CacheAction.RECOMPUTE)
    return called


def _parents_first(inventory: Inventory) -> list[int]:
    def depth(i: int) -> int:
        parent = inventory.sites[i].parent
        return 0 if parent is None else 1 + depth(parent)

    return sorted(range(len(inventory)), key=depth)
