"""A schedule file measured again by the command, on the real model, and what it refuses before it loads one."""

import contextlib
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from autotune.cli.main import main
from autotune.evaluators.load import load_model
from autotune.evaluators.worker import Worker
from autotune.search.bench import BLOCK, FIRST_SEED
from autotune.search.settings import HELD_OUT_SEED
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.schedule_file import ScheduleFile, load_schedule_file, save_schedule_file
from autotune.spaces.solvers import make_solver
from autotune.storage.database import Database

from .place import Finished

Call = Callable[..., Finished]

N_DEFAULT, N_STEPS = 6, 3


class Bench(NamedTuple):
    """A schedule file, what the command found of it, what it told meanwhile, and the database that it used."""

    file: Path
    found: dict[str, Any]
    told: list[str]
    storage: str


@pytest.fixture(scope="module")
def benched(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    model = load_model("mini-flux", device="cpu")
    worker = Worker(dataclasses.replace(model, preset=dataclasses.replace(model.preset, n_steps=N_DEFAULT)))
    solver = make_solver("unipc-2", N_STEPS, worker.condition.noise_schedule)
    schedule = canonical_schedule(
        Schedule(n_steps=N_STEPS, time=worker.own_timesteps(N_STEPS), solver=solver), worker.inventory
    )
    figures = {"quality_mean": {"deviation": 0.5}, "speedup": 1.5, "latency_ms": [50.0, 60.0]}
    condition = dataclasses.replace(worker.condition, device="another device")
    file, storage = folder / "a.schedule.json", f"sqlite:///{folder / 'a.db'}"
    save_schedule_file(file, ScheduleFile(schedule=schedule, condition=condition, measured={"held_out": figures}))
    out, told = io.StringIO(), io.StringIO()
    words = ["bench", str(file), "--n-prompts", "2", "--seed", "3", "--repeats", "2", "--storage", storage]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told), pytest.raises(SystemExit) as caught:
        main([*words, "--device", "cpu", "--format", "json"])
    assert not caught.value.code, told.getvalue()
    return Bench(file, json.loads(out.getvalue()), told.getvalue().splitlines(), storage)


def test_the_run_is_that_of_the_file_on_seeds_that_no_study_uses(benched: Bench) -> None:
    default, schedule, *_ = benched.found["rows"]
    assert default["network_calls"] == N_DEFAULT
    assert schedule["network_calls"] == N_STEPS
    first = FIRST_SEED + 3 * BLOCK
    assert first > 100 * HELD_OUT_SEED
    assert benched.found["prompts"] == {
        "from": "the held-out prompts of mini-flux", "number": 2, "first_seed": first, "last_seed": first + 1,
    }  # fmt: skip


def test_the_schedule_is_timed_and_judged_beside_rivals_of_its_own_work(benched: Bench) -> None:
    default, schedule, *_ = benched.found["rows"]
    for row in (default, schedule):
        assert {"latency_ms", "speedup", "deviation", "psnr", "ssim", "alignment"} <= set(row["intervals"])
    assert schedule["deviation"] > 0.0
    assert schedule["speedup"] > default["speedup"]
    tried = {row["label"]: row for row in benched.found["tried"]}
    assert len(tried) >= 4
    same = tried.get(f"unipc-2, own grid, {N_STEPS} steps")
    assert same is None or same["deviation"] == schedule["deviation"]
    rival = next(row for row in (default, *tried.values()) if row["label"] == benched.found["rival"])
    assert schedule["difference"] == pytest.approx(schedule["deviation"] - rival["deviation"])
    assert all(row["deviation"] >= rival["deviation"] for row in tried.values() if row["network_calls"] <= N_STEPS)


def test_it_says_how_far_the_claim_is_and_what_has_changed(benched: Bench) -> None:
    schedule = benched.found["rows"][1]
    assert benched.found["claimed"]["latency_ms"] == 55.0
    assert benched.found["shift"]["deviation"] == pytest.approx(schedule["deviation"] - 0.5)
    assert benched.found["shift"]["speedup"] == pytest.approx(schedule["speedup"] / 1.5)
    assert set(benched.found["differences"]) == {"device"}
    warnings = [line for line in benched.told if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "another device" in warnings[0]
    assert sum("latency" in line and "deviation" in line for line in benched.told) == 2 + len(benched.found["tried"])


def test_it_makes_no_study_and_keeps_the_references(benched: Bench) -> None:
    with Database.open(benched.storage) as database:
        assert database.list_studies() == ()
    names = [path.name for path in benched.file.parent.rglob("*") if path.is_file()]
    assert len(names) >= 2 + 2  # file, database, a reference per prompt


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--model", "mini-flxu"), ("'mini-flxu'", "did you mean mini-flux")),
        (("--prompts", "missing.txt"), ("missing.txt", "readable")),
        (("--n-prompts", "0"), ("number of prompts", "got 0")),
        (("--n-prompts", "99"), ("1 .. 16", "got 99")),
        (("--repeats", "0"), ("repeats", "got 0")),
        (("--seed", "-1"), ("seed", "got -1")),
        (("--metric", "beauty"), ("'beauty'", "clip-score")),
        (("--device", "cudda"), ("'cudda'", "cpu")),
        (("--dtype", "int8"), ("'int8'", "float32")),
        (("--model", "mini-sd"), ("inventory hash", "mini-flux")),
    ],
)
def test_what_is_wrong_is_one_error(
    benched: Bench, words: tuple[str, ...], expected: tuple[str, ...], call: Call
) -> None:
    done = call("bench", benched.file, *words, "--quiet")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    for word in expected:
        assert word in done.err


def test_a_wrong_file_or_one_of_a_folder_model_is_one_error(benched: Bench, call: Call) -> None:
    missing = call("bench", "no.json")
    assert missing.code == 2
    assert "no.json can't be read" in missing.err
    file = load_schedule_file(benched.file)
    condition = dataclasses.replace(file.condition, model="my-own-flux")
    save_schedule_file("own.json", dataclasses.replace(file, condition=condition))
    done = call("bench", "own.json")
    assert (done.code, done.out) == (2, "")
    assert "--model" in done.err
    assert "'my-own-flux'" in done.err
