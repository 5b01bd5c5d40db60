"""A schedule without one of its columns: the replay that tells what each column is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from autotune.spaces.errors import ScheduleError, StorageError
from autotune.spaces.evaluation import Evaluation
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.solver_row import SolverRow
from autotune.spaces.solver_step import FACTORS, SolverStep

COLUMNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "solver": ("time", "solver", "start", "compensation", "correction"),
        "time": ("time", "start"),
        "start": ("start",),
        "factors": (),
        "fit": ("compensation", "correction"),
        "cache": ("cache", "unconditional_cache", "policy", "cache_correction"),
        "cache correction": ("cache_correction",),
        "precision": ("quantization",),
        "guidance": ("guidance",),
    }
)
"""What is taken away together, as fields of `Schedule`: the fitted ratios and corrections need the solver column.

The solver's factors are numbers in its rows. Without times of its own it stands on the pipeline's, whose first call is
where an analytic first step would begin.
"""


def uses(schedule: Schedule, column: str) -> bool:
    """Whether a schedule has anything in a column of `COLUMNS`."""
    if column == "factors":
        return schedule.solver != _without_factors(schedule.solver)
    if column == "time":
        return schedule.time is not None
    return any(getattr(schedule, name) is not None for name in COLUMNS[column])


def _without_factors(solver: tuple[SolverRow, ...] | None) -> tuple[SolverRow, ...] | None:
    own: dict[str, Any] = dict.fromkeys(FACTORS, 1.0)
    return solver and tuple(replace(row, **own) if isinstance(row, SolverStep) else row for row in solver)


def without(schedule: Schedule, column: str, inventory: Inventory, own_timesteps: Sequence[float]) -> Schedule:
    """The canonical schedule in which a column of `COLUMNS` is the pipeline's own; the steps stay.

    Args:
        schedule: one that uses the column.
        column: a key of `COLUMNS`.
        inventory: the sites of the model.
        own_timesteps: those of the pipeline's own sampler at the schedule's number of steps, one per network call.

    Raises:
        ScheduleError: the rows of other columns belong to another number of network calls than the own sampler makes,
            or a table was fitted to the column.
    """
    own: dict[str, Any] = dict.fromkeys(COLUMNS[column])
    if column == "factors":
        own["solver"] = _without_factors(schedule.solver)
    if column == "time":
        own["time"] = tuple(own_timesteps)
    rest = replace(schedule, **own)
    for name in rest.tables:
        if rest.before_table(name) != schedule.before_table(name):
            raise ScheduleError(f"the table of {name} was fitted together with the {column}")
    plan, rows, policy = rest.cache, rest.guidance, rest.policy
    n_rows = plan.n_calls if plan else len(rows) if rows else policy.n_calls if policy else None
    if rest.time is None and n_rows is not None and n_rows != len(own_timesteps):
        raise ScheduleError(
            f"the own sampler calls the network {len(own_timesteps)} times in {rest.n_steps} steps, and the other "
            f"columns have {n_rows} rows"
        )
    return canonical_schedule(rest, inventory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """A front member less one column, both by schedule hash; `key` is that of its held-out evaluation.

    Where the removal means nothing, `reason` says why, and there is no schedule and no key.
    """

    member: str
    column: str
    schedule_hash: str | None = None
    key: str | None = None
    reason: str = ""
    evaluation: Evaluation | None = None

    def to_json(self) -> dict[str, object]:
        """A JSON object that `removal_from_json` reads back, without the evaluation."""
        names = ("member", "column", "schedule_hash", "key", "reason")
        return {name: getattr(self, name) for name in names}


def removal_from_json(data: Mapping[str, object]) -> Removal:
    """The removal that `Removal.to_json` wrote.

    Raises:
        StorageError: the object is of another form.
    """
    try:
        removal = Removal(**data)  # type: ignore[arg-type]
    except TypeError as error:
        raise StorageError(
            f"a removal of a column has another form here: {error}; use the version that made it"
        ) from error
    if removal.column not in COLUMNS:
        raise StorageError(f"a removal names one of {', '.join(COLUMNS)}; got {removal.column!r}")
    return removal
