"""Studies and their candidates: a record comes back as it was put in, and nothing in it is overwritten."""

import dataclasses
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from autotune.spaces.condition import Condition
from autotune.spaces.errors import StorageError, StudyExistsError, UsageError
from autotune.spaces.evaluation import Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule, schedule_hash
from autotune.spaces.study_record import StudyState
from autotune.storage.database import CandidateEntry, Database

MakeSchedule = Callable[[int], Schedule]
MakeMeasurement = Callable[[float], Measurement]


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
    database.finish_evaluations({"k1": Failure(kind=FailureKind.TIMEOUT, reason="slow")})
    first = start("k0", 0)
    database.finish_evaluations({"k0": make_measurement(0)})
    add(0, "k0")  # after it is finished
    start("h0", 0, held_out)
    again = dataclasses.replace(make_measurement(3), quality={"deviation": (0.2,)})
    database.set_held_out("flux", schedule_hash=first, key="h0")
    assert database.load_study("flux").candidates[0].held_out is None
    database.finish_evaluations({"h0": again})
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
    database.finish_evaluations({"k0": make_measurement(0)})
    add(0, "k0")
    database.create_study("second", settings={}, provenance={}, condition=condition, inventory=inventory)
    database.add_candidates(
        "second",
        [
            CandidateEntry(
                number=0, family="random", label="same", schedule=make_schedule(0), schedule_hash=digest, key="k0"
            )
        ],
    )
    assert (
        database.load_study("second").candidates[0].calibration == database.load_study("flux").candidates[0].calibration
    )


def test_adding_a_candidate_again_changes_nothing(
    database: Database, start: Callable[..., str], add: Callable[[int, str], str], make_measurement: MakeMeasurement
) -> None:
    start("k0")
    add(0, "k0")
    database.finish_evaluations({"k0": make_measurement(0)})
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
        database.add_candidates(
            study,
            [
                CandidateEntry(
                    number=0, family="f", label="l", schedule=other, schedule_hash=schedule_hash(other), key="k9"
                )
            ],
        )

    database.finish_evaluations({"k0": make_measurement(0)})
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
    database.finish_evaluations({"k9": make_measurement(9)})
    database.add_candidates(
        "flux", [CandidateEntry(number=0, family="f", label="l", schedule=other, schedule_hash=digest, key="k9")]
    )
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
    database.finish_evaluations({"k0": make_measurement(0)})
    database.finish_evaluations({"k2": Failure(kind=FailureKind.NAN, reason="")})
    (summary,) = database.list_studies()
    assert (summary.name, summary.model, summary.family) == ("flux", "toy/model", "ecad")
    assert (summary.state, summary.n_candidates, summary.wall_s) == (StudyState.RUNNING, 2, 0.0)
    assert summary.created == database.load_study("flux").created


def test_everything_is_there_after_opening_again(
    database: Database, url: str, start: Callable[..., str], add: Callable[[int, str], str],
    make_measurement: MakeMeasurement,
) -> None:  # fmt: skip
    start("k0")
    add(0, "k0")
    database.finish_evaluations({"k0": make_measurement(0)})
    record = database.load_study("flux")
    database.close()
    with Database.open(url) as again:
        assert again.load_study("flux") == record


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE schedule SET data = '{\"n_steps\": 2}'",
        "UPDATE study SET inventory = '{}'",
        "UPDATE evaluation SET state = 'paused'",
        "UPDATE condition SET data = '[]'",
    ],
)
def test_a_damaged_row_is_one_clear_error(
    database: Database, start: Callable[..., str], add: Callable[[int, str], str],
    make_measurement: MakeMeasurement, query: Callable[[str], object], damage: str,
) -> None:  # fmt: skip
    start("k0")
    add(0, "k0")
    database.finish_evaluations({"k0": make_measurement(0)})
    query(damage)
    with pytest.raises(StorageError, match=r"must be as autotune wrote them.*restore a backup"):
        database.load_study("flux")


def test_a_row_that_is_no_json_is_one_clear_error(
    sqlite_database: Database, tmp_path: Path, condition: Condition, inventory: Inventory
) -> None:
    sqlite_database.create_study("flux", settings={}, provenance={}, condition=condition, inventory=inventory)
    with sqlite3.connect(tmp_path / "autotune.db") as connection:
        connection.execute("UPDATE condition SET data = '{half'")  # PostgreSQL would refuse this itself
    connection.close()
    with pytest.raises(StorageError, match=r"must be as autotune wrote them.*restore a backup"):
        sqlite_database.load_study("flux")
