"""Rows of the solver column as JSON: an object in schedule files, a list in the database and under the hash."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import lru_cache

from autotune.spaces.errors import ScheduleError
from autotune.spaces.solver_step import SolverStep

REQUIRED = ("view", "domain", "order", "relaxation", "corrector")
"""Always written; other fields only where they are not the default."""


def step_to_object(step: SolverStep) -> dict[str, object]:
    """The row as a JSON object."""
    return {name: getattr(step, name) for name in REQUIRED} | _others(step)


def step_from_object(data: object) -> SolverStep:
    """The row that `step_to_object` wrote.

    Raises:
        ScheduleError: it is not an object, a key is missing or unknown, or a value breaks a rule.
    """
    if not isinstance(data, dict):
        raise ScheduleError(f"a row must be an object; got {type(data).__name__}")
    known = [field.name for field in fields(SolverStep)]
    for name in data:
        if name not in known:
            raise ScheduleError(f"{name} is not a known key; known: {', '.join(known)}")
    for name in REQUIRED:
        if name not in data:
            raise ScheduleError(f"{name} is missing")
    return SolverStep(**data)


def step_to_row(step: SolverStep) -> list[object]:
    """The row as a list: the required fields, then an object of the others if there are any."""
    others = _others(step)
    return [*(getattr(step, name) for name in REQUIRED), *([others] if others else [])]


def step_from_row(row: object) -> SolverStep:
    """The row that `step_to_row` wrote.

    Raises:
        ScheduleError: it is not such a list, or a value breaks a rule.
    """
    if not isinstance(row, list) or not len(REQUIRED) <= len(row) <= len(REQUIRED) + 1:
        raise ScheduleError(f"a row must be [{', '.join(REQUIRED)}] and an object of other fields; got {row!r}")
    others = row[len(REQUIRED)] if len(row) > len(REQUIRED) else {}
    if not isinstance(others, Mapping):
        raise ScheduleError(f"the last entry of a row must be an object; got {others!r}")
    try:
        return _make(tuple(sorted(others.items())), *row[: len(REQUIRED)])
    except TypeError as error:  # an unhashable cell or an unknown name
        raise ScheduleError(f"a row has wrong fields: {error}") from error


@lru_cache(maxsize=256, typed=True)  # a study repeats few formulas over thousands of rows; typed: 1 is not true
def _make(others: tuple[tuple[str, object], ...], *values: object) -> SolverStep:
    return step_from_object(dict(zip(REQUIRED, values, strict=True)) | dict(others))


def _others(step: SolverStep) -> dict[str, object]:
    others: dict[str, object] = {}
    for field in fields(SolverStep):
        value = getattr(step, field.name)
        # The default of slope_points depends on the order.
        default = step.order - 1 if field.name == "slope_points" else field.default
        if field.name not in REQUIRED and default is not MISSING and value != default:
            others[field.name] = value
    return others
