"""Tables that schedules name by their SHA-256: safetensors, with what they were made for."""

import hashlib
import json
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from autotune.spaces.condition import Condition
from autotune.spaces.errors import EvaluatorError, ScheduleError
from autotune.spaces.schedule import Schedule
from autotune.spaces.table_files import table_name, table_of
from autotune.spaces.table_identity import TableIdentity

if TYPE_CHECKING:  # `autotune validate` reads tables without torch
    from autotune.evaluators.reference import ArtifactCache

FORMAT = "schedule-table-1"
HISTORY_FORMAT = "schedule-table-2"
"""Of a table with a history correction, which software that knows the first alone must not read as lines."""

WEIGHTS = "checkpoint.weights"
"""The tensor of a table that has some weights of the network; tables from before it have none."""

Tensors = Mapping[str, NDArray[np.generic]]


def make_table(identity: TableIdentity, tensors: Tensors, version: str = FORMAT) -> tuple[str, bytes]:
    """SHA-256 and content of a table of a format; the same figures give the same bytes."""
    # One key alone, since safetensors writes several in any order.
    header = json.dumps({"format": version, "made_for": identity.to_json()}, sort_keys=True, separators=(",", ":"))
    data = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, {"autotune": header})
    return hashlib.sha256(data).hexdigest(), data


def read_table(
    column: str,
    schedule: Schedule,
    condition: Condition,
    tables: Mapping[str, bytes],
    versions: tuple[str, ...] = (FORMAT,),
) -> Tensors:
    """The table that a column of a canonical schedule names, if it was made for this schedule and condition.

    `versions` are the formats that it may have.

    Raises:
        ScheduleError: it is missing, damaged, or no such table.
        ScheduleMismatchError: it was made for another model, sampler, step count, guidance, resolution or schedule.
    """
    data = table_of(schedule, column, tables)
    try:
        tensors = load(data)
        (length,) = struct.unpack("<Q", data[:8])  # safetensors: the header's length, then the header
        header = json.loads((json.loads(data[8 : 8 + length]).get("__metadata__") or {}).get("autotune", "{}"))
    except (SafetensorError, ValueError) as error:
        raise ScheduleError(
            f"the table of {column} must be a safetensors file ({error}); export the schedule again"
        ) from error
    found = header.get("format") if isinstance(header, dict) else None
    if found not in versions:
        raise ScheduleError(
            f"the table of {column} must have the format {' or '.join(versions)}; got {found!r}: export the schedule "
            "again, or install the version that wrote it"
        )
    TableIdentity.of(column, schedule, condition).check(header.get("made_for"))
    return {name: tensor for name, tensor in tensors.items() if name != WEIGHTS}


def weights_of(table: bytes) -> NDArray[np.float32] | None:
    """The weights that a table has a sample of; None if it has none, or can't be read."""
    try:
        found = load(table).get(WEIGHTS)
    except SafetensorError:
        return None
    return None if found is None else found.astype(np.float32)


class TableStore:
    """The tables of one condition: read from the artifacts once, made ones kept there; without artifacts, in memory.

    `weights` are those that made tables know their checkpoint by, see `autotune.evaluators.weight_sample`.
    """

    def __init__(
        self,
        condition: Condition,
        artifacts: "ArtifactCache | None",
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        self._condition, self._artifacts = condition, artifacts
        self._sample: Tensors = {} if weights is None else {WEIGHTS: weights}
        self._known: dict[str, bytes] = {}

    def make(self, column: str, base: Schedule, tensors: Tensors, version: str = FORMAT) -> str:
        """Make and keep the table of a column, fitted to a canonical schedule without it; its SHA-256."""
        digest, data = make_table(TableIdentity.of(column, base, self._condition), {**tensors, **self._sample}, version)
        self.keep(digest, data)
        return digest

    def keep(self, digest: str, data: bytes) -> None:
        """Keep a table that was made."""
        self._known[digest] = data
        if self._artifacts is not None:
            self._artifacts.save(table_name(self._condition.hash, digest), data, "table")

    def has(self, schedule: Schedule) -> bool:
        """Whether `of` would find all tables of a schedule."""
        try:
            return len(self.of(schedule)) == len(schedule.tables)
        except EvaluatorError:
            return False

    def of(self, schedule: Schedule) -> Mapping[str, bytes]:
        """The tables that a schedule names, by SHA-256.

        Raises:
            EvaluatorError: one is not there.
        """
        for column, digest in schedule.tables.items():
            if digest not in self._known:
                name = table_name(self._condition.hash, digest)
                data = None if self._artifacts is None else self._artifacts.load(name)
                if data is None:
                    raise EvaluatorError(
                        f"the table {digest[:12]} of {column} must be among the artifacts, and is not: workers on "
                        "other machines need a database and a folder of artifacts that all share; else restore it"
                    )
                self._known[digest] = data
        return {digest: self._known[digest] for digest in schedule.tables.values()}
