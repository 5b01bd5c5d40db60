import dataclasses
import math

import pytest

from autotune.spaces.front import calibration_front, front_support, pick, relative_cost, study_front
from autotune.spaces.study_record import Candidate, StudyRecord

from .hand_made import Point, record

Triple = tuple[float, float, float]


def numbers(candidates: tuple[Candidate, ...]) -> list[int]:
    return [candidate.number for candidate in candidates]


def test_front_holds_the_non_dominated_candidates_cheapest_first() -> None:
    study = record([(1.0, 0.02), (0.5, 0.05), (0.6, 0.06), None, (0.3, 0.2)])
    assert numbers(study_front(study)) == [4, 1, 0]


def test_front_keeps_to_constraints() -> None:
    study = record([(1.0, 0.02), (0.5, 0.05), (0.3, 0.2)], constraints=["deviation<=0.1"])
    assert numbers(study_front(study)) == [1, 0]


def test_front_uses_the_studys_objectives() -> None:
    study = record([(1.0, 0.02), (0.501, 0.05), (0.504, 0.04)], objectives=["calls", "deviation"])
    assert numbers(study_front(study)) == [2, 0]


def test_held_out_values_remove_what_they_refute_but_choose_nobody() -> None:
    points: list[Point | None] = [(1.0, 0.02), (0.5, 0.05), (0.3, 0.2), (0.4, 0.1), (0.45, 0.3)]
    held_out: dict[int, Point | None] = {0: (1.0, 0.02), 1: (0.5, 0.3), 3: (0.4, 0.11), 2: None, 4: (0.2, 0.01)}
    study = record(points, held_out)
    assert numbers(calibration_front(study)) == [2, 3, 1, 0]
    assert numbers(study_front(study)) == [3, 0]


def test_members_that_were_not_measured_again_stay() -> None:
    study = record([(1.0, 0.02), (0.5, 0.05), (0.3, 0.2)], {0: (1.0, 0.02), 1: (0.5, 0.06)})
    assert numbers(study_front(study)) == [2, 1, 0]


def chosen(study: StudyRecord) -> dict[str, int]:
    return {name: candidate.number for name, candidate in pick(study_front(study), study).items()}


def test_picks_of_a_textbook_front() -> None:
    # the knee of this front is number 2, and number 3 is cheaper and still no worse than the baseline
    study = record([(1.0, 0.03), (0.9, 0.005), (0.4, 0.008), (0.3, 0.03), (0.2, 0.5)])
    assert chosen(study) == {"quality": 1, "balanced": 2, "fast": 3}


def test_fast_is_never_slower_than_balanced() -> None:
    # the knee, number 2, is cheaper than number 1, the only one that is no worse than the baseline
    study = record([(1.0, 0.03), (0.9, 0.025), (0.3, 0.04), (0.2, 0.5)])
    assert chosen(study) == {"quality": 1, "balanced": 1, "fast": 2}


@pytest.mark.parametrize(("deviations", "fast"), [((0.03, 0.05, 0.02), 1), ((0.05, 0.06, 0.04), 0)])
def test_no_worse_is_judged_by_the_interval_of_paired_differences(deviations: Triple, fast: int) -> None:
    # both are worse on average; the first only by the noise between prompts
    study = record([(1.0, (0.025, 0.035, 0.03)), (0.5, deviations)])
    assert chosen(study)["balanced"] == fast


def test_quality_may_cost_half_as_much_again_as_the_baseline_and_the_others_no_more_than_it() -> None:
    study = record([(1.0, 0.03), (1.6, 0.001), (1.4, 0.0011), (0.9, 0.01)])
    assert chosen(study) == {"quality": 2, "balanced": 3, "fast": 3}


def test_picks_follow_the_studys_own_quality() -> None:
    study = record([(1.0, 0.03), (0.9, 0.005), (0.5, 0.02)], objectives=["latency", "psnr"])
    psnr = {0: (30.0, 31.0), 1: (20.0, 21.0), 2: (34.0, 33.0)}
    candidates = tuple(with_quality(c, "psnr", psnr[c.number]) for c in study.candidates)
    study = dataclasses.replace(study, candidates=candidates)
    assert chosen(study) == {"quality": 2, "balanced": 2, "fast": 2}


def with_quality(candidate: Candidate, metric: str, values: tuple[float, ...]) -> Candidate:
    measurement = candidate.calibration.measurement
    assert measurement is not None
    quality = {metric: values, "deviation": values}
    outcome = dataclasses.replace(measurement, quality=quality)
    return dataclasses.replace(candidate, calibration=dataclasses.replace(candidate.calibration, outcome=outcome))


def test_all_but_quality_are_the_knee_where_nothing_is_as_good_as_the_baseline() -> None:
    study = record([(1.0, 0.001), (0.9, 0.1), (0.3, 0.15), (0.2, 0.9)], constraints=["latency<=0.95"])
    assert chosen(study) == {"quality": 1, "balanced": 2, "fast": 2}


def test_picks_use_held_out_values() -> None:
    study = record([(1.0, 0.03), (0.5, 0.02), (0.6, 0.01)], {0: (1.0, 0.03), 1: (0.5, 0.025), 2: (0.6, 0.024)})
    assert relative_cost(study.candidates[1], study) == pytest.approx(0.5)
    picks = pick(study_front(study), study)
    assert picks["quality"].number == 2
    assert picks["fast"].number == 1


@pytest.mark.parametrize("points", [[(1.0, 0.02)], [(1.0, 0.02), (0.5, 0.1)], [(1.0, 0.02), (0.5, 0.0)]])
def test_small_fronts_have_all_three_picks(points: list[Point | None]) -> None:
    study = record(points)
    assert set(pick(study_front(study), study)) == {"quality", "balanced", "fast"}


def test_an_empty_front_has_no_picks() -> None:
    study = record([None])
    assert study_front(study) == ()
    assert pick((), study) == {}
    assert math.isinf(relative_cost(study.candidates[0], study))


def test_members_without_held_out_values_take_none_off_that_has_them() -> None:
    # 3 was found too late to be measured again: it stands beside 1, which it dominates on the calibration
    points: list[Point | None] = [(1.0, 0.02), (0.5, 0.05), (0.3, 0.2), (0.45, 0.04), (0.55, 0.06)]
    held_out: dict[int, Point | None] = {0: (1.0, 0.02), 1: (0.5, 0.06), 4: (0.55, 0.05)}
    study = record(points, held_out)
    assert numbers(calibration_front(study)) == [2, 3, 0]
    assert numbers(study_front(study)) == [2, 3, 1, 0]
    assert set(chosen(study).values()) == {0, 1}
    assert set(front_support(study)) == {0, 1, 2, 3}
    # one with held-out values does
    assert numbers(study_front(record(points, {**held_out, 3: (0.45, 0.05)}))) == [2, 3, 0]
