"""Schedules taken over to other step counts, time shifts and noise schedules."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan, canonical_plan, cell_use, plan_macs
from autotune.spaces.call_alignment import fractional_calls, noise_share, spread_refreshes
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.guidance_column import GuidanceAction, GuidanceRow
from autotune.spaces.inventory import Inventory, Relation, Site
from autotune.spaces.noise_schedule import Flow, VariancePreserving
from autotune.spaces.program_correction import ProgramCorrection
from autotune.spaces.retiming import RunLevels, retime
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import shift_flow_times, shifted_flow, uniform_lambda

from .foreign_inventories import flux_inventory, of_leaves

FLOW = Flow(mu=0.5, dynamic=True)
SD = VariancePreserving(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
BOTH, STORED, LINEAR = GuidanceAction.BOTH, GuidanceAction.STORED, GuidanceAction.LINEAR


def site(name: str, parent: int | None = None, relation: Relation | None = None) -> Site:
    return Site(name=name, block="b", component="c", macs=1, parent=parent, relation=relation)


NESTED = Inventory(
    denoiser_class="X",
    sites=(
        site("hidden"), site("block", 0, Relation.INSIDE), site("out", 1, Relation.INSIDE),
        site("in", 2, Relation.FEEDS), site("other", 0, Relation.INSIDE), site("alone"),
    ),
)  # fmt: skip


def own(n: int, noise: Flow = FLOW) -> RunLevels:
    times = shifted_flow(noise, n)
    return RunLevels(noise=noise, start=times[0], times=times)


def cached(rows: str, *, read: CacheAction = CacheAction.REUSE) -> Schedule:
    """One site, a letter per call: `R` refreshes."""
    table = np.array([[0 if letter == "R" else read] for letter in rows], np.uint8)
    return Schedule(n_steps=len(rows), cache=CachePlan.from_array(table))


ONE = Inventory(denoiser_class="X", sites=(site("a"),))


def pattern(schedule: Schedule) -> str:
    assert schedule.cache is not None
    return "".join("R" if row[0] == CacheAction.RECOMPUTE else "r" for row in schedule.cache.table)


@pytest.mark.parametrize(
    ("rows", "n", "expected"),
    [
        ("Rr" * 10, 30, "Rr" * 15),  # an even rhythm stays even
        ("Rr" * 10, 12, "Rr" * 6),
        ("Rrrr" * 5, 40, "Rrrr" * 10),
        ("R" * 10 + "r" * 10, 30, "R" * 15 + "r" * 15),  # a frozen end stays frozen
        ("R" * 10 + "r" * 10, 12, "R" * 6 + "r" * 6),
        ("RRRRRrrrrRrrrrRrrrrr", 40, "R" * 9 + "rrrrR" * 5 + "r" * 6),
    ],
)
def test_refreshes_keep_their_share_and_their_rhythm(rows: str, n: int, expected: str) -> None:
    assert pattern(retime(cached(rows), ONE, own(len(rows)), own(n), n).schedule) == expected


def test_a_read_does_what_the_nearest_source_call_did() -> None:
    table = np.array([[0], [0], [1], [1], [0], [2], [0], [2]], np.uint8)
    schedule = Schedule(n_steps=8, cache=CachePlan.from_array(table))
    retimed = retime(schedule, ONE, own(8), own(16), 16).schedule.cache
    assert retimed is not None
    rows = retimed.table[:, 0]
    assert set(rows[2:8]) <= {CacheAction.RECOMPUTE, CacheAction.REUSE}
    assert set(rows[11:]) <= {CacheAction.RECOMPUTE, CacheAction.TAYLOR_1}
    assert CacheAction.TAYLOR_1 in rows


def test_calls_are_matched_by_noise_level_and_not_by_index() -> None:
    """A larger shift spends more calls at high noise, so what refreshes up to a level does so for more calls."""
    less, more = Flow(mu=0.0), Flow(mu=1.5)
    schedule = cached("R" * 10 + "rRrrrRrrrr")
    moved = retime(schedule, ONE, own(20, less), own(20, more), 20).schedule
    assert retime(schedule, ONE, own(20, less), own(20, less), 20).schedule == schedule
    level = own(20, less).times[9]
    n_noisier = sum(t >= level for t in own(20, more).times)
    assert n_noisier > 14
    assert pattern(moved) != pattern(schedule)
    last = pattern(moved).rindex("R")
    assert last > 15  # index 15 at the source
    assert own(20, more).times[last] == pytest.approx(own(20, less).times[15], abs=60)


def test_a_level_between_two_calls_lies_between_their_indices() -> None:
    target = noise_share(FLOW, own(10).times)
    at = fractional_calls(noise_share(FLOW, own(20).times), target)
    assert at[0] == 0.0
    assert np.all(np.diff(at) > 0)
    assert np.allclose(at[::2], np.arange(10))
    assert 9.0 < at[-1] < 10.0


def test_a_call_that_repeats_a_timestep_keeps_its_place() -> None:
    times = (981.0, 961.0, 961.0, 941.0, 921.0)
    share = noise_share(SD, times)
    assert np.all(np.diff(share) < 0)
    assert fractional_calls(share, share).tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    levels = RunLevels(noise=SD, start=981.0, times=times)
    schedule = dataclasses.replace(cached("RRRrr"), n_steps=4)
    assert retime(schedule, ONE, levels, levels, 4).schedule == schedule


@given(
    fresh=st.lists(st.booleans(), min_size=1, max_size=60),
    n_calls=st.integers(1, 60),
    stretch=st.floats(0.3, 3.0),
)
def test_the_share_is_kept_whatever_the_pattern(fresh: list[bool], n_calls: int, stretch: float) -> None:
    fresh[0] = True
    at = np.linspace(0.0, 1.0, len(fresh), endpoint=False) ** stretch * n_calls
    chosen = spread_refreshes(at, np.array(fresh), n_calls)
    assert chosen[0]
    assert abs(chosen.sum() - sum(fresh) * n_calls / len(fresh)) <= 0.5 or chosen.sum() == 1


def random_plan(n_calls: int, inventory: Inventory, seed: int) -> CachePlan:
    rng = np.random.default_rng(seed)
    table = rng.integers(0, len(CacheAction), (n_calls, len(inventory)))
    table[rng.random(table.shape) < rng.uniform(0.1, 0.9)] = CacheAction.RECOMPUTE
    return CachePlan.from_array(table)


INVENTORIES = (NESTED, ONE, flux_inventory(2, 3))


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(INVENTORIES), st.integers(2, 24), st.integers(1, 40), st.integers(0, 10_000), st.floats(-1.0, 1.5)
)
def test_random_plans_become_valid_ones(inventory: Inventory, n: int, m: int, seed: int, mu: float) -> None:
    """The result is canonical, no site refreshes for nobody, and outermost sites keep their share of calls."""
    plan = canonical_plan(random_plan(n, inventory, seed), inventory)
    if plan is None:
        return
    schedule = Schedule(n_steps=n, cache=plan)
    retimed = retime(schedule, inventory, own(n), own(m, Flow(mu=mu, dynamic=True)), m).schedule
    assert canonical_schedule(retimed, inventory) == retimed
    assert retime(schedule, inventory, own(n), own(n), n).schedule == schedule
    if retimed.cache is None:
        return
    before, after = cell_use(plan, inventory), cell_use(retimed.cache, inventory)
    for i, one in enumerate(inventory.sites):
        if one.parent is None:
            assert abs(after.runs[:, i].sum() - before.runs[:, i].sum() * m / n) <= 1.5 or after.runs[:, i].sum() == 1
        elif one.relation is Relation.INSIDE:
            assert not (after.runs[:, i] & ~after.runs[:, one.parent]).any()


def test_what_refreshes_together_still_does() -> None:
    """Leaves of a block, and blocks at a third of the rate, which still run within the calls of the faster ones."""
    inventory = flux_inventory(2, 3)
    table = np.ones((20, len(inventory.leaves)), bool)
    table[::2] = False
    slow = [i for i, leaf in enumerate(inventory.leaves) if inventory.sites[leaf].block.startswith("transformer")]
    assert 0 < len(slow) < len(inventory.leaves)
    table[np.ix_([2, 4, 8, 10, 14, 16], slow)] = True
    schedule = canonical_schedule(Schedule(n_steps=20, cache=of_leaves(table, inventory)), inventory)
    for n in (12, 30, 50):
        retimed = retime(schedule, inventory, own(20), own(n), n).schedule
        assert retimed.cache is not None
        runs = cell_use(retimed.cache, inventory).runs[:, list(inventory.leaves)]
        assert len({column.tobytes() for column in runs.T}) == 2
        assert not (runs[:, 0] & ~runs[:, -1]).any()
        assert runs[:, -1].sum() == n // 2


def test_multiply_accumulates_stay_in_proportion() -> None:
    inventory = Inventory(denoiser_class="X", sites=NESTED.sites, total_macs=10)
    for seed in range(20):
        plan = random_plan(20, inventory, seed)
        for n in (12, 50):
            retimed = retime(Schedule(n_steps=20, cache=plan), inventory, own(20), own(n), n).schedule
            share = plan_macs(retimed.cache, inventory, n) / plan_macs(plan, inventory, 20)
            assert share == pytest.approx(n / 20, rel=0.1)


@pytest.mark.parametrize("n", [6, 10, 25])
def test_guidance(n: int) -> None:
    fitted = (0.7, 0.3)
    column: tuple[GuidanceRow, ...] = (BOTH, STORED, BOTH, LINEAR, BOTH, fitted, BOTH, fitted, BOTH, fitted)
    retimed = retime(Schedule(n_steps=10, guidance=column), ONE, own(10), own(n), n).schedule.guidance
    assert retimed is not None
    assert len(retimed) == n
    assert retimed.count(BOTH) == (n + 1) // 2
    assert retimed[-1] == fitted
    assert n != 10 or retimed == column


def test_guidance_that_begins_without_both_branches_still_does() -> None:
    conditional = GuidanceAction.CONDITIONAL
    column = (conditional, conditional, BOTH, BOTH, BOTH, STORED, STORED, conditional)
    retimed = retime(Schedule(n_steps=8, guidance=column), ONE, own(8), own(16), 16).schedule.guidance
    assert retimed is not None
    assert retimed[:4] == (conditional,) * 4
    assert retimed[4:10] == (BOTH,) * 6
    assert retimed[-1] is conditional


@pytest.mark.parametrize("noise", [FLOW, SD], ids=["flow", "vp"])
@pytest.mark.parametrize("n", [1, 2, 5, 8, 13])
def test_a_grid_keeps_its_ends(noise: Flow | VariancePreserving, n: int) -> None:
    start = noise.t_max - 40.0
    times = uniform_lambda(noise, 8, t_start=start, t_end=20.0)
    schedule = canonical_schedule(
        Schedule(n_steps=8, time=times, solver=make_solver("unipc-3", 8, noise), compensation=(1.0,) * 2 + (1.1,) * 6),
        ONE,
    )
    levels = RunLevels(noise=noise, start=start, times=times)
    retimed = retime(schedule, ONE, levels, levels, n).schedule
    assert retimed.time is not None
    assert len(retimed.time) == n
    assert retimed.time[0] == start
    assert n == 1 or retimed.time[-1] == 20.0
    assert n != 8 or retimed == schedule
    assert retimed.compensation is None or all(1.0 <= rho <= 1.1 for rho in retimed.compensation)


def test_a_grid_moves_with_the_shift_of_the_resolution() -> None:
    """As a pipeline's own does, so that a cache plan beside it keeps its rows."""
    times, more = shifted_flow(FLOW, 6), Flow(mu=1.1, dynamic=True)
    plan = cached("RrRrRr").cache
    schedule = Schedule(n_steps=6, time=times, solver=make_solver("ab2", 6, FLOW), cache=plan, start=None)
    source = RunLevels(noise=FLOW, start=times[0], times=times)
    retimed = retime(schedule, ONE, source, RunLevels(noise=more, start=1000.0, times=()), 6).schedule
    assert retimed.time == pytest.approx(shift_flow_times(times, 0.6))
    assert retimed.time == pytest.approx(shifted_flow(more, 6))
    assert retimed.cache == plan


