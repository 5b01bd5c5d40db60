"""The error of a candidate: which one it is, what searches minimise of it, and how people read it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from autotune.spaces.evaluation import DEVIATION, SUCCESS, Measurement
from autotune.spaces.objective import objective_value
from autotune.spaces.study_record import StudyRecord

ERROR_FLOOR = 1e-6
"""Smaller errors count as this one where a logarithm is taken."""

ERROR_OBJECTIVES = (DEVIATION, SUCCESS)
"""The objectives that say what `Measurement.error` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorScale:
    """What `Measurement.error` is, and how it is written for people.

    `metric` is what people read, the key of a measurement's quality and of a row of figures: `deviation`, which is the
    error, or `success`, which is 1 less the error (`is_share`). `units` are what the values of a measurement are of.
    """

    metric: str
    units: str
    is_share: bool = False

    @property
    def largest(self) -> float:
        """The largest error that there can be."""
        return 1.0 if self.is_share else math.inf

    def tick(self, error: float) -> str:
        """An error on an axis: `0.05`, or the success `95 %`."""
        return f"{100.0 * (1.0 - error):.6g} %" if self.is_share else f"{error:g}"

    def change(self, before: float, after: float) -> str:
        """How the metric has changed: `+5%` of its value, or `-2.0 points`."""
        return f"{100.0 * (after - before):+.1f} points" if self.is_share else f"{after / before - 1.0:+.0%}"


DEVIATIONS = ErrorScale(metric=DEVIATION, units="prompts")
FAILURES = ErrorScale(metric=SUCCESS, units="episodes", is_share=True)
ERRORS = ErrorScale(metric="error", units="prompts or episodes")
"""Deviations and failures side by side."""


def percent(share: float) -> str:
    """A share for people: `96.5 %`."""
    return f"{100.0 * share:.1f} %"


def scale_of(measurement: Measurement) -> ErrorScale:
    """The scale of a measurement's error."""
    return FAILURES if SUCCESS in measurement.quality else DEVIATIONS


def error_text(measurement: Measurement) -> str:
    """The error of a measurement in two words: `deviation 0.0416`, or `success 96.5 %`."""
    scale = scale_of(measurement)
    value = measurement.mean(scale.metric)
    return f"{scale.metric} {percent(value) if scale.is_share else format(value, '.4f')}"


def error_scale(record: StudyRecord) -> ErrorScale:
    """The scale of a study's errors: that of its first result, or of its objectives where there is none yet."""
    first = next((m for c in record.candidates if (m := c.calibration.measurement)), None)
    if first is not None:
        return scale_of(first)
    objectives = record.settings.get("objectives") or ()
    assert isinstance(objectives, str | list | tuple)
    return FAILURES if SUCCESS in objectives else DEVIATIONS


def common_scale(scales: Iterable[ErrorScale]) -> ErrorScale:
    """The scale that all share, else `ERRORS`."""
    different = set(scales)
    return different.pop() if len(different) == 1 else ERRORS


def error_value(objective: str, measurement: Measurement) -> float | None:
    """The error that an objective stands for, at least `ERROR_FLOOR`, of which searches minimise the logarithm.

    None of objectives that are minimised as they are.

    Raises:
        UsageError: the objective is unknown, or its metric was not measured.
    """
    value = objective_value(objective, measurement)
    if objective not in ERROR_OBJECTIVES:
        return None
    return max(measurement.error if objective == SUCCESS else value, ERROR_FLOOR)
