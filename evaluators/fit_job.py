"""The fit job: a column of a schedule fitted on the worker that holds the model, made once per condition."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from autotune.evaluators.bit_sensitivity import BitSensitivities
from autotune.evaluators.correction_fit import fit_cache_correction
from autotune.evaluators.fit_column import fit_column, settings_hash, settings_of
from autotune.evaluators.image_workload import ImageWorkload
from autotune.evaluators.peak_memory import is_out_of_memory
from autotune.evaluators.quantization_fit import fit_quantization
from autotune.evaluators.reference import ArtifactCache
from autotune.evaluators.schedule_table import TableStore
from autotune.evaluators.table_fit import Run
from autotune.evaluators.workload import Workload
from autotune.spaces.column_fit import CACHE_CORRECTIONS, ColumnFit, FitColumn, FitTarget, Precision, fit_from_bytes
from autotune.spaces.condition import Condition
from autotune.spaces.errors import EvaluatorError, FitMemoryError, ScheduleError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule, canonical_schedule, schedule_hash

PROTOCOL = "7"
"""Version of the fitting code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitJob:
    """What fits need of a worker: the warm pipeline without a schedule, its runs and references, and its tables."""

    pipe: Any
    workload: Workload
    condition: Condition
    inventory: Inventory
    reference: Callable[[Fidelity], torch.Tensor]
    run: Run
    tables: TableStore
    sensitivities: BitSensitivities
    artifacts: ArtifactCache | None
    guided: bool

    def fit(
        self,
        schedule: Schedule,
        column: FitTarget,
        fidelity: Fidelity,
        *,
        timeout_s: float | None = None,
        max_image_runs: int | None = None,
        quick: bool = False,
        layer_corrections: bool = True,
    ) -> ColumnFit:
        """Fit a column to the reference on the prompts of a fidelity, by gradient a quarter of the way if `quick`.

        `layer_corrections` are those of a quantization, CacheQuant's (a2, b2). After `timeout_s`, or before more than
        `max_image_runs`, it ends with the best so far, which is not kept.

        Raises:
            ScheduleError: the schedule has no solver or no cache, too few steps, or too few runs.
            FitMemoryError: memory is too short.
            EvaluatorError: the fit failed for a reason that is not the schedule's.
        """
        digest = schedule_hash(canonical_schedule(schedule, self.inventory))
        how = settings_hash(column, quick) if layer_corrections else "no-layer-corrections"
        name = f"fit/{PROTOCOL}/{column}/{how}/{self.condition.hash}/{fidelity.hash}/{digest}"
        stored = self.artifacts.load(name) if self.artifacts is not None else None
        if stored is not None:
            made = fit_from_bytes(stored)
            if max_image_runs is not None and made.image_runs > max_image_runs:
                raise ScheduleError(f"the fit takes {made.image_runs} image runs; {max_image_runs} are left")
            if self.tables.has(made.schedule):
                return made
        end = time.monotonic() + (float("inf") if timeout_s is None else timeout_s)
        try:
            stop, seed = lambda: time.monotonic() >= end, int(digest[:8], 16)
            made = self._made(schedule, column, fidelity, stop, max_image_runs, quick, seed, layer_corrections)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            kind = FitMemoryError if is_out_of_memory(error) else EvaluatorError
            raise kind(f"the {column} of a schedule can't be fitted: {error}") from error
        if self.artifacts is not None and not made.stopped:
            self.artifacts.save(name, made.to_bytes(), "fit")
        return made

    def _made(
        self,
        schedule: Schedule,
        column: FitTarget,
        fidelity: Fidelity,
        stop: Callable[[], bool],
        max_image_runs: int | None,
        quick: bool,
        seed: int,
        layer_corrections: bool,
    ) -> ColumnFit:
        shared: dict[str, Any] = {"condition": self.condition, "stop": stop, "max_image_runs": max_image_runs}
        if column in CACHE_CORRECTIONS or isinstance(column, Precision):
            shared |= {"inventory": self.inventory, "fidelity": fidelity, "run": self.run, "tables": self.tables}
            shared |= {"reference": self.reference(fidelity)}
            if not isinstance(column, Precision):
                return fit_cache_correction(self.pipe, schedule, lines_only=column is FitColumn.DEC, **shared)
            shared |= {"sensitivities": self.sensitivities, "layer_corrections": layer_corrections}
            return fit_quantization(self.pipe, schedule, column, **shared)
        if not isinstance(self.workload, ImageWorkload):
            raise ScheduleError(f"the {column} is fitted to a converged run; the samples of a policy have none")
        return fit_column(
            self.pipe,
            schedule,
            column,
            embeddings=self.workload.embedded(fidelity),
            seeds=fidelity.seeds,
            reference=self.reference(fidelity),
            arguments=self.workload.arguments,
            settings=settings_of(column, quick, seed),
            guided=self.guided,
            **shared,
        )
