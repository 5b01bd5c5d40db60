"""The front of a study, and the three of its members that a user would look at first.

*Which* candidates stand on the front is decided by the values on all calibration prompts. *How good* they
are is said by the held-out values, where a member was re-measured: members that fail, break a constraint or
are dominated by another re-measured member on the held-out values leave the front. Whether these values are enough to
say so, or to say that a member is dominated by nothing, is another question, which `front_support` answers.
Calibration and held-out values are never compared with each other to decide dominance, since their prompts differ.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.error_scale import error_scale, error_value
from autotune.spaces.evaluation import Measurement
from autotune.spaces.held_out import Support, judge
from autotune.spaces.objective import (
    OBJECTIVES,
    Constraint,
    objective_value,
    parse_constraint,
    parse_objectives,
    total_violation,
)
from autotune.spaces.pareto import non_dominated
from autotune.spaces.statistics import bootstrap_interval
from autotune.spaces.study_record import Candidate, StudyRecord

Array = NDArray[np.float64]

BASELINE = "baseline"
"""The family of the pipeline's default run, candidate 0 of every study."""

RIVAL = "fewer-steps"
"""The family that every study runs first: what any other has to beat."""

JOINT = "joint"
"""The family whose candidates' labels begin with the search that proposed them, and a colon."""

PICKS = ("quality", "balanced", "fast")
"""The members that `pick` names."""

QUALITY_COST = 1.5
"""The pick `quality` may cost this many times as much as the default run."""


def record_objectives(record: StudyRecord) -> tuple[str, ...]:
    """The study's objectives, from its settings; latency and the metric of its error if they name none."""
    names = record.settings.get("objectives") or f"latency,{error_scale(record).metric}"
    return parse_objectives(names if isinstance(names, str) else ",".join(_strings(names)))


def record_constraints(record: StudyRecord) -> tuple[Constraint, ...]:
    """The study's constraints, from its settings."""
    return tuple(parse_constraint(text) for text in _strings(record.settings.get("constraints") or ()))


def calibration_front(record: StudyRecord, family: str | None = None) -> tuple[Candidate, ...]:
    """The feasible candidates, of one family or of all, that no other of them dominates on the whole calibration.

    Cheapest first.
    """
    candidates = [c for c in record.whole if family in (None, c.family)]
    return _front(record, candidates, lambda candidate: candidate.calibration.measurement)


def study_front(record: StudyRecord) -> tuple[Candidate, ...]:
    """The calibration front less the members that the held-out values refute, cheapest first.

    A member without held-out values takes none off that has them: what was found too late to be measured again stands
    beside what was.

    Raises:
        UsageError: the settings name an unknown objective, or one that was not measured.
    """
    members = _members(record)
    verified = [c for c in members if c.held_out is not None]
    confirmed = _front(record, verified, lambda c: None if c.held_out is None else c.held_out.measurement)
    numbers = {c.number for c in confirmed}
    kept = [c for c in members if c.held_out is None or c.number in numbers]
    return tuple(sorted(kept, key=lambda c: (relative_cost(c, record), c.number)))


def front_support(record: StudyRecord) -> Mapping[int, Support]:
    """What the held-out values say of each member of the front, by number, those among them that they refute.

    A member is held against every candidate that was measured there too and keeps the constraints: the others of the
    front, fewer-steps runs, the default run.

    Raises:
        UsageError: see `study_front`.
    """
    objectives, constraints = record_objectives(record), record_constraints(record)
    verified = {c.number: m for c in record.candidates if c.held_out and (m := c.held_out.measurement)}
    sound = {number: m for number, m in verified.items() if total_violation(constraints, m) == 0.0}
    verdicts = dict(zip(sound, judge(tuple(sound.values()), objectives), strict=True))
    return {
        c.number: Support.UNVERIFIED if c.held_out is None else verdicts.get(c.number, Support.UNSUPPORTED)
        for c in _members(record)
    }


def refuted_members(record: StudyRecord) -> tuple[Candidate, ...]:
    """The members of the calibration front that the held-out values take off it, cheapest first; failed ones too."""
    kept = {c.number for c in study_front(record)}
    return tuple(c for c in calibration_front(record) if c.number not in kept)


def _members(record: StudyRecord) -> tuple[Candidate, ...]:
    """The calibration front, and whom only its members without held-out values take off it."""
    members = calibration_front(record)
    numbers = {c.number for c in members}
    verified = [c for c in record.whole if c.held_out is not None and c.held_out.measurement is not None]
    beside = _front(record, verified, lambda c: c.calibration.measurement)
    return members + tuple(c for c in beside if c.number not in numbers and c.family not in (BASELINE, RIVAL))


def quality_name(record: StudyRecord) -> str:
    """The study's first quality objective; the metric of its error, which is always measured, if it has none."""
    named = next((name for name in record_objectives(record) if not OBJECTIVES[name].is_cost), None)
    return error_scale(record).metric if named is None else named


def reported_measurement(candidate: Candidate) -> Measurement | None:
    """The held-out measurement if there is one, else that of the calibration; None if the candidate failed."""
    held_out = None if candidate.held_out is None else candidate.held_out.measurement
    return held_out or candidate.calibration.measurement


def relative_cost(candidate: Candidate, record: StudyRecord) -> float:
    """The study's first cost objective over the baseline's; relative latency if it has none; inf if it failed."""
    measurement = reported_measurement(candidate)
    if measurement is None:
        return float("inf")
    name = next((name for name in record_objectives(record) if OBJECTIVES[name].is_cost), "latency")
    value = objective_value(name, measurement)
    if OBJECTIVES[name].is_relative:
        return value
    baseline = baseline_of(record)
    reference = None if baseline is None else reported_measurement(baseline)
    scale = 0.0 if reference is None else objective_value(name, reference)
    return value / scale if scale > 0 else value


