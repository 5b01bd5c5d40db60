"""Writing and loading a study are fast, and stay so as it grows."""

import random
import time
from pathlib import Path

from sqlalchemy import event

from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.condition import Condition
from autotune.spaces.evaluation import Measurement
from autotune.spaces.evaluation_request import EvaluationRequest
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule, schedule_hash
from autotune.storage import study_loading
from autotune.storage.connection import make_engine
from autotune.storage.database import CandidateEntry, Database
from autotune.storage.location import parse_location
from autotune.storage.sessions import Sessions

from .big_study import FIDELITY, METRICS, fill_study


def sessions_of(path: Path) -> Sessions:
    Database.open(str(path)).close()
    location = parse_location(str(path))
    return Sessions(make_engine(location), location)


def test_the_number_of_queries_does_not_grow_with_the_study(
    tmp_path: Path, condition: Condition, inventory: Inventory
) -> None:
    counts = []
    for n in (2, 30):
        sessions = sessions_of(tmp_path / f"{n}.db")
        fill_study(sessions, n, condition, inventory)
        statements: list[str] = []

        def note(*arguments: object, statements: list[str] = statements) -> None:
            statements.append(str(arguments[2]))

        event.listen(sessions.engine, "before_cursor_execute", note)
        with sessions.reading() as connection:
            assert len(study_loading.load(connection, "s", None).candidates) == n
        sessions.engine.dispose()
        counts.append(len(statements))
    assert counts[0] == counts[1] <= 8


def test_a_study_of_2000_candidates_loads_in_two_seconds(
    tmp_path: Path, condition: Condition, inventory: Inventory
) -> None:
    sessions = sessions_of(tmp_path / "a.db")
    fill_study(sessions, 2000, condition, inventory)
    durations = []
    for _ in range(2):
        begin = time.process_time()
        with sessions.reading() as connection:
            record = study_loading.load(connection, "s", None)
        durations.append(time.process_time() - begin)
    sessions.engine.dispose()
    assert len(record.candidates) == 2000
    assert all(c.calibration.measurement is not None for c in record.candidates)
    assert sum(len(c.calibration.measurement.quality) for c in record.candidates if c.calibration.measurement) == 8000
    print(f"2000 candidates x 16 prompts x 4 metrics: {min(durations):.2f} s")  # noqa: T201 - shown by pytest -s
    assert min(durations) < 2.0


def test_a_batch_of_50_costs_two_milliseconds_of_cpu_per_evaluation(
    sqlite_database: Database, condition: Condition, inventory: Inventory
) -> None:
    fidelity = FIDELITY.first(8)
    measurement = Measurement(
        quality=dict.fromkeys(METRICS, (0.1,) * 8), latency_ms=(1.0,) * 3, baseline_latency_ms=(2.0,) * 3, macs=1,
        baseline_macs=2, network_calls=20, peak_memory_bytes=0, wall_s=1.0,
    )  # fmt: skip
    sqlite_database.create_study("s", settings={}, provenance={}, condition=condition, inventory=inventory)
    plans = random.Random(0)
    durations = []
    for first in range(0, 500, 50):
        schedules = [
            Schedule(n_steps=20, cache=CachePlan(20, 20, bytes(20) + bytes(plans.randrange(2) for _ in range(380))))
            for _ in range(50)
        ]
        hashes = [schedule_hash(schedule) for schedule in schedules]
        requests = [
            EvaluationRequest(key=h, schedule=s, schedule_hash=h, condition=condition, fidelity=fidelity)
            for h, s in zip(hashes, schedules, strict=True)
        ]
        entries = [
            CandidateEntry(number=first + i, family="f", label="l", schedule=s, schedule_hash=h, key=h)
            for i, (h, s) in enumerate(zip(hashes, schedules, strict=True))
        ]
        begin = time.process_time()
        sqlite_database.start_evaluations(requests)
        sqlite_database.finish_evaluations(dict.fromkeys(hashes, measurement))
        sqlite_database.add_candidates("s", entries)
        durations.append((time.process_time() - begin) / 50)
    assert min(durations) < 0.002
