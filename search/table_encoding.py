"""Whole schedules as vectors of one length: what a predictor of their quality reads."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autotune.evaluators.schedule_features import solver_features
from autotune.search.searcher import SearchContext
from autotune.spaces.cache_plan import cell_use
from autotune.spaces.errors import ScheduleError
from autotune.spaces.guidance_column import dropped_rows
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_program import compile_program
from autotune.spaces.solvers import make_solver
from autotune.spaces.traced_run import TracedRun

Array = NDArray[np.float64]

N_PHASES = 4
"""Parts of a run in which cells are summed."""

N_ORDERS = 3
"""Reuse and forecasts of order 1 and 2 are counted apart."""


class TableEncoding:
    """Encodes schedules of one model: their length, what each part of the run leaves out, and errors on a trace.

    Cells are weighted by their site's multiply-accumulates. The trace runs the solver alone; Euler's program stands in
    for the pipeline's own sampler, which a flag of its own tells.
    """

    def __init__(self, context: SearchContext) -> None:
        self._context, self._inventory = context, context.inventory
        own = context.inventory.tree.own_macs.astype(float)
        self._weights = own / max(float(own.sum()), 1.0)
        self._solvers: dict[Schedule, Array] = {}

    def encode(self, schedule: Schedule) -> Array | None:
        """The vector of a schedule; None where its solver is no valid program, or a policy decides."""
        if schedule.policy is not None:
            return None
        times = schedule.time or self._context.own_timesteps(schedule.n_steps)
        if schedule.unconditional_cache is not None:
            return None
        try:
            solver = self._solver(schedule, times)
        except ScheduleError:
            return None
        n_calls = len(times)
        own = float(schedule.time is None)
        dropped = np.array(dropped_rows(schedule.guidance, n_calls), float)
        parts = np.array_split(np.arange(n_calls), N_PHASES)
        cells = self._cells(schedule, n_calls)
        by_part = [_mean(cells[part]) for part in parts]
        drops = [float(dropped[part].mean()) if len(part) else 0.0 for part in parts]
        overall = [np.log(n_calls), own, float(schedule.correction is not None), dropped.mean(), *cells.mean(axis=0)]
        return np.concatenate([overall, *by_part, drops, solver])

    def _cells(self, schedule: Schedule, n_calls: int) -> Array:
        """Per call, the share that is read with each order, and the mean age of what is read: (n_calls, 4)."""
        table = np.zeros((n_calls, N_ORDERS + 1))
        if schedule.cache is None:
            return table
        use = cell_use(schedule.cache, self._inventory)
        calls = np.arange(n_calls)[:, None]
        age = calls - np.maximum.accumulate(np.where(use.runs, calls, 0), axis=0)
        # What lies inside a site that is read is left out with it.
        left_out = ~use.runs
        order = np.where(use.reads, use.order, 0)
        for k in range(N_ORDERS):
            table[:, k] = (left_out & (order == k)) @ self._weights
        table[:, N_ORDERS] = (left_out * age) @ self._weights
        return table

    def _solver(self, schedule: Schedule, times: tuple[float, ...]) -> Array:
        """What the solver does, and its errors on a trace if there is one."""
        condition = self._context.condition
        bare = Schedule(
            n_steps=len(times),
            time=times,
            solver=schedule.solver if schedule.time else make_solver("euler", len(times), condition.noise_schedule),
            compensation=schedule.compensation,
            start=schedule.start,
            correction=schedule.correction,
        )
        if bare not in self._solvers:
            errors = np.zeros(0)
            if self._traced is not None:
                program = compile_program(bare, condition.noise_schedule, condition.prediction)
                errors = self._traced.log_errors(program)
            self._solvers[bare] = np.concatenate([solver_features(bare, condition), errors])
        return self._solvers[bare]

    @cached_property
    def _traced(self) -> TracedRun | None:
        context = self._context
        if context.trace is None:
            return None
        return TracedRun(context.trace(), context.condition.noise_schedule, context.condition.prediction)


def _mean(rows: Array) -> Array:
    return rows.mean(axis=0) if len(rows) else np.zeros(rows.shape[1])
