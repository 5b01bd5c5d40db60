"""Fitting a quantization: grids for weights and for the activations of each call, bits per layer, and a correction.

As CacheQuant (Liu et al. 2025, arXiv 2503.01323) has it: asymmetric grids, one per output channel for weights and one
per call for activations; ranges by the least sum of |x - Q(x)|^2.4; grids of their own for concatenated tensors; the
schedule's own cache at work; then (a2, b2) per output channel, without the bias. Unlike there, ranges of activations
are searched once over the values of all runs, not averaged from batch to batch, and nothing is cut off of what layers
outside of blocks read, the first and the last among them; the correction is of every layer, for all calls, and kept if
it brings held-out prompts closer; what a softmax returns stays as it is, inside fused attention. There grids are fitted
with the cache corrected by (a1, b1); here under the plain cache, and `fit_cache_correction` comes last, fitted as there
without rounding, and kept where it helps under it. Under the corrected cache grids are hardly others: in W8A8, 7 of 20
calls of mini-pixart refreshed and corrected with history, they leave .136 for .137.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from autotune.evaluators.applied_tables import AppliedTables
from autotune.evaluators.bit_sensitivity import BitSensitivities
from autotune.evaluators.layer_grids import HIGH, LOW, LayerGrids
from autotune.evaluators.quantization_table import COLUMN, quantization_tensors
from autotune.evaluators.schedule_table import TableStore
from autotune.evaluators.table_fit import Run, batches, mean_deviation, split
from autotune.spaces.cache_correction import PairMoments
from autotune.spaces.column_fit import ColumnFit, Precision
from autotune.spaces.condition import Condition
from autotune.spaces.errors import ScheduleError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.inventory import Inventory
from autotune.spaces.quantization import Quantization
from autotune.spaces.schedule import Schedule, canonical_schedule


def fit_quantization(
    pipe: Any,
    schedule: Schedule,
    precision: Precision,
    *,
    condition: Condition,
    inventory: Inventory,
    fidelity: Fidelity,
    reference: torch.Tensor,
    run: Run,
    tables: TableStore,
    sensitivities: BitSensitivities,
    layer_corrections: bool = True,
    stop: Callable[[], bool] = lambda: False,
    max_image_runs: int | None = None,
) -> ColumnFit:
    """Fit the column `quantization` on three quarters of the prompts, the others tell what it costs.

    Args:
        pipe: the pipeline, without a schedule applied.
        schedule: tables that it has are left out.
        precision: bits of weights.
        condition: of the schedule.
        inventory: the sites; layers in none of their blocks keep 8 bits.
        fidelity: prompts and seeds, of which the last quarter is held out; fewer than four are both.
        reference: (n, ...) final latents of the converged run.
        run: executes a schedule on a fidelity with given tables.
        tables: keeps the one that is made.
        sensitivities: of layers, for mixed bits.
        layer_corrections: whether (a2, b2) are fitted.
        stop: polled between batches.
        max_image_runs: what it may cost.

    Raises:
        ScheduleError: the runs or the time do not suffice.
    """
    base = canonical_schedule(schedule.without_tables, inventory)
    train, held_out = split(fidelity)
    mean_bits = precision.mean_bits
    mixed = mean_bits not in (LOW, HIGH)
    image_runs = _image_runs(train, held_out, layer_corrections) + (sensitivities.image_runs(train) if mixed else 0)
    if max_image_runs is not None and image_runs > max_image_runs:
        raise ScheduleError(f"the {precision} quantization takes {image_runs} image runs; {max_image_runs} are left")
    grids = LayerGrids(pipe, base, inventory, run, sensitivities.grids.weight_grids)
    parts = partial(batches, batch_size=condition.batch_size, stop=stop)
    grids.record_ranges(parts(train))
    made = grids.mixed(mean_bits, sensitivities.of(train, stop)) if mixed else grids.uniform(round(mean_bits))
    tried = [made]
    if layer_corrections:
        tried.append(corrected(made, grids.pairs(made, parts(train)), grids.pairs(made, parts(held_out))))
    target = reference[-len(held_out.prompts) :]

    def deviation(quantization: Quantization | None) -> float:
        given = None if quantization is None else AppliedTables(quantization=quantization)
        return mean_deviation(run(base, held_out, None, given), target)

    after, best = min(((deviation(one), one) for one in tried), key=lambda pair: pair[0])
    fitted = replace(base, quantization=tables.make(COLUMN, base, quantization_tensors(best)))
    return ColumnFit(schedule=fitted, before=deviation(None), after=after, image_runs=image_runs)


def _image_runs(train: Fidelity, held_out: Fidelity, layer_corrections: bool) -> int:
    """Ranges take a run, deviations one each, and errors of layers that each compute thrice four."""
    n_train, n_held_out = len(train.prompts), len(held_out.prompts)
    return 5 * n_train + 7 * n_held_out if layer_corrections else n_train + 2 * n_held_out


def corrected(
    made: Quantization, pairs: Mapping[str, PairMoments], held_out: Mapping[str, PairMoments]
) -> Quantization:
    """With (a2, b2) for each layer, by least squares, where they lower the error of held-out runs, too."""
    layers = {}
    for name, layer in made.layers.items():
        line = pairs[name].fit() if name in pairs else None
        others = held_out.get(name)
        if line is not None and others is not None and others.error(line) < others.error():
            layer = replace(layer, gain=line.scale, shift=line.shift)
        layers[name] = layer
    return Quantization(layers)
