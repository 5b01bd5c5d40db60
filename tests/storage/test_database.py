"""The contract of `Database`: what goes in comes back, once, and nothing else."""

import dataclasses
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.spaces.condition import Condition
from autotune.spaces.errors import StorageError, StudyExistsError, UsageError
from autotune.spaces.evaluation import Evaluation, EvaluationState, Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule, schedule_hash
from autotune.spaces.study_record import StudyState
from autotune.storage.database import Database

MakeSchedule = Callable[[int], Schedule]
MakeMeasurement = Callable[[float], Measurement]


@pytest.fixture
def start(
    database: Database, condition: Condition, fidelity: Fidelity, make_schedule: MakeSchedule
) -> Callable[..., str]:
    """Start evaluation `key` of schedule number i; returns the schedule's hash."""

    def start_evaluation(key: str, i: int = 0, fidelity: Fidelity = fidelity) -> str:
        schedule = make_schedule(i)
        digest = schedule_hash(schedule)
        database.start_evaluation(key, schedule=schedule, schedule_hash=digest, condition=condition, fidelity=fidelity)
        return digest

    return start_evaluation


@pytest.fixture
def study(database: Database, condition: Condition, inventory: Inventory) -> str:
    database.create_study(
        "flux",
        settings={"family": "ecad", "seed": 3},
        provenance={"cpu": "x"},
        condition=condition,
        inventory=inventory,
    )
    return "flux"


@pytest.fixture
def add(database: Database, study: str, make_schedule: MakeSchedule) -> Callable[[int, str], str]:
    """Add candidate number i with schedule number i; returns the schedule's hash."""

    def add_candidate(i: int, key: str) -> str:
        schedule = make_schedule(i)
        digest = schedule_hash(schedule)
        database.add_candidate(
            study, number=i, family="ecad", label=f"plan {i}", schedule=schedule, schedule_hash=digest, key=key
        )
        return digest

    return add_candidate


def test_a_running_evaluation_is_not_found(database: Database, start: Callable[..., str]) -> None:
    start("k")
    assert database.find_evaluation("k") is None
    assert database.find_evaluation("other") is None


def test_a_finished_evaluation_comes_back_equal(
    database: Database, start: Callable[..., str], make_measurement: MakeMeasurement
) -> None:
    digest = start("k")
    measurement = make_measurement(0.1)
    expected = Evaluation(
        key="k", schedule_hash=digest, fidelity="calibration", state=EvaluationState.COMPLETE, outcome=measurement
    )
    assert database.finish_evaluation("k", measurement) == expected
    assert database.find_evaluation("k") == expected


finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**63 - 1)


