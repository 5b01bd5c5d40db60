"""Fitting a cache correction: what a cache hands out in its own run, against what the default run computes there."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from autotune.evaluators.applied_tables import AppliedTables
from autotune.evaluators.correction_table import COLUMN, correction_tensors, table_format
from autotune.evaluators.output_fit import OutputFit, OutputFitting
from autotune.evaluators.pair_recording import CallRecorder, Moments, PairRecorder, lines_of
from autotune.evaluators.schedule_table import TableStore
from autotune.evaluators.table_fit import Run, batches, mean_deviation, split
from autotune.spaces.cache_correction import CacheCorrection
from autotune.spaces.column_fit import ColumnFit, check_correctable
from autotune.spaces.condition import Condition
from autotune.spaces.errors import ScheduleError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule, canonical_schedule


def fit_cache_correction(
    pipe: Any,
    schedule: Schedule,
    *,
    condition: Condition,
    inventory: Inventory,
    fidelity: Fidelity,
    reference: torch.Tensor,
    run: Run,
    tables: TableStore,
    stop: Callable[[], bool] = lambda: False,
    max_image_runs: int | None = None,
    lines_only: bool = False,
) -> ColumnFit:
    """Fit the column `cache_correction` on three quarters of the prompts; the others choose, and tell what it brings.

    What is corrected is every value that the cache hands out, or the network's output in the calls that reuse
    something, either by a line per channel (CacheQuant's decoupled error correction), or the output with a history,
    which is ours (`autotune.spaces.channel_mix`): whichever brings the held-out prompts closer, under the schedule's
    quantization if it has one. See `_closed_loop`. Where none does, the schedule is left without a correction.

    Args:
        pipe: the pipeline, without a schedule applied.
        schedule: with a cache; a correction that it has is left out, its quantization stays.
        condition: what the schedule is for.
        inventory: the sites.
        fidelity: prompts and seeds, of which the last quarter is held out; fewer than four are both.
        reference: (n, ...) final latents of the converged run.
        run: executes a schedule on a fidelity with given tables.
        tables: has the schedule's, and keeps the one that is made.
        stop: polled between batches.
        max_image_runs: what it may cost.
        lines_only: without the history.

    Raises:
        ScheduleError: there is no cache, or the runs or the time do not suffice.
    """
    base = canonical_schedule(schedule.before_table(COLUMN), inventory)
    given = AppliedTables.of(base, condition, tables.of(base))
    train, held_out = split(fidelity)
    outputs = [OutputFit(with_history=some) for some in ((False,) if lines_only else (False, True))]
    # Watching pairs calls the network twice.
    image_runs = (3 + len(outputs)) * len(train.prompts) + (2 + len(outputs)) * len(held_out.prompts)
    check_correctable(base)
    if max_image_runs is not None and image_runs > max_image_runs:
        raise ScheduleError(f"the cache correction takes {image_runs} image runs; {max_image_runs} are left")
    found = _closed_loop(pipe, base, inventory, outputs, batches(train, condition.batch_size, stop), run)

    def deviation(made: CacheCorrection | None) -> float:
        latents = run(base, held_out, None, replace(given, cache_correction=made))
        return mean_deviation(latents, reference[-len(held_out.prompts) :])

    before, (after, best) = deviation(None), min(((deviation(made), made) for made in found), key=lambda pair: pair[0])
    if after >= before:
        return ColumnFit(schedule=base, before=before, after=before, image_runs=image_runs)
    table = tables.make(COLUMN, base, correction_tensors(best), table_format(best))
    fitted = replace(base, cache_correction=table)
    return ColumnFit(schedule=fitted, before=before, after=after, image_runs=image_runs)


def _closed_loop(
    pipe: Any,
    base: Schedule,
    inventory: Inventory,
    outputs: Sequence[OutputFit],
    some: Iterable[Fidelity],
    run: Run,
) -> list[CacheCorrection]:
    """Lines for sites, and what is fitted of outputs, in runs of some prompts, batch by batch.

    The run that computes everything says what values should be. What they are comes from the cache's own run, in which
    each line is applied as soon as it is fitted, so that no call is corrected for what corrections before it have
    mended. A quantization is not at work, as CacheQuant too fits (a1, b1) before any grid: least squares take shares
    away from values that are noisy, in every call alike, and that adds up. Seven planned refreshes of 20 calls of
    mini-pixart in W8A8 deviate from the converged run by .19; corrected with history, which was fitted with rounding at
    work, by .27, and without by .13.
    """
    base, moments = replace(base, quantization=None), Moments()
    assert base.cache is not None
    for batch in some:
        calls = CallRecorder(pipe)
        run(replace(base, cache=None, guidance=None), batch, calls, None)
        run(base, batch, PairRecorder(pipe, base.cache, inventory, calls.latents, moments), None)
        for fit in outputs:
            run(base, batch, OutputFitting(pipe, fit, calls.outputs), None)
    of_sites = CacheCorrection({cell: lines_of(parts) for cell, parts in moments.items()})
    return [of_sites, *(fit.correction for fit in outputs)]
