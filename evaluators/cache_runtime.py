"""Gates on the leaf modules of a denoiser, which recompute or hand out stored values as a cache plan says.

Mechanism: each gated module gets an instance attribute `forward`; the code of the model is untouched. What is stored is
exactly what the module returned, before any gate or residual of the block around it.
"""

import functools
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autotune.evaluators.branch_store import BranchStore, Value, map_tensors
from autotune.evaluators.override import Overrides
from autotune.spaces.cache_plan import CachePlan, CellUse, cell_use
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.inventory import Inventory


class _Cell(IntEnum):
    """What a gate does in one row."""

    PASS = 0
    """Compute; nothing is stored."""
    SHAPE = 1
    """Compute and note the shape of the result, which a later `DEAD` cell needs."""
    WRITE = 2
    READ = 3
    TAKE = 4
    """Read for the last time, and free the memory."""
    DEAD = 5
    """Nobody reads the result: hand out zeros of the right shape."""


class CacheRuntime:
    """Executes one cache plan on one denoiser.

    A value is kept from the call that computed it to the last call that reads it, so memory is taken by live sites
    only. A value that should be there and is not (the shapes changed, the run began in the middle) is recomputed and
    counted in `missed`. Nothing is stored outside `enter` and `leave`, where gates are transparent.
    """

    def __init__(
        self,
        plan: CachePlan,
        inventory: Inventory,
        *,
        dropped: Sequence[bool] = (),
        copied: frozenset[str] = frozenset(),
    ) -> None:
        """Prepare the rows of a plan.

        Args:
            plan: what to execute; it need not be canonical.
            inventory: the sites that the plan's columns stand for.
            dropped: per row, whether the guidance column drops the unconditional branch; by default nowhere.
            copied: components whose values are stored and handed out as copies.

        Raises:
            ScheduleError: the plan does not fit the inventory.
        """
        self._inventory = inventory
        self._copied = [site.component in copied for site in inventory.sites]
        cells = _cells(plan, inventory, np.array(dropped or [False] * plan.n_calls, bool))
        self._rows = [row.tobytes() for row in cells]
        self._idle = bytes(len(inventory))
        self._gated = {i for i, column in enumerate(cells.T) if column.any()}
        self._sometimes_dead = {i for i, column in enumerate(cells.T) if (column == _Cell.DEAD).any()}
        self._sources = [_ancestors(i, inventory) for i in range(len(inventory))]
        self._store = BranchStore()
        self._cells = self._idle
        self._call = self._batch = 0
        self._half = False
        self._shapes: dict[tuple[int, int], Value] = {}
        self._written: set[int] = set()
        self.missed = 0

    @property
    def stored_bytes(self) -> int:
        """Bytes of the values that are stored now."""
        return self._store.n_bytes

    @property
    def peak_bytes(self) -> int:
        """Most bytes that were stored at one time since the run began."""
        return self._store.peak_bytes

    def install(self, denoiser: torch.nn.Module, overrides: Overrides, *, every_site: bool = False) -> None:
        """Set the gates; a site that only ever recomputes needs none, unless `every_site` asks for it."""
        for i, site in enumerate(self._inventory.sites):
            if every_site or i in self._gated:
                module = denoiser.get_submodule(site.name)
                overrides.set(module, "forward", self._make_gate(i, module.forward))

    def reset(self) -> None:
        """Forget all values, as at the start of a run."""
        self.leave()
        self._store.clear()
        self._shapes.clear()

    def begin(self) -> None:
        """Begin the telemetry of a run."""
        self.missed = 0
        self._store.reset_peak()

    def enter(self, row: int, call: int, *, batch: int, half: bool) -> None:
        """Arm the gates for one network call.

        Args:
            row: row of the plan.
            call: ordinal of the call within the row; guidance by two calls keeps two sets of values.
            batch: rows of the batch that the network really computes.
            half: whether that is the conditional branch of a guided batch alone.
        """
        self._cells, self._call, self._batch, self._half = self._rows[row], call, batch, half
        self._written.clear()

    def leave(self) -> None:
        """Disarm the gates."""
        self._cells = self._idle

    def _make_gate(self, site: int, original: Callable[..., Value]) -> Callable[..., Value]:
        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Value:
            cell = self._cells[site]
            if cell == _Cell.PASS:
                return original(*args, **kwargs)
            return self._act(site, cell, original, args, kwargs)

        return forward

    def _act(
        self, site: int, cell: int, original: Callable[..., Value], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Value:
        key = (self._call, site)
        if cell in (_Cell.READ, _Cell.TAKE):
            if self._store.holds(key, half=self._half):
                value = self._store.read(key, half=self._half)
                if cell == _Cell.TAKE:
                    self._store.drop(key)
                elif self._copied[site]:
                    value = map_tensors(torch.clone, value)
                return value
            self.missed += 1
        elif cell == _Cell.DEAD and key in self._shapes and self._source_is_stored(site):
            return map_tensors(self._zeros, self._shapes[key])
        value = original(*args, **kwargs)
        if site in self._sometimes_dead:
            self._shapes[key] = map_tensors(lambda x: x.new_zeros(()).expand(x.shape), value)
        if cell in (_Cell.WRITE, _Cell.READ):
            self._write(key, value)
        return value

    def _write(self, key: tuple[int, int], value: Value) -> None:
        site = key[1]
        if site in self._written:
            raise ScheduleMismatchError(
                f"a cached module must run once per network call; {self._inventory.sites[site].name} ran twice; "
                f"switch off feed-forward chunking"
            )
        self._written.add(site)
        self._store.write(key, map_tensors(torch.clone, value) if self._copied[site] else value, half=self._half)

    def _source_is_stored(self, site: int) -> bool:
        """Whether the reused site that makes this one dead has its value, so that nothing needs this one."""
        for ancestor in self._sources[site]:
            if self._cells[ancestor] in (_Cell.READ, _Cell.TAKE):
                return self._store.holds((self._call, ancestor), half=self._half)
        return True

    def _zeros(self, like: torch.Tensor) -> torch.Tensor:
        return like[:1].expand(self._batch, *like.shape[1:])


def _cells(plan: CachePlan, inventory: Inventory, dropped: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """`_Cell` of every row and site, uint8 (n_calls, n_sites)."""
    use = cell_use(plan, inventory)
    dead = use.called & ~use.runs & ~use.reads
    # The unconditional half is neither computed nor read in a row that drops it, so it can live longer than the other.
    kept = use.kept | _kept_beyond(use, dropped)
    written = np.where(dropped[:, None], use.kept, kept)
    fresh = np.where(written, _Cell.WRITE, np.where(dead.any(axis=0), _Cell.SHAPE, _Cell.PASS))
    stored = np.where(kept, _Cell.READ, _Cell.TAKE)
    # A cell that is not called is only reached if the module around it had to recompute after all: it computes too.
    return np.where(use.reads, stored, np.where(dead, _Cell.DEAD, fresh)).astype(np.uint8)


def _kept_beyond(use: CellUse, dropped: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where the unconditional half is read later, before a row that computes it: bool (n_calls, n_sites)."""
    kept = np.zeros(use.reads.shape, bool)
    read_later = np.zeros(use.reads.shape[1], bool)
    for row in range(len(kept) - 1, -1, -1):
        kept[row] = read_later
        if not dropped[row]:
            read_later = (read_later & ~use.runs[row]) | use.reads[row]
    return kept


def _ancestors(site: int, inventory: Inventory) -> tuple[int, ...]:
    """Ancestors of a site, nearest first."""
    ancestors = []
    parent = inventory.sites[site].parent
    while parent is not None:
        ancestors.append(parent)
        parent = inventory.sites[parent].parent
    return tuple(ancestors)
