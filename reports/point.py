"""Candidates as points of a front plot: relative cost against error or quality, minimised, with 95 % intervals."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.error_scale import scale_of
from autotune.spaces.errors import UsageError
from autotune.spaces.evaluation import Measurement
from autotune.spaces.front import record_objectives, reported_measurement
from autotune.spaces.objective import OBJECTIVES
from autotune.spaces.pareto import front_hypervolume, non_dominated
from autotune.spaces.statistics import bootstrap_interval, ratio_interval, share_interval
from autotune.spaces.study_record import Candidate, StudyRecord

Interval = tuple[float, float]

CALIBRATION = "calibration"
HELD_OUT = "held_out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A complete candidate's place on the plot: `cost` relative to the pipeline's default run, and `error`.

    The error may be another quality, signed so that less is better. Both come from `measurement`, the held-out one
    where there is one, and `source` says which it is.
    """

    candidate: Candidate
    source: str
    measurement: Measurement
    cost: float
    error: float

    @property
    def family(self) -> str:
        """The searcher that proposed the candidate."""
        return self.candidate.family


def final_measurement(candidate: Candidate) -> tuple[str, Measurement] | None:
    """What a reader should believe of a candidate, and where it comes from; None if the candidate failed."""
    measurement = reported_measurement(candidate)
    if measurement is None:
        return None
    verified = candidate.held_out is not None and candidate.held_out.measurement is not None
    return (HELD_OUT if verified else CALIBRATION), measurement


def cost_name(record: StudyRecord) -> str:
    """What the cost axis shows: `macs` if that is the study's first cost objective, else `latency`."""
    first = next((name for name in record_objectives(record) if OBJECTIVES[name].is_cost), "latency")
    return "macs" if first == "macs" else "latency"


def cost_and_error(measurement: Measurement | None, cost: str) -> tuple[float, float] | None:
    """Relative cost and mean error, or None where either was not measured or is not a finite number."""
    if measurement is None:
        return None
    x = OBJECTIVES[cost].natural(measurement)
    y = measurement.error
    return (x, y) if isfinite(x) and isfinite(y) else None


def study_points(record: StudyRecord) -> tuple[Point, ...]:
    """All candidates measured in full with a finite cost and error, in the order in which they were tried."""
    cost = cost_name(record)
    points = []
    for candidate in record.whole:
        final = final_measurement(candidate)
        if final is None:
            continue
        source, measurement = final
        place = cost_and_error(measurement, cost)
        if place is None:
            continue
        x, y = place
        points.append(Point(candidate=candidate, source=source, measurement=measurement, cost=x, error=y))
    return tuple(points)


def by_quality(points: Sequence[Point], quality: str) -> tuple[Point, ...]:
    """The points with the value of a quality objective for their error, where it was measured."""
    read = OBJECTIVES[quality].natural
    sign = -1.0 if OBJECTIVES[quality].higher_is_better else 1.0
    placed = []
    for point in points:
        with contextlib.suppress(UsageError):  # a policy's error stands for no image, for one
            placed.append(replace(point, error=sign * read(point.measurement)))
    return tuple(point for point in placed if isfinite(point.error))


def cost_interval(point: Point, cost: str) -> Interval | None:
    """95 % interval of the relative cost; None for MACs, which are counted, and for fewer than two timed runs."""
    measurement = point.measurement
    if cost == "macs" or min(len(measurement.latency_ms), len(measurement.baseline_latency_ms)) < 2:
        return None
    return ratio_interval(measurement.latency_ms, measurement.baseline_latency_ms)


def error_interval(point: Point) -> Interval | None:
    """95 % interval of the mean error over prompts; None for a single prompt, and above 0 for episodes."""
    measurement = point.measurement
    if measurement.n_prompts < 2:
        return None
    if not scale_of(measurement).is_share:
        return bootstrap_interval(measurement.errors)
    low, high = share_interval(measurement.errors)
    return max(low, measurement.least_error), high


def quality_interval(point: Point, quality: str) -> Interval | None:
    """95 % interval of a quality objective's mean over prompts, signed as it is; None for a single prompt."""
    values = point.measurement.quality.get(quality, ())
    if len(values) < 2:
        return None
    low, high = bootstrap_interval(values)
    return (-high, -low) if OBJECTIVES[quality].higher_is_better else (low, high)


def coordinates(points: Sequence[Point]) -> NDArray[np.float64]:
    """Cost and error as an array (n, 2)."""
    return np.array([(p.cost, p.error) for p in points], np.float64).reshape(-1, 2)


def lower_front(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points that no other one dominates, by increasing cost."""
    if not points:
        return ()
    keep = non_dominated(coordinates(points))
    return tuple(sorted((p for p, kept in zip(points, keep, strict=True) if kept), key=lambda p: (p.cost, p.error)))


def volume(places: Sequence[tuple[float, float]]) -> float:
    """Hypervolume, as a fraction of the box, of (relative cost, error) pairs; 0 for none."""
    if not places:
        return 0.0
    table = np.array(places, np.float64)
    return float(front_hypervolume(table[:, 0], table[:, 1]))
