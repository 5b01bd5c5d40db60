import pytest

from autotune.reports.export import find_candidate
from autotune.spaces.errors import UsageError
from autotune.spaces.pick_rule import parse_pick_rule, pick_by_rule

from .hand_made import Point, record

FRONT: list[Point | None] = [(1.0, 0.04), (0.7, 0.045), (0.5, 0.05), (0.3, 0.08), (0.2, 0.3), (0.8, 0.2)]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("latency<=0.5x", 2),
        ("latency<=0.5", 2),
        ("latency <= 0.69 x", 2),
        ("latency_ms<=30", 3),
        ("latency_ms<=0.3x", 3),
        ("calls<=0.7x", 1),
        ("deviation<=0.05", 2),
        ("deviation<=2x", 3),
        ("deviation<=0.07", 2),
    ],
)
def test_a_cost_limit_gives_the_best_and_a_quality_limit_the_cheapest(text: str, number: int) -> None:
    study = record(FRONT)
    assert find_candidate(study, text).number == number


def test_the_values_are_the_held_out_ones() -> None:
    held_out: dict[int, Point | None] = {0: (1.0, 0.04), 2: (0.55, 0.06), 3: (0.31, 0.09)}
    study = record(FRONT, held_out)
    assert find_candidate(study, "latency<=0.5x").number == 3  # 2 was re-measured at 0.55, 1 and 4 not at all
    assert find_candidate(study, "deviation<=0.07").number == 2


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("latency<=0.1x", r"nearest is 4 \(4\) with latency = 0.2x:"),
        ("deviation<=0.5x", r"0 \(0\) with deviation = 1x"),
    ],
)
def test_where_nothing_keeps_the_limit_the_nearest_is_named(text: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=nearest):
        find_candidate(record(FRONT), text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed<=2", "one of latency"),
        ("latency<0.5", "METRIC<=NUMBER"),
        ("latency<=fast", "number"),
        ("psnr>=30", "'psnr' was not measured"),
        ("memory<=0.5x", "positive memory"),
        ("energy<=0.5x", "energy was not measured"),
    ],
)
def test_malformed_rules_and_unmeasured_metrics_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_candidate(record(FRONT), text)


def test_a_study_without_a_feasible_schedule_says_so() -> None:
    with pytest.raises(UsageError, match="no feasible schedule yet"):
        pick_by_rule(parse_pick_rule("latency<=0.5x"), record([None]))


def test_rules_read_back_as_they_are_written() -> None:
    for text in ("latency<=0.5x", "psnr>=30", "deviation<=1.2x"):
        assert str(parse_pick_rule(text)) == text
