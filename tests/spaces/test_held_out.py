import dataclasses

import numpy as np
import pytest

from autotune.spaces.evaluation import Measurement
from autotune.spaces.front import front_support, pick, refuted_members, study_front
from autotune.spaces.held_out import Support, judge, overfit

from .hand_made import Point, record

RUNS = (0.99, 1.0, 1.01)
NOISE = np.array([-0.2, -0.1, 0.0, 0.1, 0.2, -0.15, 0.15, 0.0])


def around(mean: float, spread: float = 1.0) -> tuple[float, ...]:
    """Eight prompts of the same mean, hard ones and easy ones."""
    return tuple((mean * (1.0 + spread * NOISE)).tolist())


def measured(latency: float, deviation: tuple[float, ...], runs: tuple[float, ...] = RUNS) -> Measurement:
    return Measurement(
        quality={"deviation": deviation},
        latency_ms=tuple(100 * latency * r for r in runs),
        baseline_latency_ms=(100.0,) * len(runs),
        macs=int(1000 * latency), baseline_macs=1000, network_calls=1, peak_memory_bytes=0, wall_s=0.0,
    )  # fmt: skip


AXES = ("latency", "deviation")


def test_what_another_beats_in_both_is_unsupported_and_what_nothing_can_beat_is_supported() -> None:
    verdicts = judge([measured(0.5, around(0.04)), measured(0.6, around(0.05)), measured(0.3, around(0.1))], AXES)
    assert verdicts == [Support.SUPPORTED, Support.UNSUPPORTED, Support.SUPPORTED]


def test_differences_in_quality_are_paired_by_prompt() -> None:
    # prompts differ by 20 %, the schedules by 2 % on each of them
    slow, fast = around(0.05), around(0.049)
    assert judge([measured(0.6, slow), measured(0.5, fast)], AXES) == [Support.UNSUPPORTED, Support.SUPPORTED]
    shuffled = tuple(np.roll(fast, 3).tolist())
    assert judge([measured(0.6, slow), measured(0.5, shuffled)], AXES) == [Support.UNCLEAR, Support.SUPPORTED]


def test_timings_that_overlap_say_nothing() -> None:
    better, worse = around(0.04), around(0.05)
    noisy = (0.9, 1.0, 1.1)
    members = [measured(0.50, better, noisy), measured(0.52, worse, noisy)]
    assert judge(members, AXES) == [Support.SUPPORTED, Support.UNCLEAR]
    single = [measured(0.3, better, (1.0,)), measured(0.6, worse, (1.0,))]
    assert judge(single, AXES) == [Support.SUPPORTED, Support.UNCLEAR]


def test_counted_costs_need_no_interval() -> None:
    members = [measured(0.5, around(0.04), (1.0,)), measured(0.6, around(0.05), (1.0,))]
    assert judge(members, ("macs", "deviation")) == [Support.SUPPORTED, Support.UNSUPPORTED]
    equal = [measured(0.5, around(0.04)), measured(0.5, around(0.05))]
    assert judge(equal, ("macs", "deviation")) == [Support.SUPPORTED, Support.UNSUPPORTED]


def test_of_a_metric_that_grows_with_quality_more_is_better() -> None:
    members = [measured(0.5, around(0.04)), measured(0.6, around(0.05))]
    members = [dataclasses.replace(m, quality={"psnr": m.quality["deviation"]}) for m in members]
    assert judge(members, ("latency", "psnr")) == [Support.SUPPORTED, Support.SUPPORTED]


def test_members_are_held_against_rivals_that_are_not_on_the_front() -> None:
    points: list[Point | None] = [(1.0, 0.02), (0.5, 0.05), (0.55, 0.06)]
    held_out: dict[int, Point | None] = {0: (1.0, around(0.02)), 1: (0.5, around(0.08)), 2: (0.45, around(0.06))}
    study = record(points, held_out, runs=RUNS)
    assert front_support(study) == {0: Support.SUPPORTED, 1: Support.UNSUPPORTED}
    assert {c.number for c in pick(study_front(study), study).values()} == {0}


def test_members_that_fail_break_a_limit_or_were_left_out_are_marked_so() -> None:
    points: list[Point | None] = [(1.0, 0.02), (0.5, 0.05), (0.4, 0.06), (0.3, 0.07)]
    held_out: dict[int, Point | None] = {0: (1.0, around(0.02)), 1: None, 2: (0.4, around(0.2))}
    study = record(points, held_out, runs=RUNS, constraints=["deviation<=0.1"])
    assert front_support(study) == {
        0: Support.SUPPORTED, 1: Support.UNSUPPORTED, 2: Support.UNSUPPORTED, 3: Support.UNVERIFIED,
    }  # fmt: skip
    assert [c.number for c in refuted_members(study)] == [2, 1]
    assert [c.number for c in study_front(study)] == [3, 0]


def test_over_fitting_is_what_is_left_once_the_harder_prompts_are_discounted() -> None:
    default = (measured(1.0, around(0.1)), measured(1.0, around(0.2)))
    honest = overfit("deviation", (measured(0.5, around(0.03)), measured(0.5, around(0.06))), default)
    assert honest is not None
    assert (honest.shift, honest.excess) == pytest.approx((-0.03, 0.0), abs=1e-9)
    flattered = overfit("deviation", (measured(0.5, around(0.03)), measured(0.5, around(0.075, 0.5))), default)
    assert flattered is not None
    assert flattered.excess == pytest.approx(0.25)
    assert flattered.interval is not None
    assert 0.0 < flattered.interval[0] < 0.25 < flattered.interval[1]


def test_over_fitting_of_a_reward_is_its_loss() -> None:
    def rewarded(value: float) -> Measurement:
        return dataclasses.replace(measured(1.0, (0.1,)), quality={"clip-score": (value,)})

    found = overfit("clip-score", (rewarded(0.40), rewarded(0.24)), (rewarded(0.30), rewarded(0.30)))
    assert found is not None
    assert found.excess == pytest.approx(0.4)
    assert found.interval is None


def test_no_over_fitting_is_told_of_what_was_not_measured_on_the_same_prompts() -> None:
    default = (measured(1.0, around(0.1)), measured(1.0, around(0.2)))
    assert overfit("deviation", (measured(0.5, (0.1, 0.2)), measured(0.5, around(0.2))), default) is None
    assert overfit("psnr", default, default) is None
