"""Tables that a schedule names, as files beside its own: `flux.schedule.json` has `flux.1a2b3c4d.safetensors`."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from autotune.spaces.atomic_write import write_atomically
from autotune.spaces.errors import ScheduleError
from autotune.spaces.schedule import Schedule

_SUFFIXES = (".schedule.json", ".json")


def table_name(condition_hash: str, digest: str) -> str:
    """The name that the table of this SHA-256 is kept under among the artifacts of a database."""
    return f"table/{condition_hash}/{digest}"


def table_path(path: Path, digest: str) -> Path:
    """Where the table of this SHA-256 lies for the schedule file `path`."""
    name = next((path.name.removesuffix(suffix) for suffix in _SUFFIXES if path.name.endswith(suffix)), path.name)
    return path.with_name(f"{name}.{digest[:8]}.safetensors")


def write_tables(path: Path, schedule: Schedule, tables: Mapping[str, bytes]) -> None:
    """Write the tables that a schedule names beside its file `path`.

    Raises:
        ScheduleError: a table is missing, or is not what its SHA-256 says.
        StorageError: a file can't be written.
    """
    for column, digest in schedule.tables.items():
        write_atomically(table_path(path, digest), table_of(schedule, column, tables))


def read_tables(path: Path, schedule: Schedule) -> dict[str, bytes]:
    """The tables that a schedule names, by SHA-256; a schedule file may have been renamed without them.

    Raises:
        ScheduleError: one is not there, can't be read, or is not the one that the schedule was measured with.
    """
    tables = {}
    for column, digest in schedule.tables.items():
        own = table_path(path, digest)
        for place in (own, *sorted(path.parent.glob(f"*.{digest[:8]}.safetensors"))):
            if place.is_file():
                tables[digest] = _content(place, column, digest)
                break
        else:
            raise ScheduleError(
                f"schedule.{column} names a table, which must lie beside the schedule file; {own.name} is missing: "
                "copy it there, or export the schedule again"
            )
    return tables


def table_of(schedule: Schedule, column: str, tables: Mapping[str, bytes]) -> bytes:
    """The table that a column of a schedule names.

    Raises:
        ScheduleError: it is missing, or is not what its SHA-256 says.
    """
    digest = schedule.tables[column]
    if digest not in tables:
        raise ScheduleError(f"{column} needs the table {digest[:12]}; got none: export the schedule again, with it")
    _check(tables[digest], column, digest)
    return tables[digest]


def _content(path: Path, column: str, digest: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ScheduleError(f"the table {path} can't be read: {error.strerror or error}; check the path") from error
    _check(data, column, digest)
    return data


def _check(data: bytes, column: str, digest: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise ScheduleError(
            f"the table of {column} must have the SHA-256 {digest[:12]}...; got {found[:12]}...: it was edited or "
            "damaged, or belongs to another schedule; export the schedule again"
        )
