from dataclasses import replace

import pytest

from autotune.spaces.errors import UsageError
from autotune.spaces.evaluation import Measurement
from autotune.spaces.objective import OBJECTIVES, objective_value, parse_constraint, parse_objectives, total_violation

MEASUREMENT = Measurement(
    quality={"deviation": (0.1, 0.3), "psnr": (30.0, 34.0), "ssim": (0.9, 0.7)},
    latency_ms=(50.0, 400.0, 60.0),
    baseline_latency_ms=(100.0, 120.0, 130.0),
    macs=30,
    baseline_macs=120,
    network_calls=10,
    peak_memory_bytes=6_000_000_000,
    wall_s=1.0,
)


@pytest.mark.parametrize(
    ("name", "value"),
    [("latency", 0.5), ("macs", 0.25), ("calls", 10.0), ("memory", 6e9), ("deviation", 0.2), ("psnr", -32.0)],
)
def test_objectives_are_signed_so_that_less_is_better(name: str, value: float) -> None:
    assert objective_value(name, MEASUREMENT) == pytest.approx(value)


def test_a_single_timing_gives_way_to_the_cost_model() -> None:
    once = Measurement(
        quality={"deviation": (0.1,)},
        latency_ms=(30.0,),
        baseline_latency_ms=(100.0, 100.0),
        macs=1,
        baseline_macs=4,
        network_calls=5,
        peak_memory_bytes=1,
        wall_s=1.0,
    )
    told = replace(once, modelled_latency=0.25)
    in_turn = replace(told, latency_ms=(30.0, 31.0, 29.0))
    assert [objective_value("latency", m) for m in (once, told, in_turn)] == [0.3, 0.25, 0.3]


def test_unknown_objectives_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"latency.*alignment.*got 'speed'"):
        parse_objectives("speed,deviation")
    with pytest.raises(UsageError, match="one of"):
        objective_value("speed", MEASUREMENT)


def test_a_metric_that_was_not_measured_is_named() -> None:
    with pytest.raises(UsageError, match=r"'alignment' was not measured.*deviation, psnr, ssim"):
        objective_value("alignment", MEASUREMENT)


def test_objectives_are_read_with_spaces_and_once_each() -> None:
    assert parse_objectives("macs, deviation") == ("macs", "deviation")
    assert set(parse_objectives(",".join(OBJECTIVES))) == set(OBJECTIVES)
    with pytest.raises(UsageError, match="once"):
        parse_objectives("macs,macs")
    with pytest.raises(UsageError, match="got ''"):
        parse_objectives("")


@pytest.mark.parametrize(
    ("text", "violation"),
    [
        ("deviation<=0.1", 1.0),
        ("deviation <= 0.2", 0.0),
        ("psnr>=30", 0.0),
        ("psnr>=40", 0.2),
        ("latency<=0.4", 0.25),
        ("latency_ms<=60", 0.0),
        ("memory_gb<=12", 0.0),
        ("memory_gb<=3", 1.0),
        ("calls<=5", 1.0),
    ],
)
def test_constraints_limit_natural_values(text: str, violation: float) -> None:
    assert parse_constraint(text).violation(MEASUREMENT) == pytest.approx(violation)


def test_constraints_read_back_as_they_are_written() -> None:
    for text in ("deviation<=0.1", "psnr>=30", "memory_gb<=12"):
        assert str(parse_constraint(text)) == text


def test_violations_add_up() -> None:
    constraints = [parse_constraint("deviation<=0.1"), parse_constraint("psnr>=40")]
    assert total_violation(constraints, MEASUREMENT) == pytest.approx(1.2)


@pytest.mark.parametrize("text", ["deviation<0.1", "deviation", "<=0.1", "speed<=1", "psnr>=high", "psnr>=nan", ""])
def test_malformed_constraints_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="constraint"):
        parse_constraint(text)
