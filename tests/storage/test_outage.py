"""A server that goes away and comes back, and answers that get lost: nothing is lost, and nothing is done twice."""

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from autotune.spaces.condition import Condition
from autotune.spaces.errors import StorageError, StudyExistsError
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.evaluation_request import EvaluationRequest
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule, schedule_hash
from autotune.spaces.study_record import StudyState
from autotune.storage.connection import make_engine
from autotune.storage.database import CandidateEntry, Database
from autotune.storage.location import parse_location
from autotune.storage.sessions import Sessions

from .postgres import REASON, PostgresServer

psycopg = pytest.importorskip("psycopg", reason=REASON)

WRITER = """
import json, sys
from autotune.spaces.condition import condition_from_json
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.evaluation_request import EvaluationRequest
from autotune.spaces.inventory import inventory_from_json
from autotune.spaces.schedule import Schedule, schedule_hash
from autotune.storage.database import CandidateEntry, Database

database, condition = Database.open(sys.argv[1]), condition_from_json(json.loads(sys.argv[2]))
inventory = inventory_from_json(json.loads(sys.argv[3]))
database.create_study("s", settings={}, provenance={}, condition=condition, inventory=inventory)
fidelity = Fidelity(name="calibration", prompts=("a", "b"), seeds=(1, 2))
for i in range(400):
    schedule = Schedule(n_steps=i + 1)
    digest, key = schedule_hash(schedule), f"k{i}"
    request = EvaluationRequest(
        key=key, schedule=schedule, schedule_hash=digest, condition=condition, fidelity=fidelity
    )
    claim = database.start_evaluations([request])[key]
    assert claim.is_ours and claim.n_lost == 0, claim
    mine = Measurement(
        quality={"deviation": (i + 0.25, i + 0.5)}, latency_ms=(1.0 + i,), baseline_latency_ms=(2.0,), macs=i,
        baseline_macs=i, network_calls=i, peak_memory_bytes=0, wall_s=0.5,
    )
    assert database.finish_evaluations({key: mine})[key].outcome == mine
    entry = CandidateEntry(
        number=i, family="f", label=key, schedule=schedule, schedule_hash=digest, key=key
    )
    database.add_candidates("s", [entry])
    database.artifacts.save(key, key.encode(), "x")
    assert database.artifacts.load(key) == key.encode()
    database.renew_lease()
    print(key, flush=True)
database.close()
"""


@pytest.fixture
def url(postgres: PostgresServer, tmp_path: Path) -> Iterator[str]:
    with postgres.new_database(tmp_path / "artifacts") as made:
        yield made


@pytest.mark.slow
def test_a_server_that_crashes_and_comes_back_costs_a_writer_time_and_nothing_else(
    postgres: PostgresServer, url: str, condition: Condition, inventory: Inventory,
    query: Callable[[str], list[tuple[object, ...]]],
) -> None:  # fmt: skip
    words = [url, json.dumps(condition.to_json()), json.dumps(inventory.to_json())]
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    first = [writer.stdout.readline() for _ in range(20)]
    postgres.stop()
    time.sleep(10)
    postgres.start()
    rest, errors = writer.communicate(timeout=120)
    assert "Traceback" not in errors  # psycopg itself may mention the broken connection
    assert writer.returncode == 0
    keys = [f"k{i}" for i in range(400)]
    assert [line.strip() for line in first] + rest.split() == keys
    with Database.open(url) as database:
        found = database.find_evaluations(keys)
        record = database.load_study("s")
    assert [c.calibration for c in record.candidates] == [found[key] for key in keys]
    for i, key in enumerate(keys):
        measurement = found[key].measurement
        assert measurement is not None
        assert (measurement.quality["deviation"], measurement.latency_ms) == ((i + 0.25, i + 0.5), (1.0 + i,))
    assert query("SELECT count(*), sum(n_lost), count(owner) FROM evaluation") == [(400, 0, 0)]
    assert query("SELECT (SELECT count(*) FROM measurement), (SELECT count(*) FROM timing)") == [(800, 800)]
    assert query("SELECT owner FROM study") == [(None,)]


