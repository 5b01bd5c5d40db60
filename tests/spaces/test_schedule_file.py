import base64
import json
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import jsonschema
import numpy as np
import pytest
from hypothesis import strategies as st

from autotune.spaces.bdia_step import BdiaStep
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.condition import Condition
from autotune.spaces.errors import ScheduleError, StorageError
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.momentum_step import MomentumStep
from autotune.spaces.noise_schedule import Flow
from autotune.spaces.schedule import Schedule, schedule_to_json
from autotune.spaces.schedule_file import (
    SCHEMA_PATH,
    ScheduleFile,
    load_schedule_file,
    parse_schedule_file,
    save_schedule_file,
)
from autotune.spaces.schedule_json import schedule_from_json
from autotune.spaces.solver_row import SolverRow
from autotune.spaces.solver_step import SolverStep

CONDITION = Condition(
    model="mini-flux",
    revision="abc",
    pipeline_class="FluxPipeline",
    inventory_hash="0" * 64,
    noise_schedule=Flow(mu=0.5, dynamic=True),
    prediction="velocity",
    scheduler_class="FlowMatchEulerDiscreteScheduler",
    start_timestep=1000.0,
    height=32,
    width=32,
    batch_size=16,
    dtype="float32",
    guidance_scale=1.0,
    n_steps=20,
    device="cpu",
    versions=(("torch", "2.13.0"),),
)
PUBLISHED = jsonschema.Draft202012Validator(json.loads(SCHEMA_PATH.read_text()))
FIRST = SolverStep(view="velocity", domain="sigma", order=1)
STEP = SolverStep(view="velocity", domain="sigma", order=2)
ROWS: tuple[SolverRow, ...] = (
    FIRST,
    STEP,
    MomentumStep(method="hb", order=3, beta=0.5),
    MomentumStep(method="ghvb", order=2, beta=0.25),
    BdiaStep(gamma=0.125),
    SolverStep(
        view="data",
        domain="lambda",
        order=3,
        relaxation="b2",
        slope_points=1,
        slope=0.9,
        curvature=1.2,
        state_gain=0.98,
        output_gain=1.01,
        origin=2,
    ),
)


def full_schedule() -> Schedule:
    rng = np.random.default_rng(0)
    return Schedule(
        n_steps=3,
        time=(1000.0, 700.0 / 3.0, 0.1),
        solver=(FIRST, STEP, STEP),
        compensation=(1.0, 1.0, 1.1),
        cache=CachePlan.from_array(rng.integers(0, 2, (3, 7))),
        guidance=(GuidanceAction.BOTH, GuidanceAction.STORED, GuidanceAction.CONDITIONAL),
    )


def full_file() -> ScheduleFile:
    return ScheduleFile(
        schedule=full_schedule(), condition=CONDITION, measured={"speedup": 2.0}, provenance={"study": "s"}
    )


def kept_in_file(schedule: Schedule, path: Path) -> dict[str, Any]:
    """What a file of the schedule holds, once JSON, the file and the published schema have been seen to keep it."""
    assert schedule_from_json(json.loads(json.dumps(schedule_to_json(schedule)))) == schedule
    file = ScheduleFile(schedule=schedule, condition=CONDITION)
    save_schedule_file(path, file)
    assert load_schedule_file(path) == file
    data: dict[str, Any] = json.loads(path.read_text())
    PUBLISHED.validate(data)
    return data


def text_of(tmp_path: Path, file: ScheduleFile) -> str:
    save_schedule_file(tmp_path / "s.json", file)
    return (tmp_path / "s.json").read_text()


def falling_times(n: int, seed: int) -> tuple[float, ...]:
    below = 1.0 + 998.0 * np.random.default_rng(seed).random(n - 1)
    return (CONDITION.start_timestep, *sorted(below.tolist(), reverse=True))


