"""The schedule file: one JSON object that carries a schedule, the condition it is valid for, and what was measured.

The format is published as `schedule.schema.json`. Reading is strict: an unknown key, a wrong length, a non-finite
number, a formula without its history, a solver that is no program under the condition or a bad hash is an error that
names the field and the remedy. Cache actions are packed in as few bits per cell as the file's `actions` need, most
significant bit first, row-major, in base64. Tables that the schedule names lie beside it, see
`autotune.spaces.table_files`.
"""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from autotune.spaces.atomic_write import write_atomically
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.cache_policy import policy_from_json
from autotune.spaces.call_alignment import noise_share
from autotune.spaces.condition import Condition, condition_from_json
from autotune.spaces.errors import ScheduleError
from autotune.spaces.guidance_column import guidance_from_json, guidance_to_json
from autotune.spaces.program_correction import correction_from_json
from autotune.spaces.schedule import TABLE_COLUMNS, Schedule, points_for_row, schedule_hash
from autotune.spaces.schedule_json import tables_from_json
from autotune.spaces.solver_json import step_from_object, step_to_object
from autotune.spaces.solver_program import compile_program
from autotune.spaces.solver_row import SolverRow
from autotune.spaces.strict_json import check_keys, parse_strict
from autotune.spaces.table_files import read_tables, write_tables

MAX_START_GAP = 0.2
"""By how much the share of noise at the first call may differ from that at the condition's start."""

SCHEMA_VERSION = 1
SCHEMA_PATH = Path(__file__).with_name("schedule.schema.json")

_TOP = ("schema_version", "hash", "schedule", "condition", "measured", "provenance")
_SOLVER_COLUMNS = ("time", "solver", "compensation", "start", "correction")
_PLANS = ("cache", "unconditional_cache")
_COLUMNS = ("n_steps", *_SOLVER_COLUMNS, *_PLANS, "guidance", "policy", *TABLE_COLUMNS)
_CACHE = ("n_calls", "n_sites", "actions", "packed")
_ACTIONS = [action.name.lower() for action in CacheAction]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleFile:
    """The content of a schedule file; `schedule` is canonical. `measured` and `provenance` hold JSON types only.

    `tables` are the contents of the tables that the schedule names, by their SHA-256.
    """

    schedule: Schedule
    condition: Condition
    measured: Mapping[str, object] = field(default_factory=dict)
    provenance: Mapping[str, object] = field(default_factory=dict)
    tables: Mapping[str, bytes] = field(default_factory=dict)


def save_schedule_file(path: str | Path, file: ScheduleFile) -> None:
    """Write a schedule file, whole or not at all, and before it the tables that it names, each in a file beside it.

    Raises:
        ScheduleError: a number in `measured` or `provenance` is not finite, or a table is missing.
        StorageError: the file can't be written.
    """
    data = {
        "schema_version": SCHEMA_VERSION,
        "hash": schedule_hash(file.schedule),
        "schedule": _columns_to_json(file.schedule),
        "condition": file.condition.to_json(),
        "measured": dict(file.measured),
        "provenance": dict(file.provenance),
    }
    try:
        text = json.dumps(data, indent=1, allow_nan=False)
    except ValueError as error:
        raise ScheduleError(f"a schedule file holds finite numbers only: {error}") from error
    write_tables(Path(path), file.schedule, file.tables)
    write_atomically(Path(path), text.encode() + b"\n")