@st.composite
def measurements(draw: st.DrawFn) -> Measurement:
    metrics = draw(st.sets(st.sampled_from(["deviation", "psnr", "ssim", "alignment"])))
    return Measurement(
        quality={metric: (draw(finite), draw(finite)) for metric in metrics},
        latency_ms=tuple(draw(st.lists(finite, max_size=3))),
        baseline_latency_ms=tuple(draw(st.lists(finite, max_size=3))),
        macs=draw(counts),
        baseline_macs=draw(counts),
        network_calls=draw(counts),
        peak_memory_bytes=draw(counts),
        wall_s=draw(finite),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(measurement=measurements())
def test_every_finite_measurement_survives_bit_for_bit(
    database: Database, start: Callable[..., str], measurement: Measurement
) -> None:
    key = f"k{time.perf_counter_ns()}"
    start(key)
    database.finish_evaluation(key, measurement)
    found = database.find_evaluation(key)
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
        database.finish_evaluation("k", measurement)
    assert database.find_evaluation("k") is None
    assert database.finish_evaluation("k", make_measurement(1)).outcome == make_measurement(1)


def test_a_measurement_that_misses_a_prompt_is_refused(
    database: Database, start: Callable[..., str], make_measurement: MakeMeasurement
) -> None:
    start("k")
    with pytest.raises(StorageError, match="got 1 values of psnr for 2 prompts"):
        database.finish_evaluation("k", dataclasses.replace(make_measurement(0), quality={"psnr": (30.0,)}))


def test_the_first_outcome_wins(
    database: Database, start: Callable[..., str], make_measurement: MakeMeasurement
) -> None:
    start("k")
    first = database.finish_evaluation("k", make_measurement(1))
    assert database.finish_evaluation("k", make_measurement(2)) == first
    assert database.finish_evaluation("k", Failure(kind=FailureKind.NAN, reason="late")) == first
    start("k")
    assert database.find_evaluation("k") == first


def test_an_evaluation_left_running_can_be_started_again_and_finished(
    database: Database, start: Callable[..., str], make_measurement: MakeMeasurement
) -> None:
    assert start("k") == start("k")
    assert database.finish_evaluation("k", make_measurement(1)).state is EvaluationState.COMPLETE


def test_finishing_what_was_never_started_is_refused(database: Database, make_measurement: MakeMeasurement) -> None:
    with pytest.raises(StorageError, match="must be started before it is finished; got the unknown key 'k'"):
        database.finish_evaluation("k", make_measurement(0))


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
    database.finish_evaluation("k", Failure(kind=FailureKind.OUT_OF_MEMORY, reason=reason))
    found = database.find_evaluation("k")
    assert found is not None
    assert found.state is EvaluationState.FAILED
    assert found.outcome == Failure(kind=FailureKind.OUT_OF_MEMORY, reason=stored)
    assert found.measurement is None


def test_a_study_comes_back_as_it_was_put_in(
    database: Database,
    condition: Condition,
    inventory: Inventory,
    start: Callable[..., str],
    add: Callable[[int, str], str],
    make_schedule: MakeSchedule,
    make_measurement: MakeMeasurement,
    fidelity: Fidelity,
) -> None:
    held_out = Fidelity(name="held_out", prompts=("c",), seeds=(1,))
    add(1, "k1")  # before its evaluation starts
    start("k1", 1)
    database.finish_evaluation("k1", Failure(kind=FailureKind.TIMEOUT, reason="slow"))
    first = start("k0", 0)
    database.finish_evaluation("k0", make_measurement(0))
    add(0, "k0")  # after it is finished
    start("h0", 0, held_out)
    again = dataclasses.replace(make_measurement(3), quality={"deviation": (0.2,)})
    database.set_held_out("flux", schedule_hash=first, key="h0")
    assert database.load_study("flux").candidates[0].held_out is None
    database.finish_evaluation("h0", again)
    database.set_image("flux", schedule_hash=first, artifact="sheet-0")
    add(2, "k2")
    start("k2", 2)  # in flight
    database.update_study("flux", state=StudyState.INTERRUPTED, wall_s=12.25)

    record = database.load_study("flux")
    assert (record.name, record.state, record.wall_s) == ("flux", StudyState.INTERRUPTED, 12.25)
    assert record.settings == {"family": "ecad", "seed": 3}
    assert record.provenance == {"cpu": "x"}
    assert record.condition == condition
    assert record.condition.hash == condition.hash
    assert record.inventory == inventory
    assert [c.number for c in record.candidates] == [0, 1]
    assert [c.schedule for c in record.candidates] == [make_schedule(0), make_schedule(1)]
    assert [c.label for c in record.candidates] == ["plan 0", "plan 1"]
    assert record.candidates[0].calibration.outcome == make_measurement(0)
    assert record.candidates[0].calibration.fidelity == "calibration"
    assert record.candidates[0].held_out is not None
    assert record.candidates[0].held_out.outcome == again
    assert record.candidates[0].held_out.fidelity == "held_out"
    assert record.candidates[1].calibration.outcome == Failure(kind=FailureKind.TIMEOUT, reason="slow")
    assert record.candidates[1].held_out is None
    assert record.images == {first: "sheet-0"}
    assert record.created.endswith("+00:00")


def test_an_evaluation_of_one_study_serves_another(
    database: Database,
    condition: Condition,
    inventory: Inventory,
    start: Callable[..., str],
    add: Callable[[int, str], str],
    make_schedule: MakeSchedule,
    make_measurement: MakeMeasurement,
) -> None:
    digest = start("k0")
    database.finish_evaluation("k0", make_measurement(0))
    add(0, "k0")
    database.create_study("second", settings={}, provenance={}, condition=condition, inventory=inventory)
    database.add_candidate(
        "second", number=0, family="random", label="same", schedule=make_schedule(0), schedule_hash=digest, key="k0"
    )
    assert (
        database.load_study("second").candidates[0].calibration == database.load_study("flux").candidates[0].calibration
    )


def test_adding_a_candidate_again_changes_nothing(
    database: Database, start: Callable[..., str], add: Callable[[int, str], str], make_measurement: MakeMeasurement
) -> None:
    start("k0")
    add(0, "k0")
    database.finish_evaluation("k0", make_measurement(0))
    record = database.load_study("flux")
    add(0, "k0")
    assert database.load_study("flux") == record


def test_a_number_whose_evaluation_is_final_can_not_be_given_to_another_schedule(
    database: Database,
    study: str,
    start: Callable[..., str],
    add: Callable[[int, str], str],
    make_schedule: MakeSchedule,
    make_measurement: MakeMeasurement,
) -> None:
    other = make_schedule(9)
    start("k0")
    add(0, "k0")

    def add_other() -> None:
        database.add_candidate(
            study, number=0, family="f", label="l", schedule=other, schedule_hash=schedule_hash(other), key="k9"
        )

    database.finish_evaluation("k0", make_measurement(0))
    with pytest.raises(StorageError, match="one driver per study"):
        add_other()


def test_a_candidate_that_was_in_flight_gives_its_number_away(
    database: Database, start: Callable[..., str], add: Callable[[int, str], str], make_schedule: MakeSchedule,
    make_measurement: MakeMeasurement,
) -> None:  # fmt: skip
    start("k0")
    add(0, "k0")  # and killed here
    other = make_schedule(9)
    digest = start("k9", 9)
    database.finish_evaluation("k9", make_measurement(9))
    database.add_candidate("flux", number=0, family="f", label="l", schedule=other, schedule_hash=digest, key="k9")
    (candidate,) = database.load_study("flux").candidates
    assert (candidate.schedule, candidate.label, candidate.calibration.key) == (other, "l", "k9")


def test_a_taken_study_name_is_refused_with_the_way_on(
    database: Database, study: str, condition: Condition, inventory: Inventory
) -> None:
    with pytest.raises(StudyExistsError, match="autotune resume flux"):
        database.create_study(study, settings={}, provenance={}, condition=condition, inventory=inventory)


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "x" * 201])
def test_a_name_that_can_not_be_shown_is_refused(
    database: Database, condition: Condition, inventory: Inventory, name: str
) -> None:
    with pytest.raises(UsageError, match="1 to 200 printable characters"):
        database.create_study(name, settings={}, provenance={}, condition=condition, inventory=inventory)


