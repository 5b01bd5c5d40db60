"""Reading back what `autotune.spaces.schedule.schedule_to_json` wrote."""

from collections.abc import Mapping

from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.cache_policy import policy_from_json
from autotune.spaces.errors import ScheduleError
from autotune.spaces.guidance_column import guidance_from_json
from autotune.spaces.program_correction import correction_from_json
from autotune.spaces.schedule import TABLE_COLUMNS, Schedule
from autotune.spaces.solver_json import step_from_row
from autotune.spaces.solver_row import SolverRow

_COLUMNS = ("n_steps", "time", "solver", "compensation", "cache", "guidance")
_OPTIONAL = ("start", "correction", "unconditional_cache", "policy", *TABLE_COLUMNS)


def schedule_from_json(data: Mapping[str, object]) -> Schedule:
    """The schedule of a JSON object, equal to the one written, and so with the same hash.

    Raises:
        ScheduleError: a column is missing, unknown, or not of the form that `schedule_to_json` writes.
    """
    if set(data) - set(_OPTIONAL) != set(_COLUMNS):
        wrong = sorted((set(data) - set(_OPTIONAL)) ^ set(_COLUMNS))
        raise ScheduleError(f"a schedule must have the columns {', '.join(_COLUMNS)}; missing or unknown: {wrong}")
    n_steps = data["n_steps"]
    if isinstance(n_steps, bool) or not isinstance(n_steps, int):
        raise ScheduleError(f"n_steps must be a positive integer; got {n_steps!r}")
    solver, guidance = _rows(data, "solver"), _rows(data, "guidance")
    return Schedule(
        n_steps=n_steps,
        time=_numbers(data, "time"),
        solver=None if solver is None else tuple(_step(row, i) for i, row in enumerate(solver)),
        compensation=_numbers(data, "compensation"),
        start=_number(data, "start"),
        correction=correction_from_json(data["correction"]) if "correction" in data else None,
        cache=_cache(data, "cache"),
        unconditional_cache=_cache(data, "unconditional_cache"),
        guidance=None if guidance is None else guidance_from_json(guidance),
        policy=policy_from_json(data["policy"]) if "policy" in data else None,
        **tables_from_json(data),
    )


def tables_from_json(data: Mapping[str, object]) -> dict[str, str]:
    """The columns of a JSON object that name a table.

    Raises:
        ScheduleError: one is no text.
    """
    tables = {}
    for name in TABLE_COLUMNS:
        if name in data:
            digest = data[name]
            if not isinstance(digest, str):
                raise ScheduleError(f"{name} must be the SHA-256 of a table; got {digest!r}")
            tables[name] = digest
    return tables


def _rows(data: Mapping[str, object], column: str) -> list[object] | None:
    value = data.get(column)
    if value is not None and not isinstance(value, list):
        raise ScheduleError(f"the column {column} must be a list or null; got {type(value).__name__}")
    return value


def _numbers(data: Mapping[str, object], column: str) -> tuple[float, ...] | None:
    rows = _rows(data, column)
    if rows is None:
        return None
    numbers: list[float] = []
    for i, value in enumerate(rows):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ScheduleError(f"{column}[{i}] must be a number; got {value!r}")
        numbers.append(value)
    return tuple(numbers)


def _number(data: Mapping[str, object], column: str) -> float | None:
    value = data.get(column)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ScheduleError(f"{column} must be a number; got {value!r}")
    return value


def _step(row: object, i: int) -> SolverRow:
    try:
        return step_from_row(row)
    except ScheduleError as error:
        raise ScheduleError(f"solver[{i}]: {error}") from error


def _cache(data: Mapping[str, object], column: str) -> CachePlan | None:
    rows = _rows(data, column)
    if rows is None:
        return None
    match rows:
        case [int(n_calls), int(n_sites), str(digits)]:
            try:
                return CachePlan(n_calls, n_sites, bytes.fromhex(digits))
            except ScheduleError:
                raise
            except ValueError as error:
                raise ScheduleError(f"the actions of column {column} must be hexadecimal digits; {error}") from error
    raise ScheduleError(f"the column {column} must be [n_calls, n_sites, hexadecimal digits]")
