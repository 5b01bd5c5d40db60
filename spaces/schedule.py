"""A schedule: a table with one row per step, of which every column is optional."""

import hashlib
import json
import math
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autotune.spaces.bdia_step import BdiaStep
from autotune.spaces.branch_plans import canonical_branch_plans, check_branch_plans
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.cache_policy import CachePolicy, supports
from autotune.spaces.errors import ScheduleError
from autotune.spaces.guidance_column import (
    GuidanceRow,
    canonical_guidance,
    check_guidance,
    dropped_rows,
    guidance_to_json,
)
from autotune.spaces.inventory import Inventory
from autotune.spaces.momentum_step import MomentumStep
from autotune.spaces.program_correction import ProgramCorrection
from autotune.spaces.solver_json import step_to_row
from autotune.spaces.solver_row import SolverRow
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.solver_tape import points_available

TABLE_COLUMNS = ("quantization", "cache_correction")
"""Columns that name a table by the SHA-256 of its file; one is fitted to the schedule with those before it."""

MAX_RATIO = 10.0
"""Largest size of a ratio of compensation; fits stay in [0.5, 1.5], since others extrapolate wildly."""

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What to do at each step of one sampling run; a column that is None leaves the pipeline's own way alone.

    `n_steps` is the number of steps that the pipeline is asked for. `time` holds the `n_steps` model timesteps
    at which the network is called, strictly decreasing except at an implicit corrector (variance preserving: in
    [0, 999]; flow: 1000 sigma, time shift applied); the clean end is implied. `solver` goes with `time`.
    `compensation` holds DC-Solver's ratio rho per step, 1 for none (Zhao et al. 2024). `start`, if given, is the
    timestep of the starting noise, above `time[0]`: an analytic first step leads down from there with a data
    prediction of 0, at no call. The data's mean in its place is left out: it needs an artifact, and that of latents is
    close to 0. `correction` adds to the compiled coefficients. `cache` and `guidance` have one row per network call,
    which is `n_steps` except where the pipeline's own sampler calls more often (PNDM). `unconditional_cache` is the
    plan of the unconditional branch where it has its own; `cache` is then that of the conditional one. `policy` decides
    at run time what to reuse; it excludes cache and guidance. `cache_correction` names the table that corrects values
    which the cache hands out (`autotune.spaces.cache_correction`): the SHA-256 of its file, 64 hex digits.
    `quantization` names that of the precision of each layer (`autotune.spaces.quantization`).
    """

    n_steps: int
    time: tuple[float, ...] | None = None
    solver: tuple[SolverRow, ...] | None = None
    compensation: tuple[float, ...] | None = None
    start: float | None = None
    correction: ProgramCorrection | None = None
    cache: CachePlan | None = None
    unconditional_cache: CachePlan | None = None
    guidance: tuple[GuidanceRow, ...] | None = None
    policy: CachePolicy | None = None
    cache_correction: str | None = None
    quantization: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.n_steps, bool) or not isinstance(self.n_steps, int) or self.n_steps < 1:
            raise ScheduleError(f"n_steps must be a positive integer; got {self.n_steps!r}")
        if (self.time is None) != (self.solver is None):
            raise ScheduleError("the columns time and solver go together; give both or neither")
        if self.compensation is not None and self.solver is None:
            raise ScheduleError("the column compensation needs the columns time and solver")
        for name in ("time", "solver", "compensation"):
            column = getattr(self, name)
            if column is not None and len(column) != self.n_steps:
                raise ScheduleError(
                    f"the column {name} must have one row per step; got {len(column)} rows for {self.n_steps} steps"
                )
        for i, t in enumerate(self.time or ()):
            if not math.isfinite(t):
                raise ScheduleError(f"time[{i}] must be a finite number; got {t}")
        for i, rho in enumerate(self.compensation or ()):
            if not abs(rho) <= MAX_RATIO:
                raise ScheduleError(f"compensation[{i}] must be within +-{MAX_RATIO:g}; got {rho}; 1 changes nothing")
        self._check_solver()
        check_guidance(self.guidance or ())
        check_branch_plans(self.cache, self.unconditional_cache)
        for name in TABLE_COLUMNS:
            digest = getattr(self, name)
            if digest is not None and not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
                raise ScheduleError(f"{name} must be the SHA-256 of a table, 64 hex digits; got {digest!r}")
        if self.cache_correction is not None and self.cache is None:
            raise ScheduleError("cache_correction needs the column cache; give it, or leave cache_correction out")
        if self.cache_correction is not None and self.unconditional_cache is not None:
            raise ScheduleError("a cache_correction is of one plan for both branches; leave unconditional_cache out")
        for name in ("cache", "guidance"):
            if self.policy is not None and getattr(self, name) is not None:
                raise ScheduleError(f"a schedule has a policy or the column {name}; got both: leave one out")
        rows = {
            "cache": None if self.cache is None else self.cache.n_calls,
            "guidance": None if self.guidance is None else len(self.guidance),
            "policy.ratios": None if self.policy is None else self.policy.n_calls,
        }
        for name, n_rows in rows.items():
            if n_rows is not None and (n_rows < self.n_steps or (self.time is not None and n_rows != self.n_steps)):
                raise ScheduleError(
                    f"the column {name} must have one row per network call; got {n_rows} for {self.n_steps} steps"
                )
        if rows["cache"] is not None and rows["guidance"] is not None and rows["cache"] != rows["guidance"]:
            raise ScheduleError(
                f"the columns cache and guidance must have the same rows; got {rows['cache']} and {rows['guidance']}"
            )

    @property
    def solver_columns(self) -> tuple[tuple[float, ...], tuple[SolverRow, ...]]:
        """`time` and `solver` of a schedule that must have them.

        Raises:
            ScheduleError: it has none.
        """
        if self.time is None or self.solver is None:
            raise ScheduleError("the columns time and solver are needed here; got a schedule without them")
        return self.time, self.solver

    @property
    def tables(self) -> dict[str, str]:
        """The tables that it needs: by column, the SHA-256 of a file."""
        return {name: digest for name in TABLE_COLUMNS if (digest := getattr(self, name)) is not None}

    @property
    def without_tables(self) -> "Schedule":
        """The same schedule, with none of its tables applied."""
        return self.before_table(TABLE_COLUMNS[0])

    def before_table(self, column: str) -> "Schedule":
        """What the table of a column is fitted to: the schedule without it, and without those that come after it."""
        gone = TABLE_COLUMNS[TABLE_COLUMNS.index(column) :]
        none: dict[str, Any] = dict.fromkeys(gone)
        return replace(self, **none) if any(name in self.tables for name in gone) else self

    def _check_solver(self) -> None:
        if self.time is None or self.solver is None:
            for name in ("start", "correction"):
                if getattr(self, name) is not None:
                    raise ScheduleError(f"{name} needs the columns time and solver; give them, or leave {name} out")
            return
        if self.correction is not None and self.correction.n_steps != self.n_steps:
            raise ScheduleError(
                f"correction must have one row per step; got {self.correction.n_steps} rows for {self.n_steps} steps"
            )
        for i, (t, after, step) in enumerate(zip(self.time, self.time[1:], self.solver, strict=False)):
            if after > t or (after == t and not step.origin):
                raise ScheduleError(
                    f"time must decrease strictly; got {t} then {after} at step {i + 1} (only an implicit corrector, a "
                    "row with an earlier origin, may be followed by its own timestep)"
                )
            if after == t == self.time[i - step.origin]:
                raise ScheduleError(f"solver[{i}]: an implicit corrector must start at another level; got {t} twice")
        for i, step in enumerate(self.solver):
            if step.origin > i:
                raise ScheduleError(f"solver[{i}].origin must be at most {i}; got {step.origin}")
        last = self.solver[-1]
        if isinstance(last, SolverStep) and last.origin and last.domain == "lambda":
            raise ScheduleError(
                "the last row of solver must start at its own call, origin 0, in lambda, where no other output would "
                f"count; got {last.origin}; use the domain sigma, or an origin of 0"
            )
        if self.time[-1] < 0:
            raise ScheduleError(f"time must not be negative; got {self.time[-1]} at the last step")
        if self.start is not None and not (math.isfinite(self.start) and self.start > self.time[0]):
            raise ScheduleError(f"start must be a finite number above time[0] = {self.time[0]}; got {self.start}")


def canonical_schedule(schedule: Schedule, inventory: Inventory) -> Schedule:
    """The schedule without dead genes: two schedules that compute the same thing have the same canonical form.

    Raises:
        ScheduleError: the cache plan or the policy does not fit the inventory.
    """
    if schedule.policy is not None and not supports(schedule.policy.kind, inventory):
        raise ScheduleError(
            f"a policy of the kind {schedule.policy.kind} can't run on a {inventory.denoiser_class}; "
            "choose another kind"
        )
    cache = unconditional = None
    if schedule.cache is not None:
        dropped = np.array(dropped_rows(schedule.guidance, schedule.cache.n_calls))
        cache, unconditional = canonical_branch_plans(schedule.cache, schedule.unconditional_cache, dropped, inventory)
    guidance = None if schedule.guidance is None else canonical_guidance(schedule.guidance)
    solver, compensation = schedule.solver, schedule.compensation
    if solver is not None:
        solver = tuple(_canonical_row(solver, i, schedule.time or ()) for i in range(schedule.n_steps))
    if compensation is not None:
        # Three levels carry the polynomial.
        levels = [points_available(schedule.time or (), i, i) for i in range(schedule.n_steps)]
        compensation = tuple(rho if n >= 2 else 1.0 for rho, n in zip(compensation, levels, strict=True))
        if all(rho == 1.0 for rho in compensation):
            compensation = None
    return Schedule(
        n_steps=schedule.n_steps,
        time=schedule.time,
        solver=solver,
        compensation=compensation,
        start=schedule.start,
        correction=None if schedule.correction is None or schedule.correction.is_zero else schedule.correction,
        cache=cache,
        unconditional_cache=unconditional,
        guidance=guidance,
        policy=schedule.policy,
        cache_correction=None if cache is None else schedule.cache_correction,
        quantization=schedule.quantization,
    )


def points_for_row(solver: tuple[SolverRow, ...], i: int, time: tuple[float, ...]) -> int:
    """How many buffered outputs, velocities for GHVB, row `i` can read besides the one that it starts from."""
    row = solver[i]
    if isinstance(row, MomentumStep) and row.method == "ghvb":
        return next((k for k in range(i) if not isinstance(solver[i - 1 - k], MomentumStep)), i)
    return points_available(time, i - row.origin, i)


def _canonical_row(solver: tuple[SolverRow, ...], i: int, time: tuple[float, ...]) -> SolverRow:
    row, n_points = solver[i], points_for_row(solver, i, time)
    if isinstance(row, SolverStep):
        return _canonical_step(row.limited(n_points), last=i == len(time) - 1)
    if isinstance(row, BdiaStep):
        return row if i else replace(row, gamma=1.0)
    row = replace(row, order=min(row.order, n_points + 1))
    if row.order == 1:
        row = replace(row, method="hb")
    return row if i and isinstance(solver[i - 1], MomentumStep) else replace(row, beta=1.0)


def _canonical_step(step: SolverStep, *, last: bool) -> SolverStep:
    if not step.corrector or last:  # a derivative with factor 0 is not there, but lifts the order of a corrector
        if step.order == 3 and step.curvature == 0.0:
            step = replace(step, order=2)
        if step.order == 2 and step.slope == 0.0:
            step = replace(step, order=1, slope_points=0)
    if last:
        step = replace(step, corrector=False)
        if step.domain == "lambda":  # lambda is infinite at the clean end, where only the first Taylor term is finite
            step = replace(step, order=1, slope_points=0, stochastic=0.0)
            if step.view == "data":
                step = replace(step, state_gain=1.0)
    n_derivatives = step.order - 1
    n_points = step.slope_points or 0
    if n_derivatives == 0:
        step = replace(step, slope_points=0)
        n_points = 0
    relaxed = (n_derivatives > 0 and n_points == 1) or (step.corrector and n_points == 0)
    if not relaxed or step.domain == "sigma":
        step = replace(step, relaxation="taylor")
    if n_derivatives + step.corrector < 1:
        step = replace(step, slope=1.0)
    if n_derivatives + step.corrector < 2:
        step = replace(step, curvature=1.0)
    return step


def schedule_to_json(schedule: Schedule) -> dict[str, object]:
    """The schedule's columns as a JSON object, cache actions as a string of digits; the form that is hashed.

    Levels, ratios and corrections are floats, whole or not: 999 and 999.0 have one hash.
    """
    solver = schedule.solver
    data: dict[str, object] = {
        "n_steps": schedule.n_steps,
        "time": None if schedule.time is None else [float(t) for t in schedule.time],
        "solver": None if solver is None else [step_to_row(step) for step in solver],
        "compensation": None if schedule.compensation is None else [float(rho) for rho in schedule.compensation],
        "cache": None if schedule.cache is None else _plan_to_json(schedule.cache),
        "guidance": None if schedule.guidance is None else guidance_to_json(schedule.guidance),
    }
    if schedule.unconditional_cache is not None:
        data["unconditional_cache"] = _plan_to_json(schedule.unconditional_cache)
    if schedule.start is not None:
        data["start"] = float(schedule.start)
    if schedule.correction is not None:
        data["correction"] = schedule.correction.to_json()
    if schedule.policy is not None:
        data["policy"] = schedule.policy.to_json()
    return data | schedule.tables


def _plan_to_json(plan: CachePlan) -> list[object]:
    return [plan.n_calls, plan.n_sites, plan.actions.hex()]


def schedule_hash(schedule: Schedule) -> str:
    """SHA-256 of a canonical schedule, 64 hex digits."""
    text = json.dumps(schedule_to_json(schedule), separators=(",", ":"), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
