"""A schedule whose guidance branches have a cache plan each: checks, canonical form, costs, retiming."""

import dataclasses
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from autotune.spaces.ablation import without
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan, call_macs
from autotune.spaces.errors import ScheduleError
from autotune.spaces.guidance_column import GuidanceAction, GuidanceRow
from autotune.spaces.retiming import retime
from autotune.spaces.schedule import Schedule, canonical_schedule, schedule_hash, schedule_to_json
from autotune.spaces.schedule_file import ScheduleFile, load_schedule_file, save_schedule_file
from autotune.spaces.schedule_json import schedule_from_json
from autotune.spaces.schedule_macs import schedule_macs

from .test_cost_model import INVENTORY, MODEL
from .test_retiming import ONE, own
from .test_schedule_file import CONDITION, PUBLISHED

BOTH, STORED, ALONE = GuidanceAction.BOTH, GuidanceAction.STORED, GuidanceAction.CONDITIONAL


def plan(*rows: str) -> CachePlan:
    """A digit per site."""
    return CachePlan.from_array(np.array([[int(digit) for digit in row] for row in rows]))


def branches(cache: CachePlan, other: CachePlan, guidance: tuple[GuidanceRow, ...] | None = None) -> Schedule:
    return Schedule(n_steps=cache.n_calls, cache=cache, unconditional_cache=other, guidance=guidance)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ScheduleError, match="unconditional_cache needs the column cache"):
        Schedule(n_steps=2, unconditional_cache=plan("0", "1"))
    with pytest.raises(ScheduleError, match="must have the rows and sites of cache, 2 x 1; got 3 x 1"):
        branches(plan("0", "1"), plan("0", "1", "0"))
    with pytest.raises(ScheduleError, match="leave unconditional_cache out"):
        dataclasses.replace(branches(plan("0", "1"), plan("0", "0")), cache_correction="0" * 64)
    with pytest.raises(ScheduleError, match="unconditional_cache needs classifier-free guidance"):
        schedule_macs(branches(plan("000", "100"), plan("000", "000")), INVENTORY, 2, 1)


def test_dead_genes_of_either_branch_go_and_equal_plans_are_one() -> None:
    # The attention inside a block that is read is dead, in the branch that reads the block.
    made = canonical_schedule(branches(plan("000", "100", "000"), plan("000", "000", "010")), INVENTORY)
    assert made.cache == plan("000", "111", "000")
    assert made.unconditional_cache == plan("000", "000", "010")
    one = canonical_schedule(branches(plan("000", "100"), plan("000", "111")), INVENTORY)
    assert one == canonical_schedule(Schedule(n_steps=2, cache=plan("000", "100")), INVENTORY)
    assert canonical_schedule(branches(plan("000", "000"), plan("000", "000")), INVENTORY).cache is None
    alone = canonical_schedule(branches(plan("000", "000"), plan("000", "100")), INVENTORY)
    assert alone.cache == plan("000", "000")
    swapped = canonical_schedule(branches(plan("000", "100"), plan("000", "000")), INVENTORY)
    assert schedule_hash(alone) != schedule_hash(swapped)


def test_a_call_that_drops_the_branch_says_nothing_of_it() -> None:
    column = (BOTH, ALONE, BOTH, BOTH)
    cache = plan("000", "010", "000", "000")
    rows = [("000", row, "100", "000") for row in ("000", "010", "100", "111")]
    made = {canonical_schedule(branches(cache, plan(*other), column), INVENTORY) for other in rows}
    assert len(made) == 1
    first = canonical_schedule(branches(cache, plan("000", "000", "200", "000"), (ALONE, BOTH, BOTH, BOTH)), INVENTORY)
    assert first.unconditional_cache == plan("000", "000", "111", "000")  # one value, of call 1: no line


def test_multiply_accumulates_are_those_of_each_branch() -> None:
    cache, other = plan("000", "100", "000"), plan("000", "010", "001")
    expected = int(call_macs(cache, INVENTORY, 3).sum() + call_macs(other, INVENTORY, 3).sum())
    assert schedule_macs(branches(cache, other), INVENTORY, 3, 2) == expected
    less = schedule_macs(branches(cache, other, (BOTH, BOTH, ALONE)), INVENTORY, 3, 2)
    assert less == expected - int(call_macs(other, INVENTORY, 3)[2])


def test_each_branch_takes_the_time_of_its_own_call() -> None:
    schedule = branches(plan("000", "000"), plan("000", "010"))
    halves = 6.0 + 0.6 + 1.2 + 1.8
    attention = 0.5 * 0.002  # written in call 0 of the unconditional branch, and read in call 1
    assert MODEL.latency_ms(schedule) == pytest.approx(100.0 + 4 * halves + attention - 1.2 + 0.5 * 0.2)
    dropped = dataclasses.replace(schedule, guidance=(BOTH, ALONE))
    assert MODEL.latency_ms(dropped) == pytest.approx(100.0 + 3 * halves)


def test_each_branch_keeps_half_a_value() -> None:
    schedule = branches(plan("000", "001", "001"), plan("000", "001", "000"))
    assert MODEL.memory.peak_bytes(schedule, INVENTORY) == 40 + 40
    assert MODEL.memory.peak_bytes(dataclasses.replace(schedule, guidance=(BOTH, ALONE, ALONE)), INVENTORY) == 40
    later = branches(plan("000", "001", "000"), plan("000", "000", "001"))  # each is freed before the other is kept
    assert MODEL.memory.peak_bytes(later, INVENTORY) == 40


def test_both_plans_are_re_timed() -> None:
    schedule = branches(plan(*"0101"), plan(*"0111"))
    made = retime(schedule, ONE, own(4), own(8), 8).schedule
    assert made.cache == plan(*"01010101")
    assert made.unconditional_cache == plan(*"01110111")


def test_it_is_one_column_with_the_cache_when_columns_are_taken_away() -> None:
    schedule = branches(plan(*"01"), plan(*"00"))
    assert without(schedule, "cache", ONE, (999.0, 500.0)) == Schedule(n_steps=2)


def test_a_file_keeps_both_and_fits_the_published_schema(tmp_path: Path) -> None:
    schedule = canonical_schedule(branches(plan("000", "100"), plan("000", "020")), INVENTORY)
    assert schedule_from_json(json.loads(json.dumps(schedule_to_json(schedule)))) == schedule
    path = tmp_path / "both.schedule.json"
    condition = dataclasses.replace(CONDITION, n_steps=2)
    save_schedule_file(path, ScheduleFile(schedule=schedule, condition=condition))
    assert load_schedule_file(path).schedule == schedule
    data = json.loads(path.read_text())
    PUBLISHED.validate(data)
    del data["schedule"]["cache"]
    with pytest.raises(jsonschema.ValidationError):
        PUBLISHED.validate(data)
    data["schedule"]["unconditional_cache"]["packed"] = "!"
    path.write_text(json.dumps(data))
    with pytest.raises(ScheduleError, match=r"schedule\.unconditional_cache\.packed must be base64"):
        load_schedule_file(path)


def test_any_action_may_stand_in_either_plan() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        tables = rng.integers(len(CacheAction), size=(2, 6, 3))
        plans = [CachePlan.from_array(table) for table in tables]
        column = tuple([BOTH, ALONE][i] for i in rng.integers(2, size=6))
        made = canonical_schedule(branches(plans[0], plans[1], column), INVENTORY)
        assert canonical_schedule(made, INVENTORY) == made
        assert MODEL.memory.peak_bytes(made, INVENTORY) >= 0
