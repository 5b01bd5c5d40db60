"""Fitting a column of a schedule to runs of the network: what is asked, and what comes back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from autotune.spaces.errors import StorageError
from autotune.spaces.schedule import Schedule, schedule_to_json
from autotune.spaces.schedule_json import schedule_from_json


class FitColumn(StrEnum):
    """The columns that can be fitted."""

    SOLVER = "solver"
    """The times, and the factors in the rows: slope, curvature and gains; orders and views stay."""
    COMPENSATION = "compensation"
    """DC-Solver's ratios, one per step from the third on."""
    CORRECTION = "correction"
    """Additive corrections to the coefficients and the timesteps of the calls."""
    CACHE_CORRECTION = "cache-correction"
    """What the cache hands out, or the output that comes of it, by least squares; a table, which the schedule names."""
    DEC = "dec"
    """The same by CacheQuant's factors and shifts alone, without a history."""
    W8A8 = "w8a8"
    """Weights and activations of 8 bits: a table, with the grids and corrections of each layer."""
    W7A8 = "w7a8"
    """Weights of 4 or 8 bits, 7 on average, the layers chosen by what 4 bits do to each."""
    W6A8 = "w6a8"
    """The same with 6 bits on average."""
    W5A8 = "w5a8"
    """The same with 5 bits on average."""
    W4A8 = "w4a8"
    """Weights of 4 bits in blocks, and the rest of 8."""


PRECISIONS: Mapping[FitColumn, float] = MappingProxyType(
    {
        FitColumn.W8A8: 8.0,
        FitColumn.W7A8: 7.0,
        FitColumn.W6A8: 6.0,
        FitColumn.W5A8: 5.0,
        FitColumn.W4A8: 4.0,
    }
)
"""Mean bits of a weight in blocks, of the fits that make the column `quantization`."""

CACHE_CORRECTIONS = frozenset({FitColumn.CACHE_CORRECTION, FitColumn.DEC})
"""The fits that make the column `cache_correction`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFit:
    """A schedule with a fitted column.

    `before` and `after` are deviations on prompts that the fit did not train on: the root mean square for compensation,
    else the mean. `image_runs` is what it cost in runs over one prompt; one with gradients counts as
    three. `stopped` says that time ran out.
    """

    schedule: Schedule
    before: float
    after: float
    image_runs: int
    stopped: bool = False

    @property
    def network_calls(self) -> int:
        """What it cost in network calls."""
        return self.image_runs * self.schedule.n_steps

    def to_bytes(self) -> bytes:
        """JSON that `fit_from_bytes` reads back."""
        data = {name: getattr(self, name) for name in ("before", "after", "image_runs")}
        return json.dumps(data | {"schedule": schedule_to_json(self.schedule)}, allow_nan=False).encode()


def fit_from_bytes(data: bytes) -> ColumnFit:
    """The fit that `ColumnFit.to_bytes` wrote.

    Raises:
        StorageError: it is no such JSON.
    """
    try:
        values = json.loads(data)
        if not isinstance(values, Mapping):
            raise TypeError("not an object")
        schedule = schedule_from_json(values["schedule"])
        return ColumnFit(
            schedule=schedule,
            before=float(values["before"]),
            after=float(values["after"]),
            image_runs=int(values["image_runs"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"a stored fit can't be read: {error}; delete it, so that it is made again") from error