def test_a_server_that_stays_away_is_one_clear_error(postgres: PostgresServer, url: str) -> None:
    location = parse_location(url)
    Database.open(url).close()
    database = Database(Sessions(make_engine(location), location, reconnect_s=1.5))
    assert database.list_studies() == ()
    postgres.stop()
    try:
        begin = time.monotonic()
        with pytest.raises(StorageError, match=r"could not be used: .*check that the server runs"):
            database.list_studies()
        assert 1.0 < time.monotonic() - begin < 5
        with pytest.raises(StorageError, match="could not be used"):
            database.renew_lease()
        begin = time.monotonic()
        database.close()  # it holds a lease, and does not wait to give it back
        assert time.monotonic() - begin < 1
    finally:
        postgres.start()


def test_a_database_that_is_not_there_is_refused_at_once(url: str) -> None:
    begin = time.monotonic()
    with pytest.raises(StorageError, match=r'database "nowhere" does not exist.*check that the server runs'):
        Database.open(make_url(url).set(database="nowhere").render_as_string(hide_password=False))
    assert time.monotonic() - begin < 2


class LosesAnswers:
    """A connection that breaks after every other commit: it is done, and the program does not learn of it."""

    def __init__(self, dialect: Any) -> None:
        self._commit = dialect.do_commit
        self.n_lost = 0
        self._losing = False

    def __call__(self, connection: Any) -> None:
        self._commit(connection)
        self._losing = not self._losing
        if self._losing:
            self.n_lost += 1
            connection.driver_connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")


def use_everything(
    database: Database, condition: Condition, inventory: Inventory, fidelity: Fidelity, measurement: Measurement
) -> list[object]:
    """Call every method that writes; what they return, and what is stored in the end."""
    told: list[object] = []
    database.create_study("s", settings={}, provenance={}, condition=condition, inventory=inventory)
    with pytest.raises(StudyExistsError):
        database.create_study("s", settings={}, provenance={}, condition=condition, inventory=inventory)
    database.claim_study("s")
    schedules = [Schedule(n_steps=i + 1) for i in range(4)]
    hashes = [schedule_hash(schedule) for schedule in schedules]
    requests = [
        EvaluationRequest(key=f"k{i}", schedule=made, schedule_hash=hashes[i], condition=condition, fidelity=fidelity)
        for i, made in enumerate(schedules)
    ]
    told.append(database.start_evaluations(requests))
    told.append(database.finish_evaluations({"k0": measurement, "k1": measurement}))
    database.return_evaluations(["k2"], "worker lost")
    told.append(database.start_evaluations(requests))
    database.return_evaluations(["k3"])
    database.add_candidates(
        "s",
        [
            CandidateEntry(number=i, family="f", label="l", schedule=made, schedule_hash=hashes[i], key=f"k{i}")
            for i, made in enumerate(schedules[:2])
        ],
    )
    database.set_held_out("s", schedule_hash=hashes[0], key="k1")
    database.set_image("s", schedule_hash=hashes[0], artifact="a")
    database.artifacts.save("a", b"data", "x")
    database.update_study("s", state=StudyState.DONE, wall_s=3.0, device_s=4.0)
    database.renew_lease()
    database.release_leases()
    record = database.load_study("s")
    assert record.created
    return [*told, dataclasses.replace(record, created=""), database.artifacts.load("a")]


@pytest.mark.slow
def test_a_commit_whose_answer_is_lost_is_done_once(
    postgres: PostgresServer, url: str, tmp_path: Path, condition: Condition, inventory: Inventory,
    fidelity: Fidelity, make_measurement: Callable[[float], Measurement],
    query: Callable[[str], list[tuple[object, ...]]],
) -> None:  # fmt: skip
    values = (condition, inventory, fidelity, make_measurement(0))
    Database.open(url).close()
    location = parse_location(url)
    engine = make_engine(location)
    loses = LosesAnswers(engine.dialect)
    engine.dialect.do_commit = loses  # type: ignore[assignment]
    told = use_everything(Database(Sessions(engine, location)), *values)
    engine.dispose()
    assert loses.n_lost >= 14
    with postgres.new_database(tmp_path / "other") as other, Database.open(other) as plain:
        expected = use_everything(plain, *values)
    assert told == expected
    assert query("SELECT key, n_lost, owner FROM evaluation ORDER BY key") == [
        ("k0", 0, None), ("k1", 0, None), ("k2", 1, None), ("k3", 0, None),
    ]  # fmt: skip