def load_schedule_file(path: str | Path) -> ScheduleFile:
    """Read and check a schedule file, with its tables.

    Raises:
        ScheduleError: a file is missing, unreadable or breaks a rule; the message names the field.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise ScheduleError(
            f"the schedule file {path} can't be read: {error.strerror or error}; check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise ScheduleError(f"{path} is not a schedule file: it is not UTF-8 text; export it again") from error
    try:
        file = parse_schedule_file(text)
        return replace(file, tables=read_tables(Path(path), file.schedule))
    except ScheduleError as error:
        raise ScheduleError(f"{path}: {error}") from error


def parse_schedule_file(text: str) -> ScheduleFile:
    """The content of a schedule file's text, without tables; see `load_schedule_file`."""
    data = parse_strict(text, remedy="the file is truncated or was edited: export it again")
    if not isinstance(data, dict):
        raise ScheduleError(f"a schedule file holds one JSON object; got {type(data).__name__}")
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ScheduleError(
            f"schema_version must be {SCHEMA_VERSION}; got {version!r}: "
            "read it with the version of diffusion-autotune that wrote it, or a newer one"
        )
    check_keys(data, "", _TOP, required=_TOP)
    for name in ("schedule", "condition", "measured", "provenance"):
        if not isinstance(data[name], dict):
            raise ScheduleError(f"{name} must be an object; got {type(data[name]).__name__}")
    schedule = _columns_from_json(data["schedule"])
    condition = condition_from_json(data["condition"])
    _check_solver(schedule, condition)
    _check_start(schedule, condition)
    if data["hash"] != schedule_hash(schedule):
        raise ScheduleError(
            f"hash must be the SHA-256 of the schedule, {schedule_hash(schedule)[:12]}...; got "
            f"{str(data['hash'])[:12]}...: "
            "the schedule was edited after it was measured; export it again"
        )
    return ScheduleFile(
        schedule=schedule,
        condition=condition,
        measured=data["measured"],
        provenance=data["provenance"],
    )


def _columns_to_json(schedule: Schedule) -> dict[str, object]:
    data: dict[str, object] = {"n_steps": schedule.n_steps}
    if schedule.time is not None:
        data["time"] = list(schedule.time)
    if schedule.solver is not None:
        data["solver"] = [step_to_object(step) for step in schedule.solver]
    if schedule.compensation is not None:
        data["compensation"] = list(schedule.compensation)
    if schedule.start is not None:
        data["start"] = schedule.start
    if schedule.correction is not None:
        data["correction"] = schedule.correction.to_json()
    for name in _PLANS:
        if (plan := getattr(schedule, name)) is not None:
            data[name] = _cache_to_json(plan)
    if schedule.guidance is not None:
        data["guidance"] = guidance_to_json(schedule.guidance)
    if schedule.policy is not None:
        data["policy"] = schedule.policy.to_json()
    return data | schedule.tables


def _columns_from_json(data: dict[str, object]) -> Schedule:
    check_keys(data, "schedule.", _COLUMNS, required=("n_steps",))
    guidance = _list(data, "guidance")
    solver = _list(data, "solver")
    n_steps = data["n_steps"]
    if isinstance(n_steps, bool) or not isinstance(n_steps, int):
        raise ScheduleError(f"schedule.n_steps must be a positive integer; got {n_steps!r}")
    return Schedule(
        n_steps=n_steps,
        time=_numbers(data, "time"),
        solver=None if solver is None else tuple(_step_from_json(step, i) for i, step in enumerate(solver)),
        compensation=_numbers(data, "compensation"),
        start=_number(data["start"], "start") if "start" in data else None,
        correction=correction_from_json(data["correction"]) if "correction" in data else None,
        cache=_plan(data, "cache"),
        unconditional_cache=_plan(data, "unconditional_cache"),
        guidance=None if guidance is None else guidance_from_json(guidance),
        policy=policy_from_json(data["policy"]) if "policy" in data else None,
        **tables_from_json(data),
    )


def _check_solver(schedule: Schedule, condition: Condition) -> None:
    """Refuse what a canonical schedule does not have and what is no program under the condition."""
    if schedule.time is None or schedule.solver is None:
        return
    for i, row in enumerate(schedule.solver):
        n_points = points_for_row(schedule.solver, i, schedule.time)
        if row.n_points > n_points:
            raise ScheduleError(
                f"schedule.solver[{i}] can read at most {n_points} earlier outputs; got {row.n_points} at order "
                f"{row.order}; lower the order, or export the file again"
            )
    if schedule.solver[-1].corrector:
        raise ScheduleError(
            "the last row of schedule.solver must have corrector false: no network call follows; export the file again"
        )
    compile_program(schedule, condition.noise_schedule, condition.prediction)


