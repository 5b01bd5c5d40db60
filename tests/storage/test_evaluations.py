"""Evaluations: what goes in comes back, once, and the first outcome stands."""

import dataclasses
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.spaces.errors import StorageError
from autotune.spaces.evaluation import Evaluation, EvaluationState, Failure, FailureKind, Measurement
from autotune.spaces.schedule import Schedule
from autotune.storage.database import Database

MakeSchedule = Callable[[int], Schedule]
MakeMeasurement = Callable[[float], Measurement]


def test_a_running_evaluation_is_not_found(database: Database, start: Callable[..., str]) -> None:
    start("k")
    assert database.find_evaluations(["k", "other"]) == {}


def test_a_finished_evaluation_comes_back_equal(
    database: Database, start: Callable[..., str], make_measurement: MakeMeasurement
) -> None:
    digest = start("k")
    measurement = make_measurement(0.1)
    expected = Evaluation(
        key="k", schedule_hash=digest, fidelity="calibration", state=EvaluationState.COMPLETE, outcome=measurement
    )
    assert database.finish_evaluations({"k": measurement})["k"] == expected
    assert database.find_evaluations(["k"]) == {"k": expected}


finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**63 - 1)


@st.composite
def measurements(draw: st.DrawFn) -> Measurement:
    metrics = draw(st.sets(st.sampled_from(["deviation", "psnr", "alignment", "clip-score"])))
    return Measurement(
        quality={metric: (draw(finite), draw(finite)) for metric in metrics},
        latency_ms=tuple(draw(st.lists(finite, max_size=3))),
        baseline_latency_ms=tuple(draw(st.lists(finite, max_size=3))),
        macs=draw(counts),
        baseline_macs=draw(counts),
        network_calls=draw(counts),
        peak_memory_bytes=draw(counts),
        wall_s=draw(finite),
        energy_j=tuple(draw(st.lists(finite, max_size=2))),
        baseline_energy_j=tuple(draw(st.lists(finite, max_size=2))),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(measurement=measurements())
def test_every_finite_measurement_survives_bit_for_bit(
    database: Database, start: Callable[..., str], measurement: Measurement
) -> None:
    key = f"k{time.perf_counter_ns()}"
    start(key)
    database.finish_evaluations({key: measurement})
    found = database.find_evaluations([key]).get(key)
    assert found is not None
    assert found.outcome == measurement  # equal finite doubles have equal bits, except for the sign of zero


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", ["quality", "latency_ms", "wall_s"])
def test_a_non_finite_value_is_refused_and_the_evaluation_stays_running(
    database: Database, start: Callable[..., str], make_measurement: MakeMeasurement, field: str, bad: float
) -> None:
    start("k")
    values: dict[str, object] = {"quality": {"deviation": (0.1, bad)}, "latency_ms": (bad,), "wall_s": bad}
    measurement = dataclasses.replace(make_measurement(0), **{field: values[field]})  # type: ignore[arg-type]
    with pytest.raises(StorageError, match=r"finite.*Failure of kind 'nan'"):
        database.finish_evaluations({"k": measurement})
    assert database.find_evaluations(["k", "other"]) == {}
    assert database.finish_evaluations({"k": make_measurement(1)})["k"].outcome == make_measurement(1)


def test_a_measurement_that_misses_a_prompt_is_refused(
    database: Database, start: Callable[..., str], make_measurement: MakeMeasurement
) -> None:
    start("k")
    with pytest.raises(StorageError, match="got 1 values of psnr for 2 prompts"):
        database.finish_evaluations({"k": dataclasses.replace(make_measurement(0), quality={"psnr": (30.0,)})})


def test_the_first_outcome_wins(
    database: Database, start: Callable[..., str], make_measurement: MakeMeasurement
) -> None:
    start("k")
    first = database.finish_evaluations({"k": make_measurement(1)})["k"]
    assert database.finish_evaluations({"k": make_measurement(2)})["k"] == first
    assert database.finish_evaluations({"k": Failure(kind=FailureKind.NAN, reason="late")})["k"] == first
    start("k")
    assert database.find_evaluations(["k"]) == {"k": first}


def test_an_evaluation_left_running_can_be_started_again_and_finished(
    database: Database, start: Callable[..., str], make_measurement: MakeMeasurement
) -> None:
    assert start("k") == start("k")
    assert database.finish_evaluations({"k": make_measurement(1)})["k"].state is EvaluationState.COMPLETE


def test_finishing_what_was_never_started_is_refused(database: Database, make_measurement: MakeMeasurement) -> None:
    with pytest.raises(StorageError, match="must be started before it is finished; got the unknown key 'k'"):
        database.finish_evaluations({"k": make_measurement(0)})


@pytest.mark.parametrize(
    ("reason", "stored"),
    [
        ("CUDA out of memory", "CUDA out of memory"),
        ("nul \0, half \ud800 a pair, Bär", "nul \\x00, half \\ud800 a pair, Bär"),
    ],
)
def test_a_failure_is_a_result_whatever_its_text(
    database: Database, start: Callable[..., str], reason: str, stored: str
) -> None:
    start("k")
    database.finish_evaluations({"k": Failure(kind=FailureKind.OUT_OF_MEMORY, reason=reason)})
    found = database.find_evaluations(["k"]).get("k")
    assert found is not None
    assert found.state is EvaluationState.FAILED
    assert found.outcome == Failure(kind=FailureKind.OUT_OF_MEMORY, reason=stored)
    assert found.measurement is None
