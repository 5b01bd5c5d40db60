"""The cache column of a schedule: one action per network call and site."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autotune.spaces.cache_action import ORDERS, CacheAction
from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import Inventory

_KNOWN_ACTIONS = bytes(CacheAction)
_ORDER = np.frombuffer(ORDERS, np.uint8)
_LOWER = np.array([[action.at_order(order) for order in range(3)] for action in CacheAction], np.uint8)
"""The action that an action is with so high an order at most."""


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
        if unknown := self.actions.translate(None, _KNOWN_ACTIONS):
            raise ScheduleError(f"cache actions must be in 0..{max(_KNOWN_ACTIONS)}; got {max(unknown)}")

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


@dataclass(frozen=True, slots=True, eq=False)
class CellUse:
    """What each cell of a plan does when it is executed, row 0 recomputing all; arrays (n_calls, n_sites)."""

    called: NDArray[np.bool_]
    """The network asks the site for a value: no module around it is skipped."""
    needed: NDArray[np.bool_]
    """The value, fresh or stored, changes this call's output or a value that a later call reads."""
    runs: NDArray[np.bool_]
    """The site computes, and the result is needed now or read later."""
    reads: NDArray[np.bool_]
    """A stored value, or a forecast from some, is handed out, and that matters."""
    order: NDArray[np.int_]
    """Order of that forecast with as many values as are there then, one more than the order; 0 elsewhere."""
    kept: NDArray[np.int_]
    """How many values, the newest, must stay stored after this call, since later calls read them."""


def cell_use(plan: CachePlan, inventory: Inventory) -> CellUse:
    """What each cell of a plan does.

    A site is needed in a call if its parent runs in that call (a site without a parent: always). A recomputed cell that
    is neither needed nor read later is dead: it is skipped, and so is all that hangs on it.

    Raises:
        ScheduleError: the plan does not fit the inventory.
    """
    if plan.n_sites != len(inventory):
        raise ScheduleError(
            f"a cache plan needs one column per site; got {plan.n_sites} columns for the {len(inventory)} sites of "
            f"{inventory.denoiser_class}; use a plan made for this model"
        )
    # Sites come first in all that follows, since numpy picks rows much faster than columns.
    asked_order = _ORDER[plan.table.T].astype(int)
    recompute = np.equal(plan.table.T, CacheAction.RECOMPUTE.value)  # numpy is slow on a member of an enumeration
    recompute[:, 0] = True
    called, needed, runs, reads = np.ones((4, *recompute.shape), bool)
    order, kept = np.zeros((2, *recompute.shape), int)
    for level in inventory.tree.levels:  # parents are final before their children are looked at
        sites, fresh = level.sites, recompute[level.sites]
        if len(level.parents):
            needed[sites] = wanted = runs[level.parents]
            called[sites] = asked = np.where(level.inside[:, None], wanted, called[level.parents])
            computes, read = asked & fresh, asked & wanted & ~fresh
        else:
            wanted, computes, read = needed[sites], fresh, ~fresh
        reads[sites] = read
        order[sites], kept[sites] = values_kept(computes, read, asked_order[sites])
        # A dead value is never among those that a read counts: whatever reads back to it makes it live.
        runs[sites] = computes & (wanted | (kept[sites] > 0))
    return CellUse(called.T, needed.T, runs.T, reads.T, order.T, kept.T)


def values_kept(
    computes: NDArray[np.bool_], reads: NDArray[np.bool_], order: NDArray[np.int_]
) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """The order of each read, and how many values must stay stored after each call: two int arrays (n, n_calls).

    Args:
        computes: where a value is made and stored, bool (n, n_calls); the first column is all True.
        reads: where stored values are read, bool (n, n_calls), nowhere together with `computes`.
        order: what order each read would like, int (n, n_calls).
    """
    n_made: NDArray[np.int_] = np.cumsum(computes, axis=1, dtype=int)
    possible = np.where(reads, np.minimum(order, n_made - 1), 0)
    # The values of a column are numbered from 1; a read of order m reaches back to the m-th before the newest.
    oldest = np.where(reads, n_made - possible, n_made[:, -1:] + 1)
    oldest_later = np.minimum.accumulate(oldest[:, ::-1], axis=1)[:, ::-1]
    kept: NDArray[np.int_] = np.zeros_like(n_made)
    kept[:, :-1] = np.maximum(0, n_made[:, :-1] - oldest_later[:, 1:] + 1)
    return possible, kept


def kept_of_unconditional(use: CellUse, dropped: NDArray[np.bool_]) -> NDArray[np.int_]:
    """`CellUse.kept` of the unconditional half of a guided batch: int (n_calls, n_sites).

    Rows that are `dropped` neither compute nor read it, so that its values live longer.
    """
    there = ~dropped[:, None]
    return values_kept((use.runs & there).T, (use.reads & there).T, use.order.T)[1].T


def canonical_plan(plan: CachePlan, inventory: Inventory) -> CachePlan | None:
    """The plan without dead genes, or None if it never reuses anything that matters.

    Rules R1 to R3 of the cache literature's canonicalisation: row 0 recomputes all; a cell that would compute what
    nobody reads, or that is not called, is a reuse; a forecast without enough values has the order that they allow.

    Raises:
        ScheduleError: the plan does not fit the inventory.
    """
    use = cell_use(plan, inventory)
    if not use.reads.any():
        return None
    read = _LOWER[plan.table, use.order]
    other = np.where(use.runs, CacheAction.RECOMPUTE.value, CacheAction.REUSE.value)
    return CachePlan.from_array(np.where(use.reads, read, other))


def needed_sites(table: NDArray[np.uint8], inventory: Inventory) -> NDArray[np.bool_]:
    """Where a site's value, fresh or stored, matters (`CellUse.needed`): bool (n_calls, n_sites)."""
    return cell_use(CachePlan.from_array(table), inventory).needed


def stored_sites(plan: CachePlan, inventory: Inventory) -> NDArray[np.bool_]:
    """Sites whose value some later call reads, so that memory must be kept for them: bool (n_sites,)."""
    return np.asarray(cell_use(plan, inventory).reads.any(axis=0))


def call_macs(plan: CachePlan | None, inventory: Inventory, n_calls: int) -> NDArray[np.int64]:
    """Multiply-accumulates of each network call for one image of one branch under the plan: int64 (n_calls,).

    A site that runs costs its own MACs less those of the sites inside it, which are counted by themselves. Dead cells
    cost nothing, so a plan and its canonical form cost the same.
    """
    if plan is None:
        return np.full(n_calls, inventory.total_macs, np.int64)
    own = inventory.tree.own_macs
    return np.asarray(inventory.total_macs - own.sum() + cell_use(plan, inventory).runs @ own, np.int64)


def plan_macs(plan: CachePlan | None, inventory: Inventory, n_calls: int) -> int:
    """Multiply-accumulates of `n_calls` network calls for one image of one branch under the plan."""
    return int(call_macs(plan, inventory, n_calls).sum())
