"""Identity of schedules: what computes the same has the same canonical form, and JSON keeps it."""

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.spaces.bdia_step import BdiaStep
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.errors import ScheduleError
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.inventory import Inventory, Relation, Site
from autotune.spaces.momentum_step import Method, MomentumStep
from autotune.spaces.schedule import Schedule, canonical_schedule, schedule_hash, schedule_to_json
from autotune.spaces.schedule_json import schedule_from_json
from autotune.spaces.solver_row import SolverRow
from autotune.spaces.solver_step import SolverStep

BOTH, STORED, CONDITIONAL = GuidanceAction.BOTH, GuidanceAction.STORED, GuidanceAction.CONDITIONAL
INVENTORY = Inventory(
    denoiser_class="Toy",
    sites=(
        Site(name="block", block="0", component="block", macs=50),
        Site(name="block.attn", block="0", component="attn", macs=20, parent=0, relation=Relation.INSIDE),
        Site(name="out", block="1", component="proj", macs=5),
    ),
    total_macs=60,
)


def step(order: int, *, relaxation: str = "taylor", corrector: bool = False, domain: str = "lambda") -> SolverStep:
    view = "data" if domain == "lambda" else "velocity"
    return SolverStep(view=view, domain=domain, order=order, relaxation=relaxation, corrector=corrector)  # type: ignore[arg-type]


def solved(*steps: SolverRow, compensation: tuple[float, ...] | None = None) -> Schedule:
    n = len(steps)
    return Schedule(n_steps=n, time=tuple(900.0 - i for i in range(n)), solver=steps, compensation=compensation)


def canonical_hash(schedule: Schedule) -> str:
    return schedule_hash(canonical_schedule(schedule, INVENTORY))


views = st.sampled_from([("data", "lambda"), ("noise", "lambda"), ("noise", "sigma"), ("velocity", "sigma")])


@st.composite
def solver_steps(draw: st.DrawFn) -> SolverRow:
    kind = draw(st.sampled_from(["unified", "hb", "ghvb", "bdia"]))
    if kind == "bdia":
        return BdiaStep(gamma=draw(st.floats(0.0, 1.0)))
    if kind != "unified":
        return MomentumStep(method=kind, order=draw(st.integers(1, 4)), beta=draw(st.floats(0.1, 1.0)))  # type: ignore[arg-type]
    view, domain = draw(views)
    return SolverStep(
        view=view,  # type: ignore[arg-type]
        domain=domain,  # type: ignore[arg-type]
        order=draw(st.integers(1, 4)),
        relaxation=draw(st.sampled_from(["taylor", "b1", "b2"])),
        corrector=draw(st.booleans()),
    )


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    n = draw(st.integers(1, 6))
    solved = draw(st.booleans())
    levels = st.lists(st.floats(0.0, 1000.0, allow_subnormal=False), min_size=n, max_size=n, unique=True)
    time = tuple(sorted(draw(levels), reverse=True)) if solved else None
    ratios = st.tuples(*[st.one_of(st.just(1.0), st.floats(-2.0, 2.0))] * n)
    actions = st.tuples(st.just(BOTH), *[st.sampled_from(list(GuidanceAction)) | st.just((0.5,))] * (n - 1))
    width = len(INVENTORY)
    cells = st.lists(st.sampled_from(CacheAction), min_size=n * width, max_size=n * width)
    return Schedule(
        n_steps=n,
        time=time,
        solver=tuple(draw(solver_steps()) for _ in range(n)) if solved else None,
        compensation=draw(st.none() | ratios) if solved else None,
        cache=draw(st.none() | cells.map(lambda c: CachePlan(n, width, bytes(c)))),
        guidance=draw(st.none() | actions),
    )


@given(schedules())
def test_json_brings_back_the_same_schedule_and_hash(schedule: Schedule) -> None:
    read = schedule_from_json(json.loads(json.dumps(schedule_to_json(schedule))))
    assert read == schedule
    assert schedule_hash(read) == schedule_hash(schedule)


@given(schedules())
def test_the_canonical_form_is_final(schedule: Schedule) -> None:
    once = canonical_schedule(schedule, INVENTORY)
    assert canonical_schedule(once, INVENTORY) == once


def test_integer_timesteps_keep_their_hash() -> None:
    schedule = dataclasses.replace(solved(step(1), step(1)), time=(999, 500))
    assert schedule_hash(schedule_from_json(schedule_to_json(schedule))) == schedule_hash(schedule)