def _check_start(schedule: Schedule, condition: Condition) -> None:
    """Refuse a solver that takes the starting noise for that of another level.

    By a little it may: samplers that round their grids begin lower in fewer steps, with the same noise.
    """
    if schedule.time is None:
        return
    name, level = ("time[0]", schedule.time[0]) if schedule.start is None else ("start", schedule.start)
    shares = [float(noise_share(condition.noise_schedule, (t,))[0]) for t in (level, condition.start_timestep)]
    if abs(shares[0] - shares[1]) > MAX_START_GAP:
        raise ScheduleError(
            f"schedule.{name} must be the level of the starting noise, {condition.start_timestep:g}; got {level:g}: a "
            "first call below it needs schedule.start, an analytic first step from there"
        )


def _step_from_json(data: object, i: int) -> SolverRow:
    try:
        return step_from_object(data)
    except ScheduleError as error:
        raise ScheduleError(f"schedule.solver[{i}]: {error}") from error


def _plan(data: Mapping[str, object], name: str) -> CachePlan | None:
    return _cache_from_json(data[name], f"schedule.{name}") if name in data else None


def _cache_to_json(plan: CachePlan) -> dict[str, object]:
    actions = _ACTIONS[: max(2, int(plan.table.max()) + 1)]
    bits = np.unpackbits(plan.table.reshape(-1, 1), axis=1)[:, -_n_bits(actions) :]
    packed = base64.b64encode(np.packbits(bits).tobytes()).decode()
    return {"n_calls": plan.n_calls, "n_sites": plan.n_sites, "actions": actions, "packed": packed}


def _cache_from_json(data: object, where: str) -> CachePlan:
    if not isinstance(data, dict):
        raise ScheduleError(f"{where} must be an object; got {type(data).__name__}")
    check_keys(data, f"{where}.", _CACHE, required=_CACHE)
    for name in ("n_calls", "n_sites"):
        if isinstance(data[name], bool) or not isinstance(data[name], int) or data[name] < 1:
            raise ScheduleError(f"{where}.{name} must be a positive integer; got {data[name]!r}")
    actions = data["actions"]
    if not isinstance(actions, list) or len(actions) < 2 or actions != _ACTIONS[: len(actions)]:
        raise ScheduleError(f"{where}.actions must be two or more of {_ACTIONS}, in order; got {actions!r}")
    n_bits = _n_bits(actions)
    try:
        packed = base64.b64decode(str(data["packed"]), validate=True)
    except ValueError as error:
        raise ScheduleError(f"{where}.packed must be base64 ({error}); export the file again") from error
    n_cells = data["n_calls"] * data["n_sites"]
    if len(packed) != math.ceil(n_cells * n_bits / 8):
        raise ScheduleError(
            f"{where}.packed must hold {math.ceil(n_cells * n_bits / 8)} bytes for {data['n_calls']} x "
            f"{data['n_sites']} cells; got {len(packed)}: export the file again"
        )
    bits = np.unpackbits(np.frombuffer(packed, np.uint8))
    if bits[n_cells * n_bits :].any():
        raise ScheduleError(f"{where}.packed must end in zero bits; export the file again")
    cells = bits[: n_cells * n_bits].reshape(n_cells, n_bits) @ (1 << np.arange(n_bits)[::-1])
    if cells.max() >= len(actions):
        raise ScheduleError(
            f"the cells of {where}.packed must be below {len(actions)}, the number of actions; got {cells.max()}"
        )
    return CachePlan(data["n_calls"], data["n_sites"], cells.astype(np.uint8).tobytes())


def _n_bits(actions: list[str]) -> int:
    return math.ceil(math.log2(len(actions)))


def _list(data: Mapping[str, object], name: str) -> list[object] | None:
    value = data.get(name, [])
    if not isinstance(value, list):
        raise ScheduleError(f"schedule.{name} must be a list; got {type(value).__name__}")
    return value if name in data else None


def _numbers(data: Mapping[str, object], name: str) -> tuple[float, ...] | None:
    values = _list(data, name)
    return None if values is None else tuple(_number(value, f"{name}[{i}]") for i, value in enumerate(values))


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ScheduleError(f"schedule.{name} must be a number; got {value!r}")
    return float(value)
