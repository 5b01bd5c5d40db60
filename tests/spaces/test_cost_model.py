from dataclasses import replace

import numpy as np
import pytest

from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_memory import CacheMemory
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.cost_model import CostModel, cost_model_from_bytes
from autotune.spaces.errors import ScheduleError
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.inventory import Inventory, Relation, Site
from autotune.spaces.latency_model import LatencyModel
from autotune.spaces.noise_schedule import Flow
from autotune.spaces.objective import parse_constraint
from autotune.spaces.schedule import Schedule
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

INVENTORY = Inventory(
    denoiser_class="Tiny",
    sites=(
        Site(name="block", block="block", component="block", macs=30),
        Site(name="attn", block="block", component="attn", macs=10, parent=0, relation=Relation.INSIDE),
        Site(name="ff", block="block", component="ff", macs=15, parent=0, relation=Relation.INSIDE),
    ),
    total_macs=40,
)
MODEL = CostModel(
    latency=LatencyModel(
        run_ms=100.0,
        call_ms=10.0,
        half_call_ms=6.0,
        solver_ms=-1.0,
        site_ms=(1.0, 2.0, 3.0),
        half_site_ms=(0.6, 1.2, 1.8),
        read_ms=(0.1, 0.2, 0.4),
        term_ms=(0.01, 0.02, 0.04),
        write_ms=(0.001, 0.002, 0.004),
    ),
    memory=CacheMemory(value_bytes=((40, 20, 80),), order=(1, 2, 0)),
    inventory=INVENTORY,
    n_steps=4,
    n_calls=4,
    batch_size=3,
)


def cached(*rows: list[int], guidance: tuple[GuidanceAction, ...] | None = None) -> Schedule:
    return Schedule(n_steps=len(rows), cache=CachePlan.from_array(np.array(rows)), guidance=guidance)


def test_the_default_run_takes_its_parts_together() -> None:
    assert MODEL.latency_ms(Schedule(n_steps=4)) == pytest.approx(100.0 + 4 * (10.0 + 6.0))
    assert MODEL.relative_latency(Schedule(n_steps=2)) == pytest.approx((100.0 + 2 * 16.0) / (100.0 + 4 * 16.0))
    assert MODEL.cache_bytes(Schedule(n_steps=4)) == 0


def test_reads_forecasts_and_writes_cost_what_they_do() -> None:
    plan = cached([0, 0, 0], [0, 0, 0], [0, CacheAction.TAYLOR_1, 0], [CacheAction.REUSE, 1, 1])
    # Calls 0 and 1 store the attention, calls 1 and 2 nothing else; call 2 the block, which call 3 reads.
    expected = 100.0 + 40.0 + 2 * (6.0 + 0.002) + (1.0 + 0.2 + 2 * 0.02 + 3.0 + 0.001) + 0.1
    assert MODEL.latency_ms(plan) == pytest.approx(expected)


def test_a_dropped_branch_has_its_own_times() -> None:
    column = (GuidanceAction.BOTH, GuidanceAction.STORED, GuidanceAction.CONDITIONAL, GuidanceAction.BOTH)
    plan = Schedule(n_steps=4, guidance=column)
    assert MODEL.latency_ms(plan) == pytest.approx(100.0 + 2 * 16.0 + 2 * (6.0 + 3.6))
    reused = replace(plan, cache=CachePlan.from_array(np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]])))
    assert MODEL.latency_ms(reused) == pytest.approx(100.0 + 2 * 16.0 + 0.001 + 6.0 + 0.5 * 0.1 + 6.0 + 3.6)


def test_a_solver_of_its_own_changes_each_call() -> None:
    grid = uniform_lambda(Flow(mu=0.0, dynamic=False), 3)
    schedule = Schedule(n_steps=3, time=grid, solver=make_solver("euler", 3, Flow(mu=0.0, dynamic=False)))
    assert MODEL.latency_ms(schedule) == pytest.approx(100.0 + 3 * 15.0)


def test_values_are_counted_from_their_write_to_their_last_read() -> None:
    # Attention and feed-forward of call 0 are read in call 1, then the block of call 1 in call 2.
    plan = cached([0, 0, 0], [0, 1, 1], [1, 0, 0], [0, 0, 0])
    assert MODEL.memory.peak_bytes(plan, INVENTORY) == 20 + 80
    # Two values of the feed-forward for a forecast.
    assert MODEL.memory.peak_bytes(cached([0] * 3, [0] * 3, [0, 0, 2], [0] * 3), INVENTORY) == 2 * 80
    assert MODEL.cache_bytes(plan) == 3 * 100


def test_the_unconditional_half_lives_until_a_guided_call_reads_it() -> None:
    column = (GuidanceAction.BOTH, GuidanceAction.CONDITIONAL, GuidanceAction.BOTH, GuidanceAction.BOTH)
    plan = cached([0] * 3, [0] * 3, [0, 0, 1], [0] * 3, guidance=column)
    # Call 1 stores a new conditional half while the old unconditional one waits for call 2.
    assert MODEL.memory.peak_bytes(plan, INVENTORY) == 80
    assert MODEL.memory.peak_bytes(replace(plan, guidance=None), INVENTORY) == 80


def test_differences_of_branches_count_while_they_are_kept() -> None:
    memory = replace(MODEL.memory, difference_bytes=7)
    both, linear = GuidanceAction.BOTH, GuidanceAction.LINEAR
    assert memory.peak_bytes(Schedule(n_steps=4, guidance=(both, both, linear, both)), INVENTORY) == 2 * 7
    # A whole value of call 0 beside the first difference; the second one comes when that value is gone.
    plan = cached([0] * 3, [0, 0, 1], [0] * 3, [0] * 3, guidance=(both, both, linear, both))
    assert memory.peak_bytes(plan, INVENTORY) == 80 + 7
    assert cost_model_from_bytes(replace(MODEL, memory=memory).to_bytes()).memory == memory


def test_limits_that_need_no_run_are_known_before() -> None:
    plan = cached([0, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 0])
    assert MODEL.violates(plan, [parse_constraint("cache-memory<=299")])
    assert not MODEL.violates(plan, [parse_constraint("cache-memory<=300"), parse_constraint("psnr>=90")])
    assert MODEL.violates(plan, [parse_constraint("modelled-latency<=0.9")])


def test_bytes_bring_the_model_back() -> None:
    assert cost_model_from_bytes(MODEL.to_bytes()) == MODEL
    with pytest.raises(ScheduleError, match="measure it again"):
        cost_model_from_bytes(b'{"latency": {}}')
    with pytest.raises(ScheduleError, match="read_ms of a latency model"):
        replace(MODEL.latency, read_ms=(0.0,))
    with pytest.raises(ScheduleError, match="must be finite"):
        replace(MODEL.latency, run_ms=float("nan"))
