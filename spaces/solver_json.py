"""Rows of the solver column as JSON: an object in schedule files, a list in the database and under the hash.

A row without a `method` is the unified step; `hb` and `ghvb` have momentum, `bdia` is BDIA.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import lru_cache
from typing import cast, get_args

from autotune.spaces.bdia_step import BdiaStep
from autotune.spaces.errors import ScheduleError
from autotune.spaces.momentum_step import Method, MomentumStep
from autotune.spaces.solver_row import SolverRow
from autotune.spaces.solver_step import SolverStep

REQUIRED = ("view", "domain", "order", "relaxation", "corrector")
"""Of the unified step always written; other fields only where they are not the default."""

_METHODS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(get_args(Method), ("order", "beta")),
    "bdia": ("gamma",),
}
"""Fields of the rows that have a method; all are written."""


def step_to_object(step: SolverRow) -> dict[str, object]:
    """The row as a JSON object."""
    if isinstance(step, SolverStep):
        return {name: getattr(step, name) for name in REQUIRED} | _others(step)
    method = _method(step)
    return {"method": method} | {name: getattr(step, name) for name in _METHODS[method]}


def step_from_object(data: object) -> SolverRow:
    """The row that `step_to_object` wrote.

    Raises:
        ScheduleError: it is not an object, a key is missing or unknown, or a value breaks a rule.
    """
    if not isinstance(data, dict):
        raise ScheduleError(f"a row must be an object; got {type(data).__name__}")
    if "method" not in data:
        _check_keys(data, tuple(field.name for field in fields(SolverStep)), REQUIRED)
        return SolverStep(**data)
    method = data["method"]
    if not isinstance(method, str) or method not in _METHODS:
        raise ScheduleError(f"method must be one of {', '.join(_METHODS)}, or absent; got {method!r}")
    names = ("method", *_METHODS[method])
    _check_keys(data, names, names)
    if method == "bdia":
        return BdiaStep(gamma=data["gamma"])
    return MomentumStep(method=cast(Method, method), order=data["order"], beta=data["beta"])


def step_to_row(step: SolverRow) -> list[object]:
    """The row as a list: the required fields and an object of the others if there are any, or the method's values."""
    if not isinstance(step, SolverStep):
        return list(step_to_object(step).values())
    others = _others(step)
    return [*(getattr(step, name) for name in REQUIRED), *([others] if others else [])]


def step_from_row(row: object) -> SolverRow:
    """The row that `step_to_row` wrote.

    Raises:
        ScheduleError: it is not such a list, or a value breaks a rule.
    """
    if isinstance(row, list) and row and isinstance(row[0], str) and row[0] in _METHODS:
        names = ("method", *_METHODS[row[0]])
        if len(row) != len(names):
            raise ScheduleError(f"a row of method {row[0]} must be [{', '.join(names)}]; got {row!r}")
        return step_from_object(dict(zip(names, row, strict=True)))
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
def _make(others: tuple[tuple[str, object], ...], *values: object) -> SolverRow:
    return step_from_object(dict(zip(REQUIRED, values, strict=True)) | dict(others))


def _check_keys(data: Mapping[str, object], known: tuple[str, ...], required: tuple[str, ...]) -> None:
    for name in data:
        if name not in known:
            raise ScheduleError(f"{name} is not a known key; known: {', '.join(known)}")
    for name in required:
        if name not in data:
            raise ScheduleError(f"{name} is missing")


def _method(step: MomentumStep | BdiaStep) -> str:
    return "bdia" if isinstance(step, BdiaStep) else step.method


def _others(step: SolverStep) -> dict[str, object]:
    others: dict[str, object] = {}
    for field in fields(SolverStep):
        value = getattr(step, field.name)
        # The default of slope_points depends on the order.
        default = step.order - 1 if field.name == "slope_points" else field.default
        if field.name not in REQUIRED and default is not MISSING and value != default:
            others[field.name] = value
    return others