def test_the_hash_stays_what_stored_files_and_databases_hold() -> None:
    schedule = Schedule(
        n_steps=2,
        time=(999.0, 0.1 + 0.2),
        solver=(step(1, corrector=True), step(1)),
        cache=CachePlan(2, 3, bytes([0, 0, 0, 1, 1, 0])),
        guidance=(BOTH, STORED),
    )
    assert schedule_hash(schedule) == "5c4f76d648159a7fc64ac730c058dd6e4eb95640a5e1a133f0b6cdea9895b1b1"


def test_both_branches_everywhere_is_no_guidance_column() -> None:
    plain = Schedule(n_steps=3)
    assert canonical_hash(dataclasses.replace(plain, guidance=(BOTH,) * 3)) == canonical_hash(plain)
    assert canonical_hash(dataclasses.replace(plain, guidance=(BOTH, BOTH, STORED))) != canonical_hash(plain)


def test_ratios_of_one_are_no_compensation() -> None:
    steps = (step(1), step(2), step(3), step(2))
    assert canonical_hash(solved(*steps, compensation=(1.0,) * 4)) == canonical_hash(solved(*steps))
    assert canonical_hash(solved(*steps, compensation=(1.0, 1.0, 0.9, 1.0))) != canonical_hash(solved(*steps))


def test_ratios_of_the_first_two_steps_change_nothing() -> None:
    steps = (step(1), step(2), step(3), step(2))
    low, high = (solved(*steps, compensation=(a, 2 * a, 0.9, 1.1)) for a in (0.5, 0.8))
    assert canonical_hash(low) == canonical_hash(high)


@pytest.mark.parametrize("domain", ["lambda", "sigma"])
def test_an_order_that_the_history_can_not_carry_equals_the_one_it_can(domain: str) -> None:
    asked = solved(*[step(4, domain=domain)] * 5)
    got = solved(*[step(order, domain=domain) for order in (1, 2, 3, 4, 4)])
    assert canonical_hash(asked) == canonical_hash(got)
    fewer = solved(*[step(order, domain=domain) for order in (1, 2, 3, 3, 4)])
    assert canonical_hash(asked) != canonical_hash(fewer)


def test_the_last_step_in_lambda_is_of_first_order_and_not_corrected() -> None:
    asked = solved(step(1), step(2), step(2, relaxation="b2", corrector=True))
    assert canonical_hash(asked) == canonical_hash(solved(step(1), step(2), step(1)))


def test_relaxation_counts_only_where_one_difference_estimates_the_derivative() -> None:
    third = solved(step(1), step(2), step(3, relaxation="b1"), step(1))
    assert canonical_hash(third) == canonical_hash(solved(step(1), step(2), step(3), step(1)))
    second = solved(step(1), step(2, relaxation="b1"), step(1))
    assert canonical_hash(second) != canonical_hash(solved(step(1), step(2), step(1)))
    corrected = solved(step(1, relaxation="b1", corrector=True), step(1))
    assert canonical_hash(corrected) != canonical_hash(solved(step(1, corrector=True), step(1)))


def test_momentum_that_has_no_velocity_yet_is_none() -> None:
    def momentum(method: Method, order: int, beta: float) -> MomentumStep:
        return MomentumStep(method=method, order=order, beta=beta)

    asked = solved(
        momentum("ghvb", 3, 0.4), momentum("ghvb", 3, 0.4), step(1), momentum("hb", 4, 0.3), BdiaStep(gamma=0.2)
    )
    got = solved(momentum("hb", 1, 1.0), momentum("ghvb", 2, 0.4), step(1), momentum("hb", 4, 1.0), BdiaStep(gamma=0.2))
    assert canonical_schedule(asked, INVENTORY) == got
    assert canonical_hash(solved(BdiaStep(gamma=0.2))) == canonical_hash(solved(BdiaStep(gamma=0.7)))


def test_a_plan_without_effect_is_no_plan() -> None:
    plain = Schedule(n_steps=2)
    first_row_only = dataclasses.replace(plain, cache=CachePlan(2, 3, bytes([1, 1, 1, 0, 0, 0])))
    assert canonical_hash(first_row_only) == canonical_hash(plain)
    reuse = dataclasses.replace(plain, cache=CachePlan(2, 3, bytes([0, 0, 0, 0, 0, 1])))
    assert canonical_hash(reuse) != canonical_hash(plain)


