"""Loading a study stays fast as it grows."""

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import event, insert

from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.condition import Condition
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule, schedule_to_json
from autotune.storage import studies, study_loading
from autotune.storage.connection import make_engine
from autotune.storage.database import Database
from autotune.storage.location import parse_location
from autotune.storage.sessions import Sessions
from autotune.storage.tables import Base, CandidateRow, EvaluationRow, MeasurementRow, ScheduleRow, TimingRow
from autotune.storage.values import save_prompt_sets

N_PROMPTS, METRICS = 16, ("deviation", "psnr", "ssim", "alignment")
FIDELITY = Fidelity(name="calibration", prompts=tuple("abcdefghijklmnop"), seeds=tuple(range(N_PROMPTS)))


@pytest.fixture
def fill(condition: Condition, inventory: Inventory) -> Callable[[Sessions, int], None]:
    """Fill study "s" with `n` complete candidates, table by table: one by one would take longer than the test."""

    def make(sessions: Sessions, n: int) -> None:
        rng = random.Random(0)
        hashes = [f"{i:064}" for i in range(n)]
        plans = [CachePlan(20, 20, bytes(20) + bytes(rng.randrange(2) for _ in range(380))) for _ in hashes]
        made: dict[type[Base], list[dict[str, object]]] = {
            ScheduleRow: [
                {"hash": h, "data": schedule_to_json(Schedule(n_steps=20, cache=plan))}
                for h, plan in zip(hashes, plans, strict=True)
            ],
            EvaluationRow: [
                {"id": i, "key": h, "state": "complete", "condition_hash": condition.hash, "schedule_hash": h,
                 "prompt_set_hash": FIDELITY.hash, "started": datetime.now(UTC), "wall_s": 1.0, "macs": 1,
                 "baseline_macs": 2, "network_calls": 20, "peak_memory_bytes": 0}
                for i, h in enumerate(hashes)
            ],
            MeasurementRow: [
                {"evaluation_id": i, "metric": metric, "prompt_index": j, "value": rng.random()}
                for i in range(n) for metric in METRICS for j in range(N_PROMPTS)
            ],
            TimingRow: [
                {"evaluation_id": i, "run": run, "repeat": j, "latency_ms": rng.random()}
                for i in range(n) for run in ("schedule", "baseline") for j in range(3)
            ],
            CandidateRow: [
                {"study_id": 1, "number": i, "family": "f", "label": "l", "schedule_hash": h, "evaluation_key": h}
                for i, h in enumerate(hashes)
            ],
        }  # fmt: skip
        with sessions.writing() as connection:
            studies.create(
                connection, "s", settings={}, provenance={}, condition=condition, inventory=inventory,
                created=datetime.now(UTC), owner="filler",
            )  # fmt: skip
            save_prompt_sets(connection, {FIDELITY.hash: FIDELITY})
            for table, rows in made.items():
                connection.execute(insert(table), rows)

    return make


def sessions_of(path: Path) -> Sessions:
    Database.open(str(path)).close()
    location = parse_location(str(path))
    return Sessions(make_engine(location), location)


def test_the_number_of_queries_does_not_grow_with_the_study(
    tmp_path: Path, fill: Callable[[Sessions, int], None]
) -> None:
    counts = []
    for n in (2, 30):
        sessions = sessions_of(tmp_path / f"{n}.db")
        fill(sessions, n)
        statements: list[str] = []

        def note(*arguments: object, statements: list[str] = statements) -> None:
            statements.append(str(arguments[2]))

        event.listen(sessions.engine, "before_cursor_execute", note)
        with sessions.reading() as connection:
            assert len(study_loading.load(connection, "s", None).candidates) == n
        sessions.engine.dispose()
        counts.append(len(statements))
    assert counts[0] == counts[1] <= 8


def test_a_study_of_2000_candidates_loads_in_two_seconds(tmp_path: Path, fill: Callable[[Sessions, int], None]) -> None:
    sessions = sessions_of(tmp_path / "a.db")
    fill(sessions, 2000)
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
