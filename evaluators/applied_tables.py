"""The tables of a schedule, read and checked."""

from collections.abc import Mapping
from dataclasses import dataclass

from autotune.evaluators.correction_table import read_correction
from autotune.evaluators.quantization_table import read_quantization
from autotune.spaces.cache_correction import CacheCorrection
from autotune.spaces.condition import Condition
from autotune.spaces.quantization import Quantization
from autotune.spaces.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedTables:
    """What the columns `cache_correction` and `quantization` of a schedule stand for; None where it has none."""

    cache_correction: CacheCorrection | None = None
    quantization: Quantization | None = None

    @classmethod
    def of(cls, schedule: Schedule, condition: Condition, tables: Mapping[str, bytes]) -> "AppliedTables":
        """The tables that a canonical schedule names, by their content.

        Raises:
            ScheduleError: a table is missing or damaged, or does not fit the schedule.
            ScheduleMismatchError: one was made for something else.
        """
        return cls(
            cache_correction=read_correction(schedule, condition, tables),
            quantization=read_quantization(schedule, condition, tables),
        )