def test_a_site_inside_a_reused_block_has_no_say() -> None:
    plans = [CachePlan(2, 3, bytes([0, 0, 0, 1, inner, 0])) for inner in (0, 1)]
    hashes = {canonical_hash(Schedule(n_steps=2, cache=plan)) for plan in plans}
    assert len(hashes) == 1


def test_the_smallest_change_of_time_is_another_schedule() -> None:
    schedule = solved(step(1), step(1))
    assert schedule.time is not None
    moved = dataclasses.replace(schedule, time=(schedule.time[0], math.nextafter(schedule.time[1], 0.0)))
    assert canonical_hash(moved) != canonical_hash(schedule)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "missing or unknown: \\['extra'\\]"),
        ({"n_steps": True}, "n_steps must be a positive integer; got True"),
        ({"time": [900.0, "x"]}, r"time\[1\] must be a number; got 'x'"),
        ({"time": 3}, "column time must be a list or null; got int"),
        ({"solver": [["data", "lambda", 1, "taylor"], []]}, r"solver\[0\]: a row must be \[view"),
        ({"solver": [["data", "lambda", 1, "taylor", False], ["data", "lambda", 1, "b9", False]]}, r"solver\[1\]: "),
        ({"solver": [["data", "lambda", 1, "taylor", 0], ["data", "lambda", 1, "taylor", False]]}, "corrector must be"),
        ({"solver": [["data", "lambda", 1, [], False], ["data", "lambda", 1, "taylor", False]]}, r"solver\[0\]: "),
        ({"solver": [["hb", 1], ["bdia", 0.5]]}, r"solver\[0\]: a row of method hb must be \[method, order, beta\]"),
        ({"solver": [["hb", 1, 0.5], ["bdia", 1.5]]}, r"solver\[1\]: BDIA gamma must be a number in \[0, 1\]; got 1.5"),
        ({"cache": [2, 3]}, r"cache must be \[n_calls, n_sites"),
        ({"cache": [2, 1, "0g"]}, "hexadecimal digits; "),
        ({"cache": [2, 1, "00"]}, "needs 2 actions; got 1"),
        ({"guidance": ["both", "none"]}, r"guidance\[1\] must be one of .*; got 'none'"),
    ],
)
def test_json_of_another_form_is_refused_by_field(change: dict[str, object], message: str) -> None:
    data = schedule_to_json(solved(step(1), step(1))) | change
    with pytest.raises(ScheduleError, match=message):
        schedule_from_json(data)


def test_a_missing_column_is_refused() -> None:
    data = schedule_to_json(Schedule(n_steps=1))
    del data["cache"]
    with pytest.raises(ScheduleError, match=r"missing or unknown: \['cache'\]"):
        schedule_from_json(data)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"n_steps": 0}, "positive integer; got 0"),
        ({"time": (3.0, 2.0)}, "time and solver go together"),
        ({"compensation": (1.0, 1.0)}, "compensation needs"),
        ({"time": (2.0, 2.0), "solver": (step(1),) * 2}, "decrease strictly; got 2.0 then 2.0 at step 1"),
        ({"time": (2.0, -1.0), "solver": (step(1),) * 2}, "not be negative"),
        ({"time": (math.nan, 1.0), "solver": (step(1),) * 2}, r"time\[0\] must be a finite number"),
        ({"time": (3.0,), "solver": (step(1),) * 2}, "one row per step; got 1 rows for 2 steps"),
        ({"guidance": (STORED, BOTH)}, r"guidance\[0\] can't be 'stored'"),
        ({"guidance": (BOTH,)}, "one row per network call; got 1 for 2 steps"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(columns: dict[str, object], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        Schedule(**({"n_steps": 2} | columns))  # type: ignore[arg-type]


def test_a_pipeline_that_calls_more_often_than_it_steps_has_a_row_per_call() -> None:
    assert Schedule(n_steps=2, guidance=(BOTH, BOTH, STORED)).guidance is not None


def test_a_last_row_that_would_not_read_the_last_output_is_refused() -> None:
    first = SolverStep(view="noise", domain="lambda", order=1)
    rows = [first, dataclasses.replace(first, order=2, slope_points=1, origin=1)]
    with pytest.raises(ScheduleError, match="must start at its own call, origin 0, in lambda"):
        Schedule(n_steps=2, time=(900.0, 400.0), solver=tuple(rows))
    Schedule(n_steps=2, time=(900.0, 400.0), solver=(rows[0], dataclasses.replace(rows[1], domain="sigma")))