def baseline_of(record: StudyRecord) -> Candidate | None:
    """The pipeline's default run, if it has been measured."""
    return next((c for c in record.candidates if c.family == BASELINE), None)


def pick(front: Sequence[Candidate], record: StudyRecord, *, unverified: bool = False) -> dict[str, Candidate]:
    """Three members of a front by name, from slow to fast; one member may hold several names; {} of an empty front.

    `quality` is the best of those that cost at most `QUALITY_COST` times as much as the baseline. The other two cost
    no more than the baseline. They are the knee (the member farthest below the chord between the ends, in relative cost
    and quality, of an error its log10, both scaled to [0, 1]) and the cheapest that is not measurably worse than the
    baseline: the 95 % bootstrap interval of the paired difference in quality includes 0 or a gain. `fast` is the
    cheaper of the two, `balanced` the other. A limit that no member keeps does not count.

    The quality is `quality_name`, values are those of `reported_measurement`. Members with held-out values can't be
    compared with others, so that these don't compete unless `unverified`; nor do those that are `UNSUPPORTED`.
    """
    members = list(candidates_for_picks(front, record, unverified=unverified))
    if not members:
        return {}
    cheap = [c for c in members if relative_cost(c, record) <= QUALITY_COST] or members
    best = min(cheap, key=lambda c: (_quality(c, record), relative_cost(c, record)))
    members = [c for c in members if relative_cost(c, record) <= 1.0] or members
    cost = np.array([relative_cost(c, record) for c in members])
    quality = np.array([_quality(c, record) for c in members])
    knee = _knee(cost, np.array([_on_its_scale(c, record) for c in members]))
    good = np.flatnonzero([not _is_worse(c, record) for c in members])
    as_good = good[np.lexsort((quality[good], cost[good]))[0]] if len(good) else knee
    fast, balanced = sorted((knee, as_good), key=lambda i: float(cost[i]))
    return {"quality": best, "balanced": members[balanced], "fast": members[fast]}


def candidates_for_picks(
    front: Sequence[Candidate], record: StudyRecord, *, unverified: bool = False
) -> tuple[Candidate, ...]:
    """The members of a front that may be recommended; see `pick`."""
    members = [c for c in front if reported_measurement(c) is not None]
    if not unverified:
        verified = [c for c in members if c.held_out is not None and c.held_out.measurement is not None]
        support = front_support(record) if verified else {}
        members = [c for c in verified if support.get(c.number) is not Support.UNSUPPORTED] or verified or members
    return tuple(members)


def _is_worse(candidate: Candidate, record: StudyRecord) -> bool:
    """Whether a candidate is measurably worse than the baseline, on the best prompts both were measured on."""
    baseline, name = baseline_of(record), quality_name(record)
    if baseline is None:
        return True
    sign = -1.0 if OBJECTIVES[name].higher_is_better else 1.0
    for evaluations in ((candidate.held_out, baseline.held_out), (candidate.calibration, baseline.calibration)):
        own, default = (None if e is None else e.measurement for e in evaluations)
        if own is not None and default is not None:
            difference = sign * np.subtract(own.quality[name], default.quality[name])
            return bootstrap_interval(difference.tolist())[0] > 0.0
    return True


def _front(
    record: StudyRecord, candidates: Sequence[Candidate], measured: Callable[[Candidate], Measurement | None]
) -> tuple[Candidate, ...]:
    objectives, constraints = record_objectives(record), record_constraints(record)
    rows = []
    for candidate in candidates:
        measurement = measured(candidate)
        if measurement is not None and total_violation(constraints, measurement) == 0.0:
            rows.append((candidate, tuple(objective_value(name, measurement) for name in objectives)))
    order = next((i for i, name in enumerate(objectives) if OBJECTIVES[name].is_cost), 0)
    kept = non_dominated([values for _, values in rows])
    front = [row for row, keep in zip(rows, kept, strict=True) if keep]
    return tuple(candidate for candidate, _ in sorted(front, key=lambda row: (row[1][order], row[0].number)))


def _knee(cost: Array, quality: Array) -> int:
    """Index of the point farthest below the chord from the cheapest to the best point; the first of equals."""
    x, y = _scaled(cost), _scaled(quality)
    first, last = int(np.lexsort((y, x))[0]), int(np.lexsort((x, y))[0])
    # Twice the signed area of the triangle with the chord; positive on the side of the origin.
    area = (y[first] - y) * (x[last] - x[first]) - (x[first] - x) * (y[last] - y[first])
    return int(np.argmax(np.round(area, 12)))


def _scaled(values: Array) -> Array:
    span = values.max() - values.min()
    return np.zeros_like(values) if span == 0 else (values - values.min()) / span


def _quality(candidate: Candidate, record: StudyRecord) -> float:
    measurement = reported_measurement(candidate)
    return float("inf") if measurement is None else objective_value(quality_name(record), measurement)


def _on_its_scale(candidate: Candidate, record: StudyRecord) -> float:
    """The quality, less is better, of an error its log10."""
    measurement = reported_measurement(candidate)
    assert measurement is not None  # members have one
    error = error_value(quality_name(record), measurement)
    return _quality(candidate, record) if error is None else math.log10(error)


def _strings(values: object) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(str(value) for value in values)  # type: ignore[attr-defined]
