"""What is compared: the fronts of several studies, or those of one study's families and of all of them together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autotune.reports.finding import arm_of
from autotune.reports.point import CALIBRATION, HELD_OUT, Point, cost_and_error, lower_front, volume
from autotune.spaces.error_scale import ErrorScale, error_scale
from autotune.spaces.errors import UsageError
from autotune.spaces.evaluation import Evaluation, Measurement
from autotune.spaces.front import BASELINE, RIVAL, baseline_of, calibration_front, study_front
from autotune.spaces.hypervolume_interval import Array, resampled_hypervolumes
from autotune.spaces.statistics import pooled_timing_draws
from autotune.spaces.study_record import Candidate, StudyRecord

UNION = "all families"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One front, all of it measured on the prompts that `source` names.

    `points` are its members, the fastest first, at relative latency and mean error; `n_front` counts also those
    without such values. `baseline` is the default run.

    `rivals` is the whole fewer-steps front of the same study. Only if all of it has held-out values, `n_verified` of
    them, does it stand at those. Else it stands at its calibration values: what was not measured again is what the
    front beats, and without it the rival would look weaker than it is. `against` is the front on the rivals' prompts.
    """

    name: str
    record: StudyRecord
    source: str
    points: tuple[Point, ...]
    n_front: int
    rivals: tuple[Point, ...] = ()
    against: tuple[Point, ...] = ()
    n_verified: int = 0
    baseline: Candidate | None = None

    def default_at(self, source: str) -> Measurement | None:
        """What was measured of the default run on the prompts of a source."""
        return None if self.baseline is None else _measured(self.baseline, source)

    def default_error(self, source: str) -> float | None:
        """The default run's error there, which relative errors are in; None where it is not known, or 0."""
        default = self.default_at(source)
        return default.error or None if default and default.errors else None

    @property
    def scale(self) -> ErrorScale:
        """What its errors are."""
        return error_scale(self.record)

    @property
    def prompts_key(self) -> str | None:
        """Equal for contenders under one condition and on the same prompts and seeds; None where that is not known.

        It is the key of the default run's evaluation, which the same schedule has everywhere.
        """
        evaluation = None if self.baseline is None else _evaluation(self.baseline, self.source)
        return None if evaluation is None or evaluation.measurement is None else evaluation.key

    @property
    def rival_source(self) -> str | None:
        """What the rivals were measured on; None where there are none."""
        return self.rivals[0].source if self.rivals else None

    @property
    def n_prompts(self) -> int:
        """Prompts that each member was measured on."""
        return self.points[0].measurement.n_prompts if self.points else 0

    @property
    def hypervolume(self) -> float:
        """Of the members."""
        return volume([(p.cost, p.error) for p in self.points])

    @property
    def resamples(self) -> Array:
        """Draws of the hypervolume; see `measured_resamples`."""
        return point_resamples(self.points)


def point_resamples(points: Sequence[Point]) -> Array:
    """Draws of the hypervolume of points whose cost is the relative latency; see `measured_resamples`."""
    return measured_resamples([p.measurement for p in points])


def measured_resamples(measurements: Sequence[Measurement]) -> Array:
    """Hypervolumes of measurements on resamples of their prompts, with latencies drawn as the timed runs scatter."""
    least = max((m.least_error for m in measurements), default=0.0)
    latencies = pooled_timing_draws([m.latency_ratios for m in measurements])
    return resampled_hypervolumes(latencies, np.array([m.errors for m in measurements]), least=least)


def study_contenders(records: Sequence[StudyRecord]) -> tuple[Contender, ...]:
    """The front of each study, on held-out values where it has some: only those members then.

    Raises:
        UsageError: a study is given twice, or has no front.
    """
    names = [record.name for record in records]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"each study is compared once; {twice[0]!r} was given {names.count(twice[0])} times")
    return tuple(_study_contender(record) for record in records)


def family_contenders(record: StudyRecord) -> tuple[Contender, ...]:
    """The own front of each family of a study, and all of them together, which comes first.

    The families are compared on held-out values if each member has some, else all of them on the calibration prompts:
    only what stood on the common front was measured again, so that a weak family would look weaker than it is.

    Raises:
        UsageError: the study has no front.
    """
    _require_front(record)
    groups: dict[str, list[Candidate]] = {}
    for candidate in record.whole:
        if candidate.family != BASELINE:
            groups.setdefault(family_name(candidate), []).append(candidate)
    if not groups:
        raise UsageError(f"study {record.name!r} has nothing but its default run yet: resume it first")
    fronts = {
        name: calibration_front(replace(record, candidates=tuple(group))) for name, group in sorted(groups.items())
    }
    fronts = {name: front for name, front in fronts.items() if front}
    members = [c for front in fronts.values() for c in front]
    source = HELD_OUT if all(_measured(c, HELD_OUT) for c in members) else CALIBRATION
    own = {name: _points(front, source) for name, front in fronts.items()}
    together = lower_front([p for points in own.values() for p in points])
    fields = {"record": record, "source": source, "baseline": baseline_of(record)}
    union = Contender(name=UNION, points=together, n_front=len(together), **fields)  # type: ignore[arg-type]
    families = (
        Contender(name=name, points=points, n_front=len(fronts[name]), **fields)  # type: ignore[arg-type]
        for name, points in own.items()
    )
    return (union, *families)


def family_name(candidate: Candidate) -> str:
    """The family of a candidate; of the joint search also which of its searches: `joint: ecad`."""
    arm = arm_of(candidate)
    return candidate.family if arm is None else f"{candidate.family}: {arm}"


def _study_contender(record: StudyRecord) -> Contender:
    front = _require_front(record)
    source = HELD_OUT if any(_measured(c, HELD_OUT) for c in front) else CALIBRATION
    rivals = calibration_front(record, RIVAL)
    verified = [c for c in rivals if _measured(c, HELD_OUT)]
    rival_source = source if len(verified) == len(rivals) else CALIBRATION
    return Contender(
        name=record.name,
        record=record,
        source=source,
        points=_points(front, source),
        n_front=len(front),
        rivals=_points(rivals, rival_source),
        against=_points(front if rival_source == source else calibration_front(record), rival_source),
        n_verified=len(verified),
        baseline=baseline_of(record),
    )


def _require_front(record: StudyRecord) -> tuple[Candidate, ...]:
    front = study_front(record)
    if not front:
        raise UsageError(
            f"a study that is compared needs a front; {record.name!r} has none yet, or none keeps its constraints: "
            f"`autotune show {record.name}` says which, `autotune resume {record.name}` goes on"
        )
    return front


def _evaluation(candidate: Candidate, source: str) -> Evaluation | None:
    return candidate.held_out if source == HELD_OUT else candidate.calibration


def _measured(candidate: Candidate, source: str) -> Measurement | None:
    evaluation = _evaluation(candidate, source)
    return None if evaluation is None else evaluation.measurement


def _points(candidates: Sequence[Candidate], source: str) -> tuple[Point, ...]:
    """Those with finite values at a source, the fastest first; the cost is the relative latency."""
    points = []
    for candidate in candidates:
        measurement = _measured(candidate, source)
        place = cost_and_error(measurement, "latency")
        if measurement is not None and place is not None:
            points.append(
                Point(candidate=candidate, source=source, measurement=measurement, cost=place[0], error=place[1])
            )
    return tuple(sorted(points, key=lambda p: (p.cost, p.error)))
