"""Tables of corrections: read back as they were made, and refused for any other run than their own."""

import dataclasses
import hashlib

import numpy as np
import pytest
from safetensors.numpy import save

from autotune.evaluators.correction_table import correction_tensors, read_correction
from autotune.evaluators.schedule_table import TableStore, make_table
from autotune.spaces.cache_correction import CacheCorrection, ChannelAffine
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.condition import Condition
from autotune.spaces.errors import EvaluatorError, ScheduleError, ScheduleMismatchError
from autotune.spaces.noise_schedule import Flow
from autotune.spaces.schedule import Schedule
from autotune.spaces.table_identity import TableIdentity

CONDITION = Condition(
    model="mini-flux", revision="r1", pipeline_class="FluxPipeline", inventory_hash="0" * 64,
    noise_schedule=Flow(mu=0.0, dynamic=False), prediction="velocity", scheduler_class="Euler",
    start_timestep=1000.0, height=32, width=32, batch_size=4, dtype="float32", guidance_scale=1.0, n_steps=3,
    device="cpu",
)  # fmt: skip
BASE = Schedule(n_steps=3, cache=CachePlan.from_array([[0, 0], [1, 0], [1, 1]]))
LINE = ChannelAffine(np.array([0.5, 1.5]), np.array([-1.0, 0.25]))
CORRECTION = CacheCorrection({(1, 0): (LINE, None), (2, 0): (None, None), (2, 1): (None, LINE)})


def table_for(schedule: Schedule = BASE, condition: Condition = CONDITION) -> tuple[Schedule, dict[str, bytes]]:
    identity = TableIdentity.of("cache_correction", schedule, condition)
    digest, data = make_table(identity, correction_tensors(CORRECTION))
    return dataclasses.replace(schedule, cache_correction=digest), {digest: data}


def named(data: bytes) -> tuple[Schedule, dict[str, bytes]]:
    digest = hashlib.sha256(data).hexdigest()
    return dataclasses.replace(BASE, cache_correction=digest), {digest: data}


def test_a_table_is_read_back_and_its_bytes_are_a_function_of_its_figures() -> None:
    schedule, tables = table_for()
    assert table_for() == (schedule, tables)
    read = read_correction(schedule, CONDITION, tables)
    assert read is not None
    same = ChannelAffine(np.ones(2), np.zeros(2))
    expected = {(1, 0): (LINE,), (2, 0): (same,), (2, 1): (None, LINE)}
    assert read.cells.keys() == expected.keys()
    for cell, lines in expected.items():
        for line, found in zip(lines, read.cells[cell], strict=True):
            assert (line is None) == (found is None)
            if line is not None and found is not None:
                assert np.array_equal(found.scale, line.scale)
                assert np.array_equal(found.shift, line.shift)
    assert read_correction(BASE, CONDITION, {}) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "mini-sd"}, "fits one model; it was made for mini-flux, this is mini-sd"),
        ({"revision": "r2"}, "one weights; it was made for r1, this is r2"),
        ({"scheduler_class": "Other"}, "one sampler; .* this is Other"),
        ({"guidance_scale": 3.0}, "one guidance scale; it was made for 1.0, this is 3.0"),
        ({"height": 48}, "one height; it was made for 32, this is 48"),
    ],
)
def test_a_table_of_another_condition_is_refused(change: dict[str, object], words: str) -> None:
    schedule, tables = table_for()
    with pytest.raises(ScheduleMismatchError, match=words):
        read_correction(schedule, dataclasses.replace(CONDITION, **change), tables)  # type: ignore[arg-type]


def test_a_table_of_another_schedule_is_refused() -> None:
    corrected, tables = table_for()
    other = dataclasses.replace(corrected, cache=CachePlan.from_array([[0, 0], [1, 1], [1, 1]]))
    with pytest.raises(ScheduleMismatchError, match="fits one schedule"):
        read_correction(other, CONDITION, tables)
    plan = CachePlan.from_array(np.ones((4, 2)))
    longer = Schedule(n_steps=4, cache=plan, cache_correction=corrected.cache_correction)
    with pytest.raises(ScheduleMismatchError, match="one n steps; it was made for 3, this is 4"):
        read_correction(longer, CONDITION, tables)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"2.calls": np.array([1], np.int32)}, "one of 2 sites"),
        ({"1.calls": np.array([1], np.int32)}, "in which the column cache reads the site"),
        ({"0.calls": np.array([1], np.int32), "0.0.scale": np.ones((1, 2), np.float32)}, "scale and shift of 1 rows"),
        ({"0.calls": np.array([1], np.int32), "0.0.scale": np.ones((2, 2), np.float32),
          "0.0.shift": np.ones((2, 2), np.float32)}, "scale and shift of 1 rows"),
        ({"0.calls": np.array([1], np.int32), "0.0.scale": np.ones((1, 2), np.float32),
          "0.0.shift": np.full((1, 2), np.nan, np.float32)}, "must be finite"),
        ({"0.0.scale": np.ones((1, 2), np.float32)}, "tensors of no site"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_the_plan_are_refused(tensors: dict[str, np.ndarray], words: str) -> None:
    digest, data = make_table(TableIdentity.of("cache_correction", BASE, CONDITION), tensors)
    with pytest.raises(ScheduleError, match=words):
        read_correction(dataclasses.replace(BASE, cache_correction=digest), CONDITION, {digest: data})


@pytest.mark.parametrize("data", [b"no table", save({"x": np.ones(2)}), save({"x": np.ones(2)}, {"autotune": "{}"})])
def test_a_file_that_is_no_table_is_refused(data: bytes) -> None:
    schedule, tables = named(data)
    with pytest.raises(ScheduleError, match="export the schedule again"):
        read_correction(schedule, CONDITION, tables)


class Artifacts:
    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def save(self, name: str, data: bytes, kind: str) -> None:
        self.kept[name] = data

    def load(self, name: str) -> bytes | None:
        return self.kept.get(name)


def test_workers_find_tables_by_hash_among_the_artifacts() -> None:
    schedule, tables = table_for()
    (digest, data), artifacts = next(iter(tables.items())), Artifacts()
    TableStore(CONDITION, artifacts).keep(digest, data)
    assert TableStore(CONDITION, artifacts).of(schedule) == tables
    with pytest.raises(EvaluatorError, match="must be among the artifacts"):
        TableStore(CONDITION, None).of(schedule)