schedules = st.builds(
    lambda n, seed, has_cache, has_guidance, has_time: Schedule(
        n_steps=n,
        time=falling_times(n, seed) if has_time else None,
        solver=(*(*ROWS, *(STEP,) * n)[: n - 1], FIRST if n == 1 else STEP) if has_time else None,
        cache=CachePlan.from_array(np.random.default_rng(seed).integers(0, 2 + seed % 6, (n, 1 + seed % 40)))
        if has_cache
        else None,
        guidance=(GuidanceAction.BOTH,) + (GuidanceAction.STORED,) * (n - 1) if has_guidance else None,
    ),
    st.integers(1, 24),
    st.integers(0, 1000),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


@hypothesis.given(schedule=schedules)
def test_what_is_written_is_what_is_read(schedule: Schedule, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("files") / "s.json"
    file = ScheduleFile(schedule=schedule, condition=CONDITION)
    save_schedule_file(path, file)
    assert load_schedule_file(path) == file
    PUBLISHED.validate(json.loads(path.read_text()))


def test_every_column_survives_and_fits_the_published_schema(tmp_path: Path) -> None:
    text = text_of(tmp_path, full_file())
    assert parse_schedule_file(text) == full_file()
    PUBLISHED.validate(json.loads(text))


def test_a_flux_mask_is_packed_into_some_600_characters(tmp_path: Path) -> None:
    plan = CachePlan.from_array(np.random.default_rng(0).integers(0, 2, (20, 171)))
    file = ScheduleFile(schedule=Schedule(n_steps=20, cache=plan), condition=CONDITION)
    assert len(json.loads(text_of(tmp_path, file))["schedule"]["cache"]["packed"]) == 572


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(data: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for name in parents:
            data = data[int(name)] if isinstance(data, list) else data[name]
        if value is ...:
            del data[last]
        else:
            data[int(last) if isinstance(data, list) else last] = value

    return apply


def rows(*rows: object) -> Callable[[dict[str, Any]], None]:
    """Replace the solver column, from the first row on."""

    def apply(data: dict[str, Any]) -> None:
        data["schedule"]["solver"][: len(rows)] = rows

    return apply


GHVB = {"method": "ghvb", "order": 2, "beta": 0.5}

BAD = {
    "unknown top key": (change("speed", 1), "speed"),
    "unknown column": (change("schedule.cash", []), "schedule.cash"),
    "unknown solver key": (change("schedule.solver.1.beta", 1), r"schedule.solver\[1\]: beta"),
    "missing key": (change("condition", ...), "condition is missing"),
    "newer schema": (change("schema_version", 2), "schema_version must be 1; got 2"),
    "wrong column length": (change("schedule.time", [1000.0, 1.0]), "column time must have one row per step; got 2"),
    "times that rise": (change("schedule.time", [1.0, 2.0, 0.5]), "decrease strictly; got 1.0 then 2.0"),
    "text for a number": (change("schedule.time", [1000.0, "x", 0.5]), r"schedule.time\[1\]"),
    "short mask": (change("schedule.cache.packed", base64.b64encode(b"ab").decode()), "must hold 3 bytes"),
    "unknown action": (change("schedule.cache.actions", ["recompute", "reuse", "guess"]), "two or more of"),
    "cell above the actions": (
        change(
            "schedule.cache",
            {
                "n_calls": 3,
                "n_sites": 1,
                "actions": ["recompute", "reuse", "taylor_1"],
                "packed": base64.b64encode(b"\xc0").decode(),
            },
        ),
        "below 3",
    ),
    "mask that is not base64": (change("schedule.cache.packed", "###"), "base64"),
    "mask with a tail": (change("schedule.cache.packed", base64.b64encode(b"\0\0\xff").decode()), "zero bits"),
    "order 9": (change("schedule.solver.0.order", 9), r"schedule.solver\[0\]: solver order"),
    "order above its history": (
        change("schedule.solver.1.order", 3),
        r"solver\[1\] can read at most 1 earlier outputs; got 2 at order 3; lower",
    ),
    "slope points above the history": (
        change("schedule.solver.1.slope_points", 2),
        "can read at most 1 earlier outputs",
    ),
    "momentum above its history": (rows(GHVB), r"solver\[0\] can read at most 0 earlier outputs; got 1"),
    "velocities of rows without momentum": (change("schedule.solver.2", GHVB), "can read at most 0 earlier outputs"),
    "corrector on the last row": (change("schedule.solver.2.corrector", True), "last row .* must have corrector false"),
    "time above the noise schedule": (change("schedule.time.0", 1000.5), r"time\[0\] must lie in \(0, 1000\]"),
    "clean time": (change("schedule.time.2", 0.0), r"time\[2\] must lie in \(0, 1000\]"),
    "start above the noise schedule": (change("schedule.start", 1001.0), r"start must lie in \(1000, 1000\]; got 1001"),
    "first call below the starting noise": (
        change("schedule.time.0", 500.0),
        r"time\[0\] must be the level of the starting noise, 1000; got 500: .* needs schedule.start",
    ),
    "start of another run": (
        change("condition.start_timestep", 700.0),
        r"time\[0\] must be the level of the starting noise, 700; got 1000",
    ),
    "repeated time": (change("schedule.time.1", 1000.0), "decrease strictly; got 1000.0 then 1000.0"),
    "noise in sigma on a flow": (change("schedule.solver.1.view", "noise"), "no sigma-domain form on a flow"),
    "unknown method": (rows({"method": "nt", "order": 1, "beta": 1.0}), "method must be one of hb, ghvb, bdia, or ab"),
    "momentum with a view": (rows(GHVB | {"view": "data"}), r"solver\[0\]: view is not a known key"),
    "momentum without beta": (rows({"method": "hb", "order": 1}), r"solver\[0\]: beta is missing"),
    "beta of zero": (rows(GHVB | {"beta": 0}), r"beta must be a number in \(0, 1\]; got 0"),
    "momentum of order 5": (rows(GHVB | {"order": 5}), "momentum order must be an integer in 1..4; got 5"),
    "gamma as text": (rows({"method": "bdia", "gamma": "1"}), r"gamma must be a number in \[0, 1\]; got '1'"),
    "unknown view": (change("schedule.solver.0.view", "score"), "solver view"),
    "unknown guidance": (change("schedule.guidance", ["both", "none", "both"]), r"guidance\[1\]"),
    "edited schedule": (change("schedule.compensation", [1.0, 1.0, 1.2]), "hash must be"),
    "unknown condition field": (change("condition.gpu", "x"), "condition.gpu"),
    "condition of another type": (change("condition.height", "tall"), "condition.height"),
    "unknown noise schedule": (change("condition.noise_schedule.kind", "cosine"), "noise_schedule.kind"),
    "steps of zero": (change("schedule.n_steps", 0), "n_steps must be a positive integer; got 0"),
    "steps as truth": (change("schedule.n_steps", True), "n_steps must be a positive integer"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_file_is_one_error_that_names_the_field(case: str, tmp_path: Path) -> None:
    edit, message = BAD[case]
    data = json.loads(text_of(tmp_path, full_file()))
    edit(data)
    (tmp_path / "bad.json").write_text(json.dumps(data))
    with pytest.raises(ScheduleError, match=message) as caught:
        load_schedule_file(tmp_path / "bad.json")
    assert "bad.json" in str(caught.value)


def test_nan_infinity_truncation_and_doubled_keys_are_errors(tmp_path: Path) -> None:
    text = text_of(tmp_path, full_file())
    with pytest.raises(ScheduleError, match="finite; got NaN"):
        parse_schedule_file(text.replace("1.1", "NaN"))
    with pytest.raises(ScheduleError, match=r"truncated or was edited: export it again"):
        parse_schedule_file(text[: len(text) // 2])
    with pytest.raises(ScheduleError, match="stands twice"):
        parse_schedule_file(text.replace('"schema_version": 1,', '"schema_version": 1, "schema_version": 1,'))
    with pytest.raises(ScheduleError, match="one JSON object"):
        parse_schedule_file("[]")
    (tmp_path / "latin.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ScheduleError, match="UTF-8"):
        load_schedule_file(tmp_path / "latin.json")
    with pytest.raises(ScheduleError, match="can't be read"):
        load_schedule_file(tmp_path / "missing.json")


def test_a_figure_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    file = ScheduleFile(schedule=Schedule(n_steps=2), condition=CONDITION, measured={"psnr": float("inf")})
    with pytest.raises(ScheduleError, match="finite"):
        save_schedule_file(tmp_path / "s.json", file)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    save_schedule_file(path, full_file())
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))  # the kernel refuses to write past 200 bytes
    try:
        with pytest.raises(StorageError, match="nothing was changed"):
            save_schedule_file(path, full_file())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"could not be written: No such file or directory"):
        save_schedule_file(tmp_path / "nowhere" / "s.json", full_file())