def test_corrections_are_left_out_and_said_so() -> None:
    times = shifted_flow(FLOW, 4)
    rows = tuple((0.1,) * (i + 1) for i in range(4))
    correction = ProgramCorrection(timesteps=(0.0,) * 4, states=rows, outputs=rows)
    schedule = Schedule(n_steps=4, time=times, solver=make_solver("ab2", 4, FLOW), correction=correction)
    levels = RunLevels(noise=FLOW, start=1000.0, times=times)
    same, other = (retime(schedule, ONE, levels, levels, n) for n in (4, 6))
    assert same.schedule.correction == correction
    assert same.remarks == ()
    assert other.schedule.correction is None
    assert "solver-distill" in other.remarks[0]


def test_another_kind_of_process_is_refused() -> None:
    times = shifted_flow(FLOW, 4)
    schedule = Schedule(n_steps=4, time=times, solver=make_solver("ab2", 4, FLOW))
    source = RunLevels(noise=FLOW, start=1000.0, times=times)
    with pytest.raises(ScheduleMismatchError, match="of one kind"):
        retime(schedule, ONE, source, RunLevels(noise=SD, start=999.0, times=()), 4)


def test_rows_of_another_sampler_are_refused() -> None:
    with pytest.raises(ScheduleMismatchError, match=r"row for each of the 5 network calls .* got 4"):
        retime(cached("RrRr"), ONE, own(5), own(8), 8)
