"""Processes that want the same thing at the same time, and one that is killed while it holds something."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from autotune.spaces.condition import Condition
from autotune.storage.database import Database

N_KEYS = 60

CHILD = """
import json, random, sys, threading, time
from autotune.spaces.condition import condition_from_json
from autotune.spaces.errors import StudyBusyError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.evaluation_request import EvaluationRequest
from autotune.spaces.schedule import Schedule, schedule_hash
from autotune.storage.database import Database

database, condition = Database.open(sys.argv[1]), condition_from_json(json.loads(sys.argv[2]))
fidelity = Fidelity(name="calibration", prompts=("a", "b"), seeds=(1, 2))
schedules = [Schedule(n_steps=i + 1) for i in range(int(sys.argv[3]))]
requests = [
    EvaluationRequest(
        key=f"k{i}", schedule=made, schedule_hash=schedule_hash(made), condition=condition, fidelity=fidelity
    )
    for i, made in enumerate(schedules)
]
random.Random(sys.argv[4]).shuffle(requests)
print("ready", flush=True)
sys.stdin.readline()

def live():
    while True:
        database.renew_lease()
        time.sleep(0.2)

threading.Thread(target=live, daemon=True).start()
claims = {}
for i in range(0, len(requests), 7):
    claims |= database.start_evaluations(requests[i : i + 7])
try:
    database.claim_study("flux")
    drives = True
except StudyBusyError:
    drives = False
ours = {key: (claim.n_lost, claim.lost_reason) for key, claim in claims.items() if claim.is_ours}
others = {claim.holder for claim in claims.values() if not claim.is_ours}
print(json.dumps({"owner": database.owner, "ours": ours, "others": sorted(others), "drives": drives}), flush=True)
sys.stdin.readline()
"""

Child = subprocess.Popen[str]


@pytest.fixture
def start_child(url: str, condition: Condition) -> Iterator[Callable[[], Child]]:
    """Start a process that is ready to claim the study and all evaluations, in an order of its own."""
    children: list[Child] = []

    def start() -> Child:
        words = [url, json.dumps(condition.to_json()), str(N_KEYS), str(len(children))]
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def go(children: list[Child]) -> list[dict[str, object]]:
    """Let these processes claim, all at once; what each tells."""
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    return [json.loads(child.stdout.readline()) for child in children if child.stdout is not None]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("left_by_a_dead_one", [False, True], ids=["new", "left by a dead process"])
def test_of_processes_that_claim_the_same_exactly_one_gets_each_thing(
    database: Database, study: str, start_child: Callable[[], Child], left_by_a_dead_one: bool
) -> None:
    database.release_leases()
    lost = []
    if left_by_a_dead_one:
        dead = start_child()
        (told,) = go([dead])
        assert told["drives"] is True
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        host = str(told["owner"]).partition("/")[0]
        lost = [1, f"its process {dead.pid} on {host} ended"]
    children = [start_child() for _ in range(3)]
    told_by = go(children)
    ours = [told["ours"] for told in told_by]
    assert all(isinstance(some, dict) for some in ours)
    keys = [key for some in ours if isinstance(some, dict) for key in some]
    assert sorted(keys) == sorted(f"k{i}" for i in range(N_KEYS))
    assert [told["drives"] for told in told_by].count(True) == 1
    owners = {told["owner"] for told in told_by}
    for told, some in zip(told_by, ours, strict=True):
        assert isinstance(some, dict)
        assert all(value == (lost or [0, ""]) for value in some.values())
        assert isinstance(told["others"], list)
        assert set(told["others"]) <= owners - {told["owner"]}


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("reaped", [True, False])
def test_what_a_killed_process_held_is_taken_over_at_once(
    database: Database, study: str, start: Callable[..., str], start_child: Callable[[], Child],
    query: Callable[[str], list[tuple[object, ...]]], reaped: bool,
) -> None:  # fmt: skip
    database.release_leases()
    child = start_child()
    (told,) = go([child])
    assert told["drives"] is True
    child.send_signal(signal.SIGKILL)
    if reaped:
        child.wait()
    else:
        time.sleep(0.5)  # it has ended, and its parent has not asked
    begin = time.monotonic()
    database.claim_study(study)
    start("k0")
    assert time.monotonic() - begin < 5
    held = query("SELECT owner, n_lost, lost_reason FROM evaluation WHERE key = 'k0'")
    host = database.owner.partition("/")[0]
    assert held == [(database.owner, 1, f"its process {child.pid} on {host} ended")]
    assert query("SELECT count(*) FROM evaluation WHERE n_lost > 0") == [(1,)]


def test_a_process_that_lives_keeps_what_it_holds(
    database: Database, study: str, start: Callable[..., str], start_child: Callable[[], Child],
    query: Callable[[str], list[tuple[object, ...]]],
) -> None:  # fmt: skip
    database.release_leases()
    (told,) = go([start_child()])
    start("k0")
    held = query("SELECT owner, n_lost FROM evaluation WHERE key = 'k0'")
    assert held == [(told["owner"], 0)]
