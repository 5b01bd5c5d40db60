"""Fitting a quantization: grids for weights and for the activations of each call, bits per layer, and a correction."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.affine_quantizer import search_grid
from autotune.evaluators.applied_tables import AppliedTables
from autotune.evaluators.quantization_recording import LayerErrors, LossRecorder, RangeRecorder
from autotune.evaluators.quantization_table import COLUMN, quantization_tensors
from autotune.evaluators.quantized_layers import layers_of
from autotune.evaluators.schedule_table import TableStore
from autotune.evaluators.table_fit import Run, batches, mean_deviation, split
from autotune.spaces.bit_allocation import allocate
from autotune.spaces.column_fit import PRECISIONS, ColumnFit, FitColumn
from autotune.spaces.condition import Condition
from autotune.spaces.errors import ScheduleError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.inventory import Inventory
from autotune.spaces.quantization import Grid, LayerQuantization, Quantization
from autotune.spaces.schedule import Schedule, canonical_schedule

LOW, HIGH = 4, 8
"""What weights in blocks may have; all others, first and last layers among them, and activations have 8 bits."""


def fit_quantization(
    pipe: Any,
    schedule: Schedule,
    column: FitColumn,
    *,
    condition: Condition,
    inventory: Inventory,
    fidelity: Fidelity,
    reference: torch.Tensor,
    run: Run,
    tables: TableStore,
    stop: Callable[[], bool] = lambda: False,
    max_image_runs: int | None = None,
) -> ColumnFit:
    """Fit the column `quantization` on three quarters of the prompts, the others tell what it costs.

    As CacheQuant (Liu et al. 2025, arXiv 2503.01323) has it: asymmetric grids, one per output channel for weights and
    one per call for activations; ranges by the least sum of |x - Q(x)|^2.4; grids of their own for concatenated
    tensors; the schedule's own cache at work; then (a2, b2) per output channel, without the bias. Unlike there, ranges
    are searched once over the values of all runs, not averaged from batch to batch; the correction is of every layer,
    for all calls, and kept if it brings held-out prompts closer; what a softmax returns stays as it is, inside fused
    attention. The order is another, too: there the cache is corrected first, with (a1, b1), and grids are fitted under
    that; here `fit_cache_correction` comes last, and corrects what the quantized network hands out.

    Args:
        pipe: the pipeline, without a schedule applied.
        schedule: tables that it has are left out.
        column: one of `PRECISIONS`.
        condition: of the schedule.
        inventory: the sites; layers in none of their blocks keep 8 bits.
        fidelity: prompts and seeds, of which the last quarter is held out; fewer than four are both.
        reference: (n, ...) final latents of the converged run.
        run: executes a schedule on a fidelity with given tables.
        tables: keeps the one that is made.
        stop: polled between batches.
        max_image_runs: what it may cost.

    Raises:
        ScheduleError: the runs or the time do not suffice.
    """
    base = canonical_schedule(schedule.without_tables, inventory)
    train, held_out = split(fidelity)
    # Errors of layers take each of them thrice more.
    image_runs = (5 + 4 * (PRECISIONS[column] not in (LOW, HIGH))) * len(train.prompts) + 7 * len(held_out.prompts)
    if max_image_runs is not None and image_runs > max_image_runs:
        raise ScheduleError(f"the {column} quantization takes {image_runs} image runs; {max_image_runs} are left")
    fitting = _Fitting(pipe, base, inventory, run)
    parts = partial(batches, batch_size=condition.batch_size, stop=stop)
    fitting.record_ranges(parts(train))
    made = fitting.quantized(PRECISIONS[column], parts(train))
    errors, others = fitting.errors(made, parts(train)), fitting.errors(made, parts(held_out))
    target = reference[-len(held_out.prompts) :]

    def deviation(tried: Quantization | None) -> float:
        given = None if tried is None else AppliedTables(quantization=tried)
        return mean_deviation(run(base, held_out, None, given), target)

    after, best = min(((deviation(q), q) for q in (made, corrected(made, errors, others))), key=lambda pair: pair[0])
    fitted = replace(base, quantization=tables.make(COLUMN, base, quantization_tensors(best)))
    return ColumnFit(schedule=fitted, before=deviation(None), after=after, image_runs=image_runs)


class _Fitting:
    """Grids of one pipeline under one schedule."""

    def __init__(self, pipe: Any, base: Schedule, inventory: Inventory, run: Run) -> None:
        adapter = find_adapter(pipe)
        self._pipe, self._base, self._run = pipe, base, run
        denoiser = adapter.denoiser_of(pipe)
        self._layers = dict(layers_of(denoiser))
        splits = adapter.list_splits(denoiser)
        width = {name: int(layer.get_parameter("weight").shape[1]) for name, layer in self._layers.items()}
        self._parts = {name: splits.get(name, (n,)) for name, n in width.items()}
        blocks = tuple(f"{site.block}." for site in inventory.sites)
        self._inner = [name for name in self._layers if name.startswith(blocks)]
        self._activation: Mapping[str, Grid] = {}
        self._weight: dict[tuple[str, int], Grid] = {}

    def record_ranges(self, some: Iterable[Fidelity]) -> None:
        """Find the grids of activations, in runs of the schedule as it is."""
        recorder = RangeRecorder(self._pipe, {name: (self._layers[name], parts) for name, parts in self._parts.items()})
        for batch in some:
            self._run(self._base, batch, recorder, AppliedTables(quantization=Quantization({})))
        self._activation = recorder.grids(HIGH)

    def quantized(self, mean_bits: float, some: Iterable[Fidelity]) -> Quantization:
        """Weights in blocks with so many bits on average; runs on some prompts say where to have more."""
        if mean_bits in (LOW, HIGH):
            return self.uniform(round(mean_bits))
        return self.mixed(mean_bits, self.errors(self.uniform(HIGH), some, compared=(LOW, HIGH)))

    def uniform(self, bits: int) -> Quantization:
        """Weights in blocks with so many bits."""
        return self._of(dict.fromkeys(self._inner, bits))

    def mixed(self, mean_bits: float, errors: LayerErrors) -> Quantization:
        """The bits of each layer in blocks that sum to a mean, with the least relative errors of outputs in sum."""
        names = [name for name in self._inner if name in self._activation]
        n_weights = np.array([self._layers[name].get_parameter("weight").numel() for name in names])
        sizes = n_weights[:, None] * np.array([LOW, HIGH])
        costs = np.array([[errors.relative(name, bits) for bits in (LOW, HIGH)] for name in names])
        options = allocate(costs, sizes, int(mean_bits * n_weights.sum()))
        return self._of({name: (LOW, HIGH)[option] for name, option in zip(names, options, strict=True)})

    def errors(self, made: Quantization, some: Iterable[Fidelity], compared: tuple[int, ...] = ()) -> LayerErrors:
        """What layers lose in runs of a quantization, and would lose with the `compared` bits."""
        others = {name: [self._layer(name, bits) for bits in compared] for name in self._inner if name in made.layers}
        recorder = LossRecorder(self._pipe, made, others)
        for batch in some:
            self._run(self._base, batch, recorder, AppliedTables(quantization=made))
        return recorder.errors

    def _of(self, bits: Mapping[str, int]) -> Quantization:
        return Quantization({name: self._layer(name, bits.get(name, HIGH)) for name in sorted(self._activation)})

    def _layer(self, name: str, bits: int) -> LayerQuantization:
        return LayerQuantization(
            weight_bits=bits,
            activation_bits=HIGH,
            parts=self._parts[name],
            weight=self._weight_grid(name, bits),
            activation=self._activation[name],
        )

    def _weight_grid(self, name: str, bits: int) -> Grid:
        key = (name, bits)
        if key not in self._weight:
            weight = self._layers[name].get_parameter("weight").detach().float()
            rows = [part.flatten(1) for part in torch.split(weight, list(self._parts[name]), dim=1)]
            found = [search_grid(row, row.amin(dim=1), row.amax(dim=1), bits) for row in rows]
            scale, zero = (torch.stack(values).double().cpu().numpy() for values in zip(*found, strict=True))
            self._weight[key] = Grid(scale, zero)
        return self._weight[key]


def corrected(made: Quantization, errors: LayerErrors, held_out: LayerErrors) -> Quantization:
    """With (a2, b2) for each layer, by least squares, where they lower the error of held-out runs, too."""
    layers = {}
    for name, layer in made.layers.items():
        line = errors.moments[name].fit() if name in errors.moments else None
        others = held_out.moments.get(name)
        if line is not None and others is not None and others.error(line) < others.error():
            layer = replace(layer, gain=line.scale, shift=line.shift)
        layers[name] = layer
    return Quantization(layers)
