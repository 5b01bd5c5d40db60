"""One line of an export: fields of known types, and errors that name the line and the field."""

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from autotune.spaces.errors import AutotuneError, UsageError
from autotune.storage.values import storable_text


class _LineError(UsageError):
    """A line is wrong, and the message says which."""


class Line:
    """One line of an export. A field is taken once; `end` refuses what nobody took."""

    def __init__(self, path: Path, number: int, fields: dict[str, Any]) -> None:
        self.number = number
        self._path = path
        self._fields = fields

    def error(self, rule: str) -> UsageError:
        """The error that this line is wrong."""
        return _LineError(f"{self._path}, line {self.number}: {rule}; nothing was imported: export it again")

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Say which line it was that a value can't be made of."""
        try:
            yield
        except _LineError:
            raise
        except (AutotuneError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise self.error(str(error)) from error

    def text(self, name: str, *, longest: int | None = None) -> str:
        """A field that is a text, with 1 to `longest` characters where that is given."""
        value: str = self._take(name, "a text", str)
        if longest is not None and not 1 <= len(value) <= longest:
            raise self.error(f"{name} must have 1 to {longest} characters; got {shown(value)}")
        if value != storable_text(value):
            raise self.error(f"{name} must hold no NUL and no half of a surrogate pair; got {shown(value)}")
        return value

    def text_or_none(self, name: str) -> str | None:
        """A field that is a text or null."""
        if self._fields.get(name, "") is None:
            return self._fields.pop(name)  # type: ignore[no-any-return]
        return self.text(name)

    def digest(self, name: str) -> str:
        """A field that names something by its hash."""
        return self.text(name, longest=64)

    def sha256(self, name: str) -> str:
        """A field that is the hash of a file's content, as hex digits."""
        value = self.text(name)
        if re.fullmatch("[0-9a-f]{64}", value) is None:
            raise self.error(f"{name} must be a SHA-256 as 64 hex digits; got {shown(value)}")
        return value

    def count(self, name: str, *, bits: int = 63) -> int:
        """A field that is a whole number and not negative."""
        value: int = self._take(name, "a whole number", int)
        if not 0 <= value < 2**bits:
            raise self.error(f"{name} must be a whole number from 0 to 2^{bits} - 1; got {value}")
        return value

    def moment(self, name: str) -> datetime:
        """A field that is a moment in ISO 8601 with its zone."""
        text = self.text(name)
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            value = datetime.min
        if value.tzinfo is None:
            raise self.error(f"{name} must be a moment such as 2026-01-02T03:04:05+00:00; got {shown(text)}")
        return value

    def number_of(self, name: str) -> float:
        """A field that is a number."""
        value = self._take(name, "a number", int, float)
        if not abs(value) <= sys.float_info.max:
            raise self.error(f"{name} must be finite; got {shown(value)}")
        return float(value)

    def mapping(self, name: str) -> dict[str, Any]:
        """A field that is an object."""
        value: dict[str, Any] = self._take(name, "an object", dict)
        return value

    def sequence(self, name: str, *kinds: type) -> tuple[Any, ...]:
        """A field that is a list whose members all have one of these types."""
        values = self._take(name, "a list", list)
        for i, value in enumerate(values):
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise self.error(f"{name}[{i}] must be {' or '.join(k.__name__ for k in kinds)}; got {shown(value)}")
        return tuple(values)

    @property
    def names(self) -> list[str]:
        """The fields that nobody took yet."""
        return list(self._fields)

    def has(self, name: str) -> bool:
        """Whether an optional field is there."""
        return name in self._fields

    def inner(self, name: str) -> "Line":
        """A field that is an object, to take its fields in turn."""
        return Line(self._path, self.number, self.mapping(name))

    def end(self) -> None:
        """Raise where there is a field that nobody took."""
        if self._fields:
            raise self.error(f"{next(iter(self._fields))} is not a known field")

    def _take(self, name: str, what: str, *kinds: type) -> Any:
        if name not in self._fields:
            raise self.error(f"{name} is missing")
        value = self._fields.pop(name)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise self.error(f"{name} must be {what}; got {shown(value)}")
        return value


def shown(value: object) -> str:
    """The beginning of a JSON value, for messages."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
