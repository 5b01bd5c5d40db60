"""A study with many candidates."""

import random
from datetime import UTC, datetime

from sqlalchemy import insert

from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.condition import Condition
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule, schedule_to_json
from autotune.storage import studies
from autotune.storage.sessions import Sessions
from autotune.storage.tables import Base, CandidateRow, EvaluationRow, MeasurementRow, ScheduleRow, TimingRow
from autotune.storage.values import save_prompt_sets

N_PROMPTS, METRICS = 16, ("deviation", "psnr", "ssim", "alignment")
FIDELITY = Fidelity(name="calibration", prompts=tuple("abcdefghijklmnop"), seeds=tuple(range(N_PROMPTS)))


def fill_study(sessions: Sessions, n: int, condition: Condition, inventory: Inventory) -> None:
    """Fill study "s" with `n` complete candidates, table by table: one by one would take longer than the test."""
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
             "prompt_set_hash": FIDELITY.hash, "started": datetime.now(UTC),
             "finished": datetime.now(UTC), "wall_s": 1.0, "macs": 1,
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
