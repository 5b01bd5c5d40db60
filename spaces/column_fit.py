"""Fitting a column of a schedule to runs of the network: what is asked, and what comes back."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from autotune.spaces.errors import ScheduleError, StorageError, UsageError
from autotune.spaces.schedule import Schedule, schedule_to_json
from autotune.spaces.schedule_json import schedule_from_json


class FitColumn(StrEnum):
    """The columns that can be fitted; `quantization` is asked for by a `Precision`."""

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


@dataclass(frozen=True, slots=True, order=True)
class Precision:
    """A fit that makes the column `quantization`: activations of 8 bits, and weights of so many on average.

    Weights in blocks have 4 or 8 bits, the layers chosen by what 4 bits do to each; all others have 8.

    Raises:
        UsageError: there are no weights of so few or so many bits.
    """

    mean_bits: float

    def __post_init__(self) -> None:
        if not 4.0 <= self.mean_bits <= 8.0:
            raise UsageError(f"weights have 4 to 8 bits on average; got {self.mean_bits:g}")

    def __str__(self) -> str:
        return f"w{self.mean_bits:g}a8"


def precision_of(name: str) -> Precision:
    """The precision of a name like w8a8 or w6.25a8.

    Raises:
        UsageError: it is no such name.
    """
    match = re.fullmatch(r"w(\d(?:\.\d+)?)a8", name.lower())
    if match is None:
        raise UsageError(f"a precision is w8a8, w4a8, or one between like w6.25a8; got {name!r}")
    return Precision(float(match[1]))


FitTarget: TypeAlias = FitColumn | Precision
"""What can be asked for."""

PRECISIONS = tuple(Precision(bits) for bits in (8.0, 7.0, 6.0, 5.0, 4.0))
"""Those that are tried where no budget asks for another."""

CACHE_CORRECTIONS = frozenset({FitColumn.CACHE_CORRECTION, FitColumn.DEC})
"""The fits that make the column `cache_correction`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFit:
    """A schedule with a fitted column.

    `before` and `after` are deviations on prompts that the fit did not train on (of fewer than four it trains on all):
    the root mean square for compensation, else the mean. `image_runs` is what it cost in runs over one prompt; one with
    gradients counts as three. `stopped` says that time ran out.
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


def check_correctable(schedule: Schedule) -> None:
    """Return if the column `cache_correction` can be fitted to a schedule.

    Raises:
        ScheduleError: it reuses nothing, or each branch by a plan of its own.
    """
    if schedule.cache is None or schedule.unconditional_cache is not None:
        raise ScheduleError("a cache correction needs a schedule that reuses something, by one plan for both branches")
