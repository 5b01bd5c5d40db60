"""Processes that are killed, and processes that write at the same time."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from autotune.spaces.condition import Condition
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.evaluation_request import EvaluationRequest
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule, schedule_hash
from autotune.storage.database import Database

CHILD = """
import json, sys
from autotune.spaces.condition import condition_from_json
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.evaluation_request import EvaluationRequest
from autotune.spaces.schedule import Schedule, schedule_hash
from autotune.storage.database import CandidateEntry, Database

path, name, condition = sys.argv[1], int(sys.argv[2]), condition_from_json(json.loads(sys.argv[3]))
database = Database.open(path)
fidelity = Fidelity(name="calibration", prompts=("a", "b"), seeds=(1, 2))
print("ready", flush=True)
first, n_keys, study = sys.stdin.readline().rstrip("\\n").split(",")
first, n_keys = int(first), int(n_keys)
if study:
    database.claim_study(study)
for i in range(first, first + n_keys):
    schedule = Schedule(n_steps=i + 1)
    digest = schedule_hash(schedule)
    key = f"k{i}"
    request = EvaluationRequest(
        key=key, schedule=schedule, schedule_hash=digest, condition=condition, fidelity=fidelity
    )
    database.start_evaluations([request])
    mine = Measurement(
        quality={metric: (i + 0.25, i + 0.5) for metric in ("deviation", "psnr", "ssim")},
        latency_ms=(1.0 + i,) * 4, baseline_latency_ms=(2.0 + i,) * 4, macs=i, baseline_macs=i, network_calls=i + 1,
        peak_memory_bytes=name, wall_s=0.5,
    )
    kept = database.finish_evaluations({key: mine})[key]
    print(key, kept.outcome.peak_memory_bytes, flush=True)
    if study:
        entry = CandidateEntry(
            number=i, family="f", label=key, schedule=schedule, schedule_hash=digest, key=key
        )
        database.add_candidates(study, [entry])
"""


@pytest.fixture
def start_child(database: Database, url: str, condition: Condition) -> Callable[[int], subprocess.Popen[str]]:
    """Start process number `name`, which waits for `go`."""

    def start(name: int) -> subprocess.Popen[str]:
        arguments = [url, str(name), json.dumps(condition.to_json())]
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    return start


def go(firsts: dict[subprocess.Popen[str], int], *, n_keys: int, study: str = "") -> None:
    """Let each process finish `n_keys` evaluations from its first number on, all at once."""
    for child in firsts:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child, first in firsts.items():
        assert child.stdin is not None
        child.stdin.write(f"{first},{n_keys},{study}\n")
        child.stdin.flush()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_kill_at_any_moment_loses_nothing_that_was_finished(
    database: Database, url: str, inventory: Inventory, condition: Condition,
    start_child: Callable[[int], subprocess.Popen[str]], query: Callable[[str], list[tuple[object, ...]]],
) -> None:  # fmt: skip
    database.create_study("s", settings={}, provenance={}, condition=condition, inventory=inventory)
    database.release_leases()
    moments = random.Random(4)
    confirmed: list[str] = []
    children = [start_child(name) for name in range(5)]
    for child in children:
        go({child: len(confirmed)}, n_keys=10_000, study="s")
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(moments.randrange(1, 8))]
        time.sleep(0.03 * moments.random())  # one evaluation takes about as long
        child.send_signal(signal.SIGKILL)
        lines += child.communicate()[0].splitlines()
        confirmed += [line.split()[0] for line in lines if " " in line]
    first = len(confirmed)

    reopened = Database.open(url)
    for i, key in enumerate(confirmed):
        found = reopened.find_evaluations([key]).get(key)
        assert found is not None
        assert isinstance(found.outcome, Measurement)
        assert found.outcome.quality == dict.fromkeys(("deviation", "psnr", "ssim"), (i + 0.25, i + 0.5))
        assert found.outcome.latency_ms == (1.0 + i,) * 4
        assert found.outcome.baseline_latency_ms == (2.0 + i,) * 4
    assert {c.calibration.key for c in reopened.load_study("s").candidates} <= set(confirmed)
    assert len(reopened.load_study("s").candidates) >= first - 5  # at most the one in flight of each killed process
    reopened.close()

    if url.startswith("sqlite"):
        assert query("PRAGMA integrity_check") == [("ok",)]
        assert query("PRAGMA foreign_key_check") == []
    counts = query(
        "SELECT state, (SELECT count(*) FROM measurement WHERE evaluation_id = id),"
        " (SELECT count(*) FROM timing WHERE evaluation_id = id) FROM evaluation"
    )
    assert set(counts) <= {("complete", 6, 8), ("running", 0, 0)}
    assert len(counts) <= first + 1


@pytest.mark.slow
def test_of_two_processes_that_finish_one_key_the_first_wins(
    database: Database, start_child: Callable[[int], subprocess.Popen[str]]
) -> None:
    """Both work on the same keys at the same time; each also has some of its own, none of which is lost."""
    children = [start_child(name) for name in (1, 2)]
    go({children[0]: 0, children[1]: 5}, n_keys=20)
    told = [dict(line.split() for line in child.communicate()[0].splitlines()) for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert [list(outcomes) for outcomes in told] == [[f"k{i}" for i in range(20)], [f"k{i}" for i in range(5, 25)]]
    for key in told[0].keys() & told[1].keys():
        assert told[0][key] == told[1][key]  # both were told the same outcome
    for key, winner in (told[0] | told[1]).items():
        found = database.find_evaluations([key]).get(key)
        assert found is not None
        assert found.measurement is not None
        assert found.measurement.peak_memory_bytes == int(winner)
        assert len(found.measurement.latency_ms) == 4


def test_threads_may_share_a_database(
    database: Database, condition: Condition, fidelity: Fidelity, make_measurement: Callable[[float], Measurement]
) -> None:
    def work(i: int) -> float:
        schedule = Schedule(n_steps=i + 1)
        database.start_evaluations(
            [
                EvaluationRequest(
                    key=f"k{i}",
                    schedule=schedule,
                    schedule_hash=schedule_hash(schedule),
                    condition=condition,
                    fidelity=fidelity,
                )
            ]
        )
        measurement = database.finish_evaluations({f"k{i}": make_measurement(i)})[f"k{i}"].measurement
        assert measurement is not None
        return measurement.wall_s

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(20))) == [1.5 + i for i in range(20)]