@pytest.mark.parametrize("settings", [{"x": float("nan")}, {"x": object()}, {"x": {1, 2}}])
def test_settings_that_json_does_not_know_are_refused(
    database: Database, condition: Condition, inventory: Inventory, settings: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match="settings of a study must hold JSON types"):
        database.create_study("s", settings=settings, provenance={}, condition=condition, inventory=inventory)
    assert database.list_studies() == ()


def test_an_unknown_study_names_its_neighbours_and_the_command_that_lists_all(database: Database, study: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: database.load_study("flx"),
        lambda: database.update_study("flx", state=StudyState.DONE, wall_s=1.0),
        lambda: database.set_image("flx", schedule_hash="0", artifact="a"),
    ]
    for call in calls:
        with pytest.raises(StorageError, match=r"none named 'flx': did you mean 'flux'\? `autotune list studies`"):
            call()


def test_an_image_needs_a_candidate(database: Database, study: str) -> None:
    with pytest.raises(StorageError, match="must have a candidate with schedule abc"):
        database.set_image(study, schedule_hash="abc", artifact="a")


def test_the_list_counts_final_candidates_only(
    database: Database, start: Callable[..., str], add: Callable[[int, str], str], make_measurement: MakeMeasurement
) -> None:
    for i in range(3):
        start(f"k{i}", i)
        add(i, f"k{i}")
    database.finish_evaluation("k0", make_measurement(0))
    database.finish_evaluation("k2", Failure(kind=FailureKind.NAN, reason=""))
    (summary,) = database.list_studies()
    assert (summary.name, summary.model, summary.family) == ("flux", "toy/model", "ecad")
    assert (summary.state, summary.n_candidates, summary.wall_s) == (StudyState.RUNNING, 2, 0.0)
    assert summary.created == database.load_study("flux").created


def test_everything_is_there_after_opening_again(
    database: Database, tmp_path: Path, start: Callable[..., str], add: Callable[[int, str], str],
    make_measurement: MakeMeasurement,
) -> None:  # fmt: skip
    start("k0")
    add(0, "k0")
    database.finish_evaluation("k0", make_measurement(0))
    record = database.load_study("flux")
    assert database.url == str(tmp_path / "autotune.db")
    database.close()
    with Database.open(f"sqlite:///{tmp_path / 'autotune.db'}") as again:
        assert again.load_study("flux") == record


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE schedule SET data = '{\"n_steps\": 2}'",
        "UPDATE schedule SET data = '{half'",
        "UPDATE study SET inventory = '{}'",
        "UPDATE evaluation SET state = 'paused'",
        "UPDATE condition SET data = '[]'",
    ],
)
def test_a_damaged_row_is_one_clear_error(
    database: Database, tmp_path: Path, start: Callable[..., str], add: Callable[[int, str], str],
    make_measurement: MakeMeasurement, damage: str,
) -> None:  # fmt: skip
    start("k0")
    add(0, "k0")
    database.finish_evaluation("k0", make_measurement(0))
    with sqlite3.connect(tmp_path / "autotune.db") as connection:
        connection.execute(damage)
    connection.close()
    with pytest.raises(StorageError, match=r"must be as autotune wrote them.*restore a backup"):
        database.load_study("flux")
