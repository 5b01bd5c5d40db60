"""Gates on the modules of a denoiser, which recompute or hand out stored values as a cache plan says.

Mechanism: each gated module gets an instance attribute `forward`; the code of the model is untouched. What is stored of
a leaf is exactly what the module returned, before any gate or residual of the block around it; see `Span` for the rest.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from autotune.evaluators.branch_store import BranchStore, Value, map_tensors
from autotune.evaluators.cache_cells import Cell, cell_tables
from autotune.evaluators.cell_correction import CellCorrection
from autotune.evaluators.gate import After, Before, Gate, entry_name, uncompiled
from autotune.evaluators.guidance import output_tensor, replace_tensor
from autotune.evaluators.idle_norms import install_norm_gates
from autotune.evaluators.output_corrector import OutputCorrector
from autotune.evaluators.override import Overrides
from autotune.evaluators.span import Span, Streams
from autotune.spaces.cache_action import CacheAction, forecast_weights
from autotune.spaces.cache_correction import CacheCorrection
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.inventory import Inventory

OnRead = Callable[[int, int, Value, bool], Value | None]
"""(row, site, value, whether it is of the conditional half alone) -> what to hand out instead, if anything"""

OnOutput = Callable[[int, int, torch.Tensor, torch.Tensor], torch.Tensor]
"""(row, call within it, output of the network, latents) -> the output that it returns"""


class _OpenSpan(NamedTuple):
    """A span whose modules are being called: what came in, and the value that it hands out, if it does not run."""

    inputs: Streams
    value: Value | None


class CacheRuntime:
    """Executes one cache plan on one denoiser.

    A value is kept from the call that computed it to the last call that reads it, so memory is taken by live sites
    only. A value that should be there and is not (the shapes changed, the run began in the middle) is recomputed and
    counted in `missed`. Nothing is stored outside `enter` and `leave`, where gates are transparent. If it
    `splits_batch`, the halves of a guided batch are to be calls of their own, the conditional one first.
    """

    def __init__(
        self,
        plan: CachePlan,
        inventory: Inventory,
        *,
        unconditional: CachePlan | None = None,
        dropped: Sequence[bool] = (),
        separate: bool = False,
        copied: frozenset[str] = frozenset(),
        spans: Mapping[str, Span] = MappingProxyType({}),
        norms: Mapping[str, Sequence[str]] = MappingProxyType({}),
        correction: CacheCorrection | None = None,
    ) -> None:
        """Prepare the rows of a plan.

        Args:
            plan: what to execute; it need not be canonical.
            unconditional: the unconditional branch's plan, if that is not `plan`. A guided batch is then two calls.
            inventory: the sites that the plan's columns stand for.
            dropped: per row, whether the guidance column drops the unconditional branch; by default nowhere.
            separate: whether that branch is the second call of a row, and not the first half of a batch.
            copied: components whose values are stored and handed out as copies.
            spans: by site name, what sites cover that are not the one module of their name.
            norms: by path of a norm, the names of the leaves that alone read what it gives.
            correction: of values that are handed out; what is stored stays as it is.

        Raises:
            ScheduleError: the plan does not fit the inventory.
        """
        self._inventory = inventory
        self._copied = [site.component in copied for site in inventory.sites]
        self._numbers = {site.name: i for i, site in enumerate(inventory.sites)}
        self.splits_batch = unconditional is not None and not separate
        without = np.array(dropped or [False] * plan.n_calls, bool)
        tables = cell_tables(plan, unconditional, without, inventory, separate or self.splits_batch)
        cells = np.concatenate([table for table, _ in tables])
        self._rows = [[row.tobytes() for row in table] for table, _ in tables]
        self._kept = [[[(c, u) for c, u in row] for row in kept.tolist()] for _, kept in tables]
        self._keep_now: list[tuple[int, int]] = []
        self._actions = [_actions(plan), _actions(unconditional or plan)]
        self._gated = {i for i, column in enumerate(cells.T) if column.any()}
        self._sometimes_dead = {i for i, column in enumerate(cells.T) if (column == Cell.DEAD).any()}
        self._sources = [_ancestors(i, inventory) for i in range(len(inventory))]
        self._spans, self._norms = spans, norms
        self._open: dict[int, _OpenSpan] = {}
        self._store = BranchStore()
        self._correction = None if correction is None else CellCorrection(correction)
        self.reuses = [bool(row.any()) for row in np.isin(cells, (Cell.READ, Cell.TAKE))]
        """By row, whether anything is handed out."""
        self.on_output: OnOutput | None = None
        """If not None: told of the network's output, and gives the one to return."""
        if correction is not None:
            self.on_output = OutputCorrector(correction, self.reuses, self._store).correct
        self._cells = bytearray(len(inventory))
        self._row, self._call, self._batch, self._half = 0, 0, 0, False
        self._shapes: dict[tuple[int, int], Value] = {}
        self._written: set[int] = set()
        self.missed = 0
        self.on_read: OnRead | None = None
        """If not None: told of every value before it is corrected and handed out, and may replace it."""

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
        for i, site in reversed(list(enumerate(self._inventory.sites))):  # a span's gates go around those inside it
            if not (every_site or i in self._gated):
                continue
            span = self._spans.get(site.name)
            for path in (site.name,) if span is None else span.modules:
                module = denoiser.get_submodule(path)
                before, after = self._of_leaf(i) if span is None else self._of_span(i, span, path, uncompiled(module))
                entry = entry_name(module)
                gate = Gate(getattr(module, entry), self._cells, i, before=before, after=after)
                overrides.set(module, entry, gate)
        gated = {name: i for name, i in self._numbers.items() if i in self._gated}
        install_norm_gates(denoiser, overrides, self._norms, gated, self._hands_out)

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
        table = min(call, len(self._rows) - 1)
        self._cells[:], self._keep_now = self._rows[table][row], self._kept[table][row]
        self._row, self._call = row, call
        self._batch, self._half = batch, half
        self._written.clear()
        self._open.clear()

    def correct_output(self, output: Any, latents: torch.Tensor, row: int, call: int) -> Any:
        """What a call of these latents has come to, with its prediction corrected if a correction is for that.

        The network need not have run: the call of a branch that is left out comes to an estimate.
        """
        if self.on_output is None:
            return output
        return replace_tensor(output, self.on_output(row, call, output_tensor(output), latents))

    @property
    def row(self) -> int:
        """The row of this call, or of the last one."""
        return self._row

    def skips(self, module: str) -> bool:
        """Whether the module of this name is a leaf that this call will not run, though it is called."""
        return module in self._numbers and self._hands_out(self._numbers[module])

    def leave(self) -> None:
        """Disarm the gates."""
        self._cells[:] = bytes(len(self._cells))

    def _of_leaf(self, site: int) -> tuple[Before, After]:
        """What the gate of a leaf does before and after it calls the module."""

        def before(cell: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value | None:
            return self._read(site, cell)

        def after(cell: int, result: Value) -> None:
            self._keep(site, cell, result)

        return before, after

    def _of_span(self, site: int, span: Span, path: str, module: Any) -> tuple[Before, After]:
        """What the gate of one module of a span does."""
        inputs_of = span.inputs_of(module)
        is_first, is_last = path == span.modules[0], path == span.modules[-1]

        def before(cell: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value | None:
            if is_first:
                self._open[site] = _OpenSpan(inputs_of(args, kwargs), self._read(site, cell))
            state = self._open.get(site)
            if state is None or state.value is None:
                return None
            return span.result_of(state.value, state.inputs) if is_last else span.skip(module, inputs_of(args, kwargs))

        def after(cell: int, result: Value) -> None:
            state = self._open.get(site)
            if is_last and state is not None:
                self._keep(site, cell, span.stored_form(result, state.inputs))

        return before, after

    def _read(self, site: int, cell: int) -> Value | None:
        """The value that this cell hands out without a computation, if there is one."""
        key, keep = (self._call, site), self._keep_now[site]
        if cell in (Cell.READ, Cell.TAKE):
            if self._hands_out(site):
                value = self._store.read(key, functools.partial(self._weights, site), half=self._half)
                if cell == Cell.TAKE:
                    self._store.trim(key, keep)
                value = map_tensors(torch.clone, value) if self._copied[site] and max(keep) else value
                if self.on_read is not None:
                    replaced = self.on_read(self._row, site, value, self._half)
                    value = value if replaced is None else replaced
                return value if self._correction is None else self._correction.apply(self._row, site, value)
            self.missed += 1
        elif cell == Cell.DEAD and self._hands_out(site):
            return map_tensors(self._nothing, self._shapes[key])
        return None

    def _hands_out(self, site: int) -> bool:
        """Whether this call of a leaf does without a computation."""
        cell, key = self._cells[site], (self._call, site)
        if cell in (Cell.READ, Cell.TAKE):
            return self._store.holds(key, half=self._half)
        return cell == Cell.DEAD and key in self._shapes and self._source_is_stored(site)

    def _keep(self, site: int, cell: int, value: Value) -> None:
        """Store of a value that was computed what later calls need."""
        key, keep = (self._call, site), self._keep_now[site]
        if site in self._sometimes_dead:
            self._shapes[key] = map_tensors(lambda x: x.new_zeros(()).expand(x.shape), value)
        if cell == Cell.DEAD or not max(keep):
            return
        if site in self._written:
            raise ScheduleMismatchError(
                f"a cached module must run once per network call; {self._inventory.sites[site].name} ran twice; "
                f"switch off feed-forward chunking"
            )
        self._written.add(site)
        value = map_tensors(torch.clone, value) if self._copied[site] else value
        self._store.write(key, self._row, value, half=self._half, keep=keep)

    def _weights(self, site: int, computed: tuple[int, ...]) -> tuple[float, ...]:
        action = self._actions[min(self._call, 1)][self._row][site]
        return _weights(action, computed[: action.order + 1], self._row)

    def _source_is_stored(self, site: int) -> bool:
        """Whether the reused site that makes this one dead has its value, so that nothing needs this one."""
        for ancestor in self._sources[site]:
            if self._cells[ancestor] in (Cell.READ, Cell.TAKE):
                return self._store.holds((self._call, ancestor), half=self._half)
        return True

    def _nothing(self, like: torch.Tensor) -> torch.Tensor:
        """What nobody reads: without channels, so that the code between it and its reader has nothing to do."""
        return like.new_empty((self._batch, *like.shape[1:-1], 0))


def _actions(plan: CachePlan) -> list[list[CacheAction]]:
    return [[CacheAction(action) for action in row] for row in plan.table.tolist()]


_weights = functools.lru_cache(maxsize=4096)(forecast_weights)


def _ancestors(site: int, inventory: Inventory) -> tuple[int, ...]:
    """Ancestors of a site, nearest first."""
    ancestors = []
    parent = inventory.sites[site].parent
    while parent is not None:
        ancestors.append(parent)
        parent = inventory.sites[parent].parent
    return tuple(ancestors)
