import dataclasses

import pytest

from autotune.spaces.error_scale import (
    DEVIATIONS,
    ERROR_FLOOR,
    ERRORS,
    FAILURES,
    common_scale,
    error_scale,
    error_text,
    error_value,
)
from autotune.spaces.errors import UsageError
from autotune.spaces.evaluation import Measurement
from autotune.spaces.front import pick, quality_name, record_objectives, study_front
from autotune.spaces.study_record import Candidate, StudyRecord

from .hand_made import evaluation, record


def measurement(**quality: tuple[float, ...]) -> Measurement:
    made = evaluation((1.0, 0.1), "calibration").measurement
    assert made is not None
    return dataclasses.replace(made, quality=quality)


def episodes(n: int, failed: int) -> tuple[float, ...]:
    return (0.0,) * failed + (1.0,) * (n - failed)


def policy_record(points: list[tuple[float, int]], n: int = 100, **settings: object) -> StudyRecord:
    """A study of candidates at (relative latency, failures among n episodes); the first is the default run."""
    base = record([(cost, 0.1) for cost, _ in points])

    def made(candidate: Candidate, failed: int) -> Candidate:
        own = candidate.calibration.measurement
        assert own is not None
        outcome = dataclasses.replace(own, quality={"success": episodes(n, failed)})
        return dataclasses.replace(candidate, calibration=dataclasses.replace(candidate.calibration, outcome=outcome))

    candidates = (made(c, failed) for c, (_, failed) in zip(base.candidates, points, strict=True))
    return dataclasses.replace(base, settings=settings, candidates=tuple(candidates))


@pytest.mark.parametrize(
    ("quality", "objective", "value"),
    [
        ({"deviation": (0.1, 0.3)}, "deviation", 0.2),
        ({"deviation": (0.0, 0.0)}, "deviation", ERROR_FLOOR),
        ({"success": episodes(8, 2)}, "success", 0.25),
        ({"success": episodes(8, 0)}, "success", 0.0625),
    ],
)
def test_the_error_of_an_objective_is_above_0_so_that_its_logarithm_can_be_taken(
    quality: dict[str, tuple[float, ...]], objective: str, value: float
) -> None:
    assert error_value(objective, measurement(**quality)) == pytest.approx(value)


def test_other_objectives_are_no_errors_and_what_was_not_measured_is_named() -> None:
    own = measurement(success=(1.0,), psnr=(30.0,))
    assert error_value("psnr", own) is error_value("latency", own) is None
    with pytest.raises(UsageError, match="'deviation' was not measured here; measured: psnr, success"):
        error_value("deviation", own)


def test_people_read_a_success_in_percent_and_no_failure_as_none() -> None:
    assert error_text(measurement(success=episodes(64, 0))) == "success 100.0 %"
    assert error_text(measurement(success=episodes(8, 1))) == "success 87.5 %"
    assert error_text(measurement(deviation=(0.04161,))) == "deviation 0.0416"
    assert [FAILURES.tick(error) for error in (0.5, 0.1, 0.01, 0.005)] == ["50 %", "90 %", "99 %", "99.5 %"]
    assert DEVIATIONS.tick(0.05) == "0.05"
    assert FAILURES.change(0.98, 0.96) == "-2.0 points"
    assert DEVIATIONS.change(0.1, 0.12) == "+20%"


def test_a_study_has_the_scale_of_its_results_and_before_them_that_of_its_objectives() -> None:
    assert error_scale(record([(1.0, 0.1)])) is DEVIATIONS
    assert error_scale(policy_record([(1.0, 1)])) is FAILURES
    assert error_scale(record([None], objectives=["latency", "success"])) is FAILURES
    assert error_scale(record([None])) is DEVIATIONS
    assert common_scale([FAILURES, FAILURES]) is FAILURES
    assert common_scale([FAILURES, DEVIATIONS]) is ERRORS


def test_a_policys_study_is_about_success_unless_told_otherwise() -> None:
    study = policy_record([(1.0, 2), (0.5, 4)])
    assert record_objectives(study) == ("latency", "success")
    assert quality_name(study) == "success"
    assert quality_name(policy_record([(1.0, 2)], objectives=["latency"])) == "success"


def test_the_knee_of_a_policys_front_is_found_on_the_logarithm_of_its_failures() -> None:
    """On a straight scale it would be the step from 64 to 16 failures, which is measurably worse than the default."""
    study = policy_record([(1.0, 1), (0.6, 2), (0.35, 16), (0.2, 64)])
    picks = {name: candidate.number for name, candidate in pick(study_front(study), study).items()}
    assert picks == {"quality": 0, "balanced": 1, "fast": 1}


def test_as_good_as_the_default_run_is_who_fails_measurably_no_more_often() -> None:
    points = [(1.0, 2), (0.6, 2), (0.4, 4), (0.2, 30)]
    picks = pick(study_front(policy_record(points)), policy_record(points))
    assert picks["fast"].number == 2  # two more failures among 100 may be chance, 28 more are not
