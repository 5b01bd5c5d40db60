"""JSON of files that people edit: no key twice, no number that is not finite, no key that nobody reads."""

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import NoReturn

from autotune.spaces.errors import ScheduleError

_DIGITS = 30
"""Of an integer, at most: more may overflow where a number is made of it."""

_SHOWN = 12
"""Known keys that a message lists one by one."""


def parse_strict(text: str, *, remedy: str) -> object:
    """The value of a JSON text.

    Raises:
        ScheduleError: it is no JSON (the message ends in `remedy`), has a key twice, or a number that is not finite.
    """
    try:
        value: object = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_reject_constant, parse_float=_float, parse_int=_int
        )
    except json.JSONDecodeError as error:
        raise ScheduleError(
            f"not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}); {remedy}"
        ) from error
    except RecursionError as error:
        raise ScheduleError(f"the JSON is nested too deeply; {remedy}") from error
    return value


def as_object(value: object, name: str) -> dict[str, object]:
    """The value, which must be a JSON object.

    Raises:
        ScheduleError: it is something else; the message says `name`.
    """
    if not isinstance(value, dict):
        raise ScheduleError(f"{name} must be an object; got {type(value).__name__}")
    return value


def check_keys(data: Mapping[str, object], where: str, known: Sequence[str], *, required: Sequence[str]) -> None:
    """Return if the object has all required keys and no unknown one; `where` is put before a key, say `schedule.`.

    Raises:
        ScheduleError: the message names the key.
    """
    names = set(known)
    for name in data:
        if name not in names:
            few = ", ".join(known) if len(known) <= _SHOWN else f"{known[0]} to {known[-1]}"
            raise ScheduleError(f"{where}{name} is not a known key; known: {few}")
    for name in required:
        if name not in data:
            raise ScheduleError(f"{where}{name} is missing")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ScheduleError(f"the key {twice!r} stands twice in one object; remove one")
    return made


def _int(text: str) -> int:
    if len(text.removeprefix("-")) > _DIGITS:
        raise ScheduleError(f"integers must have at most {_DIGITS} digits; got {text[:20]}...: export the file again")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    return value if isfinite(value) else _reject_constant(text)


def _reject_constant(text: str) -> NoReturn:
    raise ScheduleError(f"numbers must be finite; got {text}: export the file again")
