"""A database of any earlier revision is brought to this one with everything in it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from autotune.spaces.condition import Condition
from autotune.spaces.evaluation import Evaluation, EvaluationState, Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.evaluation_request import EvaluationRequest
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule, schedule_hash, schedule_to_json
from autotune.spaces.study_record import Candidate, StudyRecord, StudyState
from autotune.storage import migrate
from autotune.storage.connection import WRITES, make_engine
from autotune.storage.database import Claim, Database
from autotune.storage.location import parse_location

from .postgres import KINDS, make_database

SCRIPTS = ScriptDirectory(str(Path(migrate.__file__).with_name("migrations")))
EARLIER = sorted(script.revision for script in SCRIPTS.walk_revisions() if script.revision != migrate.HEAD)

Insert = Callable[..., object]


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of each kind without tables."""
    yield from make_database(request, tmp_path, bare=True)


@pytest.fixture
def insert(query: Callable[..., object]) -> Insert:
    """Insert one row by plain SQL, JSON objects as text."""

    def run(table: str, **values: object) -> None:
        given = {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in values.items()}
        query(f"INSERT INTO {table} ({', '.join(given)}) VALUES ({', '.join(f':{name}' for name in given)})", **given)

    return run


def fill_0001(
    insert: Insert, condition: Condition, inventory: Inventory, fidelity: Fidelity, schedules: list[Schedule]
) -> None:
    """One of everything that revision 0001 can hold: evaluations that are complete, failed and running."""
    moment = "2026-01-02 03:04:05.000006"
    insert("model", id=1, name=condition.model, revision=condition.revision)
    insert("condition", hash=condition.hash, model_id=1, data=condition.to_json())
    insert(
        "prompt_set", hash=fidelity.hash, name=fidelity.name, prompts=list(fidelity.prompts),
        seeds=list(fidelity.seeds),
    )  # fmt: skip
    hashes = [schedule_hash(schedule) for schedule in schedules]
    for digest, schedule in zip(hashes, schedules, strict=True):
        insert("schedule", hash=digest, data=schedule_to_json(schedule))
    states: list[dict[str, object]] = [
        {"state": "complete", "finished": moment, "wall_s": 1.5, "macs": 6, "baseline_macs": 12, "network_calls": 28,
         "peak_memory_bytes": 2**40},
        {"state": "failed", "finished": moment, "wall_s": 2.0, "failure_kind": "nan", "failure_reason": "Bär"},
        {"state": "running"},
    ]  # fmt: skip
    for i, values in enumerate(states):
        insert(
            "evaluation", id=i + 1, key=f"k{i}", condition_hash=condition.hash, schedule_hash=hashes[i],
            prompt_set_hash=fidelity.hash, started=moment, **values,
        )  # fmt: skip
    for i, value in enumerate((0.1, 0.1 + 0.2)):
        insert("measurement", evaluation_id=1, metric="deviation", prompt_index=i, value=value)
        insert("timing", evaluation_id=1, run="schedule", repeat=i, latency_ms=10.0 + i)
    insert("timing", evaluation_id=1, run="baseline", repeat=0, latency_ms=20.0)
    insert(
        "study", id=1, name="old", state="interrupted", created=moment, wall_s=12.25, settings={"family": "ecad"},
        provenance={"cpu": "x"}, condition_hash=condition.hash, inventory=inventory.to_json(),
    )  # fmt: skip
    for i in range(3):
        held_out = "k0" if i == 0 else None
        insert(
            "candidate", id=i + 1, study_id=1, number=i, family="ecad", label=f"plan {i}", schedule_hash=hashes[i],
            evaluation_key=f"k{i}", held_out_key=held_out, image="sheet-0" if i == 0 else None,
        )  # fmt: skip


@pytest.mark.parametrize("revision", EARLIER)
def test_everything_in_an_older_database_is_there_after_the_upgrade(
    url: str, revision: str, insert: Insert, condition: Condition, inventory: Inventory, fidelity: Fidelity,
    make_schedule: Callable[[int], Schedule], query: Callable[..., list[tuple[object, ...]]],
) -> None:  # fmt: skip
    location = parse_location(url)
    engine = make_engine(location)
    assert migrate.upgrade(engine.execution_options(**{WRITES: True}), location, revision) is None
    engine.dispose()
    schedules = [make_schedule(i) for i in range(3)]
    fill_0001(insert, condition, inventory, fidelity, schedules)
    digest = "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"  # SHA-256 of b"data"
    insert("artifact", name="a", sha256=digest, kind="x", n_bytes=4, created="2026-01-02 03:04:05")
    (location.artifacts / digest[:2]).mkdir(parents=True)
    (location.artifacts / digest[:2] / digest[2:]).write_bytes(b"data")

    with Database.open(url) as database:
        assert query(f"SELECT version_num FROM {migrate.VERSION_TABLE}") == [(migrate.HEAD,)]
        measurement = Measurement(
            quality={"deviation": (0.1, 0.1 + 0.2)}, latency_ms=(10.0, 11.0), baseline_latency_ms=(20.0,), macs=6,
            baseline_macs=12, network_calls=28, peak_memory_bytes=2**40, wall_s=1.5,
        )  # fmt: skip
        hashes = [schedule_hash(schedule) for schedule in schedules]
        complete = Evaluation(
            key="k0", schedule_hash=hashes[0], fidelity="calibration", state=EvaluationState.COMPLETE,
            outcome=measurement,
        )  # fmt: skip
        failed = Evaluation(
            key="k1", schedule_hash=hashes[1], fidelity="calibration", state=EvaluationState.FAILED,
            outcome=Failure(kind=FailureKind.NAN, reason="Bär"),
        )  # fmt: skip
        assert database.find_evaluations(["k0", "k1", "k2"]) == {"k0": complete, "k1": failed}
        assert database.load_study("old") == StudyRecord(
            name="old",
            state=StudyState.INTERRUPTED,
            created="2026-01-02T03:04:05+00:00",
            wall_s=12.25,
            settings={"family": "ecad"},
            provenance={"cpu": "x"},
            condition=condition,
            inventory=inventory,
            candidates=tuple(
                Candidate(
                    number=i, family="ecad", label=f"plan {i}", schedule=schedules[i], schedule_hash=hashes[i],
                    calibration=evaluation, held_out=complete if i == 0 else None,
                )
                for i, evaluation in enumerate((complete, failed))
            ),
            images={hashes[0]: "sheet-0"},
            device_s=0.0,
        )  # fmt: skip
        assert database.artifacts.load("a") == b"data"
        request = EvaluationRequest(
            key="k2", schedule=schedules[2], schedule_hash=hashes[2], condition=condition, fidelity=fidelity
        )
        assert database.start_evaluations([request]) == {"k2": Claim()}
        database.claim_study("old")
        assert database.finish_evaluations({"k2": measurement})["k2"].outcome == measurement
        assert len(database.load_study("old").candidates) == 3


def test_there_is_an_earlier_revision_to_upgrade_from() -> None:
    assert EARLIER[0] == "0001"
