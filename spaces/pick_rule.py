"""A pick by a limit, such as `latency<=0.5x`: the best member within a cost, or the cheapest of a quality."""

import re
from dataclasses import dataclass

from autotune.spaces.errors import UsageError
from autotune.spaces.front import (
    baseline_of,
    candidates_for_picks,
    quality_name,
    relative_cost,
    reported_measurement,
    study_front,
)
from autotune.spaces.objective import OBJECTIVES, Constraint, limited_value, objective_value, parse_constraint
from autotune.spaces.study_record import Candidate, StudyRecord

_TIMES = re.compile(r"(.*\d\.?)\s*x\s*")

_RELATIVE_TO = {"latency_ms": "latency", "energy_j": "energy"}
"""Limits whose default run was measured in turn with the schedule itself, and the objective that is their ratio."""


@dataclass(frozen=True, slots=True)
class PickRule:
    """A limit; with `times_baseline` it counts in the default run's values, as in `deviation<=1.2x`.

    Relative quantities (latency, macs, energy) count so in any case.
    """

    limit: Constraint
    times_baseline: bool

    def __str__(self) -> str:
        return f"{self.limit}x" if self.times_baseline else str(self.limit)

    def value(self, candidate: Candidate, record: StudyRecord) -> float:
        """What the limit is held against: the candidate's reported value, or that over the default run's.

        Raises:
            UsageError: it was not measured, or the default run has no positive value.
        """
        metric, measurement = self.limit.metric, reported_measurement(candidate)
        assert measurement is not None  # candidates for picks have one
        if self.times_baseline:
            metric = _RELATIVE_TO.get(metric, metric)
        value = limited_value(metric, measurement)
        if not self.times_baseline or (metric in OBJECTIVES and OBJECTIVES[metric].is_relative):
            return value
        baseline = baseline_of(record)
        default = None if baseline is None else reported_measurement(baseline)
        unit = 0.0 if default is None else limited_value(metric, default)
        if unit <= 0.0:
            raise UsageError(
                f"a limit in times the default run's value needs a positive {metric} there; got {unit:g}: leave the x "
                "out"
            )
        return value / unit


def parse_pick_rule(text: str) -> PickRule:
    """The rule of a text such as `latency<=0.5x`, `deviation<=0.05`, `psnr>=30` or `latency_ms<=300`.

    Raises:
        UsageError: the text has another form, or the metric is unknown.
    """
    match = _TIMES.fullmatch(text)
    return PickRule(parse_constraint(match[1] if match else text), match is not None)


def pick_by_rule(rule: PickRule, record: StudyRecord) -> Candidate:
    """The best member of a study's front that keeps a limit on a cost, or the cheapest that keeps one on a quality.

    Values are the reported ones, held-out where there are any, and members that `pick` would not name don't compete.

    Raises:
        UsageError: there is no front, or no member keeps the limit; the message names the nearest one.
    """
    members = candidates_for_picks(study_front(record), record)
    if not members:
        raise UsageError(
            f"study {record.name!r} has no feasible schedule yet, so nothing keeps {rule}: resume it first"
        )
    values = {c.number: rule.value(c, record) for c in members}
    keeping = [c for c in members if rule.limit.excess(values[c.number]) == 0.0]
    if not keeping:
        nearest = min(members, key=lambda c: (rule.limit.excess(values[c.number]), relative_cost(c, record)))
        unit = "x" if rule.times_baseline else ""
        raise UsageError(
            f"no schedule on the front of {record.name!r} keeps {rule}; the nearest is {nearest.schedule_hash[:12]} "
            f"({nearest.label}) with {rule.limit.metric} = {values[nearest.number]:.4g}{unit}: pick that one, or give "
            f"another limit"
        )

    def quality(candidate: Candidate) -> float:
        measurement = reported_measurement(candidate)
        assert measurement is not None
        return objective_value(quality_name(record), measurement)

    if rule.limit.is_on_cost:
        return min(keeping, key=lambda c: (quality(c), relative_cost(c, record)))
    return min(keeping, key=lambda c: (relative_cost(c, record), quality(c)))
