"""Measured schedules as one file, so that a search can be replayed without the model.

The file is gzip-compressed JSON, one object per line: first what holds for all rows, then a row per schedule. Numbers
are written so that they are read back exactly.
"""

import gzip
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from autotune.spaces.atomic_write import write_atomically
from autotune.spaces.condition import Condition, condition_from_json
from autotune.spaces.errors import AutotuneError, UsageError
from autotune.spaces.evaluation import TOLD_COUNTS, Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.inventory import Inventory, inventory_from_json
from autotune.spaces.schedule import Schedule, schedule_to_json
from autotune.spaces.schedule_json import schedule_from_json

FORMAT = "autotune-table"
VERSION = 1

_HEADER = ("format", "version", "condition", "inventory", "prompts", "seeds")
_ROW = ("family", "label", "schedule", "outcome")
_COUNTS = ("macs", "baseline_macs", "network_calls", "peak_memory_bytes")
_MEASUREMENT = ("quality", "latency_ms", "baseline_latency_ms", *_COUNTS, "wall_s")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRow:
    """A canonical schedule, who proposed it, and what was measured; maybe on the first prompts only."""

    family: str
    label: str
    schedule: Schedule
    outcome: Measurement | Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTable:
    """Schedules that were measured under one condition on the prompts of one fidelity."""

    condition: Condition
    inventory: Inventory
    fidelity: Fidelity
    rows: tuple[RecordedRow, ...]

    def __post_init__(self) -> None:
        if self.condition.inventory_hash != self.inventory.hash:
            raise UsageError(
                f"the inventory of a table must be its condition's; got {self.inventory.hash[:12]} and "
                f"{self.condition.inventory_hash[:12]}"
            )
        n = len(self.fidelity.prompts)
        for i, row in enumerate(self.rows):
            if isinstance(row.outcome, Measurement):
                lengths = {len(values) for values in row.outcome.quality.values()}
                if len(lengths) != 1 or not 1 <= max(lengths) <= n:
                    raise UsageError(
                        f"row {i} of a table needs metrics with equally many values, 1 to {n}; got {sorted(lengths)}"
                    )


def save_table(table: RecordedTable, path: Path) -> None:
    """Write a table; the same table gives the same bytes.

    Raises:
        StorageError: the file can't be written; nothing is changed then.
    """
    header = {
        "format": FORMAT,
        "version": VERSION,
        "condition": table.condition.to_json(),
        "inventory": table.inventory.to_json(),
        "prompts": table.fidelity.prompts,
        "seeds": table.fidelity.seeds,
    }
    lines = [json.dumps(data, separators=(",", ":"), allow_nan=False) for data in (header, *map(_row_json, table.rows))]
    write_atomically(path, gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0))


def read_table(path: Path) -> RecordedTable:
    """The table of a file that `save_table` wrote.

    Raises:
        UsageError: the file can't be read, is no table, or one of its lines breaks a rule; the message names it.
    """
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UsageError(
            f"a table must be a gzip-compressed file of `autotune export-table`; {path}: {error}"
        ) from error
    where = "the first line"
    try:
        header = _object(lines[0] if lines else "", _HEADER, "the first line of a table")
        if (header["format"], header["version"]) != (FORMAT, VERSION):
            raise ValueError(
                f"format and version must be {FORMAT} {VERSION}; got {header['format']!r} {header['version']!r}"
            )
        condition = condition_from_json(_mapping(header, "condition"))
        inventory = inventory_from_json(_mapping(header, "inventory"))
        fidelity = Fidelity(
            name="calibration",
            prompts=tuple(_typed(value, str, "prompts") for value in _list(header, "prompts")),
            seeds=tuple(_typed(value, int, "seeds") for value in _list(header, "seeds")),
        )
        rows = []
        for n, text in enumerate(lines[1:], start=2):
            where = f"line {n}"
            rows.append(_row(_object(text, _ROW, "a row of a table")))
        where = "the whole"
        return RecordedTable(condition=condition, inventory=inventory, fidelity=fidelity, rows=tuple(rows))
    except (AutotuneError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}, {where}: {error}; write the table again with `autotune export-table`") from error


def _row_json(row: RecordedRow) -> dict[str, object]:
    outcome: dict[str, object]
    if isinstance(row.outcome, Failure):
        outcome = {"kind": str(row.outcome.kind), "reason": row.outcome.reason}
    else:
        outcome = {name: getattr(row.outcome, name) for name in _MEASUREMENT if name != "quality"}
        outcome = {"quality": dict(row.outcome.quality), **outcome}
        outcome |= {name: told for name in TOLD_COUNTS if (told := getattr(row.outcome, name)) is not None}
    return {
        "family": row.family,
        "label": row.label,
        "schedule": schedule_to_json(row.schedule),
        "outcome": outcome,
    }


def _row(data: Mapping[str, object]) -> RecordedRow:
    outcome = _mapping(data, "outcome")
    return RecordedRow(
        family=_typed(data["family"], str, "family"),
        label=_typed(data["label"], str, "label"),
        schedule=schedule_from_json(_mapping(data, "schedule")),
        outcome=_failure(outcome) if "kind" in outcome else _measurement(outcome),
    )


def _failure(data: Mapping[str, object]) -> Failure:
    _check_keys(data, ("kind", "reason"), "a failure")
    return Failure(kind=FailureKind(_typed(data["kind"], str, "kind")), reason=_typed(data["reason"], str, "reason"))


def _measurement(data: Mapping[str, object]) -> Measurement:
    told: dict[str, Any] = {name: _typed(data[name], int, name) for name in TOLD_COUNTS if name in data}
    _check_keys(data, (*_MEASUREMENT, *told), "a measurement")
    quality = _mapping(data, "quality")
    macs, baseline_macs, network_calls, peak_memory_bytes = (_typed(data[name], int, name) for name in _COUNTS)
    return Measurement(
        quality={name: _numbers(quality, name) for name in quality},
        latency_ms=_numbers(data, "latency_ms"),
        baseline_latency_ms=_numbers(data, "baseline_latency_ms"),
        macs=macs,
        baseline_macs=baseline_macs,
        network_calls=network_calls,
        peak_memory_bytes=peak_memory_bytes,
        wall_s=_number(data["wall_s"], "wall_s"),
        **told,
    )


def _object(text: str, keys: tuple[str, ...], what: str) -> dict[str, object]:
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError(f"{what} must be a JSON object; got {type(data).__name__}")
    _check_keys(data, keys, what)
    return data


def _check_keys(data: Mapping[str, object], keys: tuple[str, ...], what: str) -> None:
    if set(data) != set(keys):
        raise ValueError(
            f"{what} must have the keys {', '.join(keys)}; missing or unknown: {sorted(set(data) ^ set(keys))}"
        )


def _mapping(data: Mapping[str, object], name: str) -> dict[str, object]:
    value = data[name]
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a JSON object; got {type(value).__name__}")
    return value


def _list(data: Mapping[str, object], name: str) -> list[object]:
    return _typed(data[name], list, name)


def _numbers(data: Mapping[str, object], name: str) -> tuple[float, ...]:
    return tuple(_number(value, name) for value in _list(data, name))


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must hold finite numbers; got {value!r}")
    return value


def _typed(value: object, kind: type[T], name: str) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} must be {kind.__name__}; got {value!r:.80}")
    return value
