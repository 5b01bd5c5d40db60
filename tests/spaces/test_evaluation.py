import dataclasses
import math

import pytest

from autotune.spaces.evaluation import Measurement, median_ratio
from autotune.spaces.pick_rule import parse_pick_rule
from autotune.spaces.statistics import ratio_interval

from .hand_made import evaluation, record

SLOWED = (298.0, 674.0, 289.0), (309.0, 655.0, 592.0)
"""Timed runs that took turns with the default run on a machine that is now and then half as fast."""


def slowed_measurement() -> Measurement:
    measurement = evaluation((1.0, 0.1), "calibration").measurement
    assert measurement is not None
    own, default = SLOWED
    return dataclasses.replace(
        measurement, latency_ms=own, baseline_latency_ms=default, energy_j=own, baseline_energy_j=default
    )


def test_runs_that_took_turns_are_compared_in_pairs() -> None:
    """Of the medians the ratio would be .50: that of a fast run and a slow one."""
    own, default = SLOWED
    assert median_ratio(own, default) == pytest.approx(298 / 309)
    assert median_ratio(default, own) == pytest.approx(309 / 298)
    measurement = slowed_measurement()
    assert measurement.relative_latency == measurement.relative_energy == pytest.approx(298 / 309)


def test_unequally_many_runs_are_compared_by_their_medians() -> None:
    assert median_ratio([50.0], [90.0, 100.0, 300.0]) == pytest.approx(0.5)


def test_the_interval_is_that_of_the_same_ratio() -> None:
    own, default = SLOWED
    low, high = ratio_interval(own, default)
    assert math.sqrt(low * high) == pytest.approx(median_ratio(own, default))
    assert low == pytest.approx(1.0 / ratio_interval(default, own)[1])


def test_a_limit_in_times_the_default_run_is_held_against_the_same_ratio() -> None:
    study = record([(1.0, 0.1)])
    [candidate] = study.candidates
    assert candidate.calibration is not None
    slowed = dataclasses.replace(
        candidate, calibration=dataclasses.replace(candidate.calibration, outcome=slowed_measurement())
    )
    for text in ("latency_ms<=0.5x", "energy_j<=0.5x", "latency<=0.5x"):
        assert parse_pick_rule(text).value(slowed, study) == pytest.approx(298 / 309)
