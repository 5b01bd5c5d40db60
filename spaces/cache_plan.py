"""The cache column of a schedule: one action per network call and site."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import Inventory


class CacheAction(IntEnum):
    """What a site does in one network call."""

    RECOMPUTE = 0
    REUSE = 1


_KNOWN_ACTIONS = bytes(CacheAction)


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
    """What each cell of a plan does when it is executed, row 0 recomputing all; bool arrays (n_calls, n_sites)."""

    called: NDArray[np.bool_]
    """The network asks the site for a value: no module around it is skipped."""
    needed: NDArray[np.bool_]
    """The value, fresh or stored, changes this call's output or a value that a later call reads."""
    runs: NDArray[np.bool_]
    """The site computes, and the result is needed now or read later."""
    reads: NDArray[np.bool_]
    """The stored value is handed out, and that matters."""
    kept: NDArray[np.bool_]
    """A value must stay stored after this call, since a later call reads it before the site runs again."""


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
    recompute = np.equal(plan.table.T, CacheAction.RECOMPUTE.value)  # numpy is slow on a member of an enumeration
    recompute[:, 0] = True
    called, needed, runs, reads, kept = np.ones((5, *recompute.shape), bool)
    for level in inventory.tree.levels:  # parents are final before their children are looked at
        sites, fresh = level.sites, recompute[level.sites]
        if len(level.parents):
            needed[sites] = wanted = runs[level.parents]
            called[sites] = asked = np.where(level.inside[:, None], wanted, called[level.parents])
            computes, read = asked & fresh, asked & wanted & ~fresh
        else:
            wanted, computes, read = needed[sites], fresh, ~fresh
        reads[sites], kept[sites] = read, (read_later := _comes_next(read, computes))
        runs[sites] = computes & (wanted | read_later)
    return CellUse(called.T, needed.T, runs.T, reads.T, kept.T)


def _comes_next(event: NDArray[np.bool_], other: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the event is the first thing to happen after a column, before the other one: bool (n, n_columns).

    Shape of the arguments (n, n_columns); in no cell both happen.
    """
    n_columns = event.shape[1]
    # Earlier columns have larger codes, so that the largest one from a column on is the nearest; events have odd ones.
    code = (event | other) * np.arange(2 * n_columns, 0, -2) + event
    nearest = np.maximum.accumulate(code[:, ::-1], axis=1)[:, ::-1]
    following = np.zeros(event.shape, bool)
    following[:, :-1] = nearest[:, 1:] & 1
    return following


def canonical_plan(plan: CachePlan, inventory: Inventory) -> CachePlan | None:
    """The plan without dead genes, or None if it never reuses anything that matters.

    Rules R1 and R2 of the cache literature's canonicalisation: row 0 recomputes all; a cell that would compute what
    nobody reads, or that is not called, is a reuse.

    Raises:
        ScheduleError: the plan does not fit the inventory.
    """
    use = cell_use(plan, inventory)
    return CachePlan.from_array(~use.runs) if use.reads.any() else None


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
