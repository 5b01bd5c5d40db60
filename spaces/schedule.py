"""A schedule: a table with one row per step, of which every column is optional."""

import hashlib
import json
import math
from dataclasses import dataclass
from enum import StrEnum

from autotune.spaces.cache_plan import CachePlan, canonical_plan
from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import Inventory
from autotune.spaces.solver_step import SolverStep


class GuidanceAction(StrEnum):
    """What a network call does with the two branches of classifier-free guidance."""

    BOTH = "both"
    STORED = "stored"
    """Run the conditional branch; the unconditional output is c - (c_prev - u_prev) of the last call with both."""
    CONDITIONAL = "conditional"
    """Run the conditional branch; the unconditional output equals it, so guidance has no effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What to do at each step of one sampling run; a column that is None leaves the pipeline's own way alone.

    `n_steps` is the number of steps that the pipeline is asked for. `time` holds the `n_steps` model timesteps
    at which the network is called, strictly decreasing and above 0 (variance preserving: in [0, 999]; flow: 1000 sigma,
    time shift applied); the clean end is implied. `solver` goes with `time`. `compensation` holds DC-Solver's ratio
    rho per step, 1 for none (Zhao et al. 2024). `cache` and `guidance` have one row per network call, which is
    `n_steps` except where the pipeline's own sampler calls more often (PNDM).
    """

    n_steps: int
    time: tuple[float, ...] | None = None
    solver: tuple[SolverStep, ...] | None = None
    compensation: tuple[float, ...] | None = None
    cache: CachePlan | None = None
    guidance: tuple[GuidanceAction, ...] | None = None

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
        for name in ("time", "compensation"):
            for i, value in enumerate(getattr(self, name) or ()):
                if not math.isfinite(value):
                    raise ScheduleError(f"{name}[{i}] must be a finite number; got {value}")
        for i, (t, after) in enumerate(zip(self.time or (), (self.time or ())[1:], strict=False)):
            if not t > after:
                raise ScheduleError(f"time must decrease strictly; got {t} then {after} at step {i + 1}")
        if self.time is not None and self.time[-1] < 0:
            raise ScheduleError(f"time must not be negative; got {self.time[-1]} at the last step")
        if self.guidance is not None and self.guidance[:1] == (GuidanceAction.STORED,):
            raise ScheduleError("guidance[0] can't be 'stored': nothing is stored before the first call")
        rows = {
            "cache": None if self.cache is None else self.cache.n_calls,
            "guidance": None if self.guidance is None else len(self.guidance),
        }
        for name, n_rows in rows.items():
            if n_rows is not None and (n_rows < self.n_steps or (self.time is not None and n_rows != self.n_steps)):
                raise ScheduleError(
                    f"the column {name} must have one row per network call; got {n_rows} for {self.n_steps} steps"
                )
        if None not in rows.values() and rows["cache"] != rows["guidance"]:
            raise ScheduleError(
                f"the columns cache and guidance must have the same rows; got {rows['cache']} and {rows['guidance']}"
            )


def canonical_schedule(schedule: Schedule, inventory: Inventory) -> Schedule:
    """The schedule without dead genes: two schedules that compute the same thing have the same canonical form.

    Raises:
        ScheduleError: the cache plan does not fit the inventory.
    """
    cache = None if schedule.cache is None else canonical_plan(schedule.cache, inventory)
    guidance = schedule.guidance
    if guidance is not None and all(action is GuidanceAction.BOTH for action in guidance):
        guidance = None
    solver, compensation = schedule.solver, schedule.compensation
    if solver is not None:
        solver = tuple(_canonical_step(step, i, schedule.n_steps) for i, step in enumerate(solver))
    if compensation is not None:
        # Three points carry the polynomial, and the last buffered value may be shifted, the first two may not.
        compensation = (1.0,) * min(2, schedule.n_steps) + compensation[2:]
        if all(rho == 1.0 for rho in compensation):
            compensation = None
    return Schedule(
        n_steps=schedule.n_steps,
        time=schedule.time,
        solver=solver,
        compensation=compensation,
        cache=cache,
        guidance=guidance,
    )


def _canonical_step(step: SolverStep, i: int, n_steps: int) -> SolverStep:
    last = i == n_steps - 1
    order = min(step.order, i + 1)
    if last and step.domain == "lambda":
        order = 1  # the last step reaches lambda = inf, where only the first Taylor term is finite
    corrector = step.corrector and not last
    relaxed = order == 2 or (order == 1 and corrector)
    relaxation = step.relaxation if relaxed and step.domain == "lambda" else "taylor"
    return SolverStep(view=step.view, domain=step.domain, order=order, relaxation=relaxation, corrector=corrector)


def schedule_to_json(schedule: Schedule) -> dict[str, object]:
    """The schedule's columns as a JSON object, cache actions as a string of digits; the form that is hashed."""
    solver = schedule.solver
    cache = schedule.cache
    return {
        "n_steps": schedule.n_steps,
        "time": None if schedule.time is None else list(schedule.time),
        "solver": None if solver is None else [[s.view, s.domain, s.order, s.relaxation, s.corrector] for s in solver],
        "compensation": None if schedule.compensation is None else list(schedule.compensation),
        "cache": None if cache is None else [cache.n_calls, cache.n_sites, cache.actions.hex()],
        "guidance": None if schedule.guidance is None else [str(action) for action in schedule.guidance],
    }


def schedule_hash(schedule: Schedule) -> str:
    """SHA-256 of a canonical schedule, 64 hex digits."""
    text = json.dumps(schedule_to_json(schedule), separators=(",", ":"), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
