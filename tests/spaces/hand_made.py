"""Studies that are made by hand."""

from collections.abc import Sequence

from autotune.evaluators.small_flux import small_flux_condition, small_flux_inventory
from autotune.spaces.evaluation import Evaluation, EvaluationState, Failure, FailureKind, Measurement
from autotune.spaces.schedule import Schedule
from autotune.spaces.study_record import Candidate, StudyRecord, StudyState

INVENTORY = small_flux_inventory()
Point = tuple[float, float | tuple[float, ...]]


def evaluation(point: Point | None, fidelity: str, runs: Sequence[float] = (1.0,)) -> Evaluation:
    if point is None:
        failure = Failure(kind=FailureKind.NAN, reason="not finite")
        return Evaluation(key="k", schedule_hash="h", fidelity=fidelity, state=EvaluationState.FAILED, outcome=failure)
    measurement = Measurement(
        quality={"deviation": point[1] if isinstance(point[1], tuple) else (point[1],)},
        latency_ms=tuple(100.0 * point[0] * jitter for jitter in runs),
        baseline_latency_ms=(100.0,) * len(runs),
        macs=int(1000 * point[0]),
        baseline_macs=1000,
        network_calls=int(20 * point[0]),
        peak_memory_bytes=0,
        wall_s=0.0,
    )
    return Evaluation(
        key="k", schedule_hash="h", fidelity=fidelity, state=EvaluationState.COMPLETE, outcome=measurement
    )


def record(
    points: list[Point | None],
    held_out: dict[int, Point | None] | None = None,
    runs: Sequence[float] = (1.0,),
    **settings: object,
) -> StudyRecord:
    """A study of candidates at (relative latency, deviation); the first is the baseline, None is a failure.

    Held-out latencies are those of several runs, each a multiple of the one given.
    """
    verified = held_out or {}
    candidates = tuple(
        Candidate(
            number=i,
            family="baseline" if i == 0 else "ecad",
            label=str(i),
            schedule=Schedule(n_steps=i + 1),
            schedule_hash=str(i),
            calibration=evaluation(point, "calibration"),
            held_out=evaluation(verified[i], "held_out", runs) if i in verified else None,
        )
        for i, point in enumerate(points)
    )
    return StudyRecord(
        name="s", state=StudyState.DONE, created="2026-01-01T00:00:00Z", wall_s=1.0, settings=settings,
        provenance={}, condition=small_flux_condition(INVENTORY), inventory=INVENTORY, candidates=candidates, images={},
    )  # fmt: skip
