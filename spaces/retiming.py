"""A schedule taken over to a run with other network calls: another step count, time shift or sampler."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan, cell_use
from autotune.spaces.call_alignment import (
    Array,
    Calls,
    Mask,
    fractional_calls,
    nearest_calls,
    noise_share,
    spread_refreshes,
)
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.guidance_column import GuidanceAction, GuidanceRow, n_differences
from autotune.spaces.inventory import Inventory
from autotune.spaces.noise_schedule import Flow, KnownNoise
from autotune.spaces.policy_retiming import retimed_policy
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.solver_row import SolverRow
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.time_grid import shift_flow_times


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLevels:
    """The model timesteps of a run's network calls, what they stand for, and the noise level that its noise belongs to.

    For a schedule with a column `time`, `times` are that column.
    """

    noise: KnownNoise
    start: float
    times: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retimed:
    """A canonical schedule for the other run; `remarks` are sentences on what it does not take along."""

    schedule: Schedule
    remarks: tuple[str, ...] = ()


def retime(schedule: Schedule, inventory: Inventory, source: RunLevels, target: RunLevels, n_steps: int) -> Retimed:
    """The schedule for a run of `n_steps` steps; the same steps and levels give the same canonical schedule.

    Network calls are matched by noise level (`autotune.spaces.call_alignment`), not by index. A column `time` keeps its
    first and last level, and moves with the time shift of a flow as a pipeline's own grid does; its solver rows are
    those of the nearest source rows, of lower order where history lacks, multistep where they were single-step; ratios
    are interpolated. Cache plan, guidance, policy: `retimed_plan`, `retimed_guidance`, `retimed_policy`.

    Args:
        schedule: a schedule of the source.
        inventory: the sites, which both sides have.
        source: levels of the source's calls.
        target: levels of the calls of the target's own sampler at `n_steps`; for a schedule with a column `time` only
            noise and start count.
        n_steps: steps of the result.

    Raises:
        ScheduleMismatchError: the columns do not fit the levels, or the target's process is of another kind.
        ScheduleError: the plan does not fit the inventory, or the result breaks a rule.
    """
    n_calls = len(source.times)
    _check_rows(schedule, n_calls)
    remarks = []
    if schedule.time is None:
        result = Schedule(n_steps=n_steps)
        levels = noise_share(target.noise, target.times)
    else:
        result, levels = _retimed_solver(schedule, source, target, n_steps)
        if schedule.correction is not None and result.correction is None:
            remarks.append(
                "corrections to a solver's coefficients hold for their own steps only and are left out; "
                "fit them again with --family solver-distill"
            )
    if schedule.tables:
        remarks.append(
            f"tables hold for their own run only; {', '.join(schedule.tables)} is left out: fit it again with --correct"
        )
    at = fractional_calls(noise_share(source.noise, source.times), levels)
    plans = [
        None if plan is None else retimed_plan(plan, inventory, at, len(levels))
        for plan in (schedule.cache, schedule.unconditional_cache)
    ]
    guidance = None if schedule.guidance is None else retimed_guidance(schedule.guidance, at, len(levels))
    policy = None if schedule.policy is None else retimed_policy(schedule.policy, at, len(levels))
    if schedule.policy is not None and (len(levels) != n_calls or policy != schedule.policy):
        remarks.append(
            "the policy's guards stand at their noise levels, and what else it compares with is taken over as it is; "
            "tune it again with --family policies"
        )
    result = replace(result, cache=plans[0], unconditional_cache=plans[1], guidance=guidance, policy=policy)
    return Retimed(schedule=canonical_schedule(result, inventory), remarks=tuple(remarks))


def _check_rows(schedule: Schedule, n_calls: int) -> None:
    rows = {
        "cache": None if schedule.cache is None else schedule.cache.n_calls,
        "guidance": None if schedule.guidance is None else len(schedule.guidance),
        "policy": None if schedule.policy is None else schedule.policy.n_calls,
    }
    for name, n_rows in rows.items():
        if n_rows not in (None, n_calls):
            raise ScheduleMismatchError(
                f"the column {name} must have a row for each of the {n_calls} network calls of the run that it was "
                f"made for; got {n_rows}: the sampler was another one; export the schedule again"
            )


def retimed_plan(plan: CachePlan, inventory: Inventory, at: Array, n_calls: int) -> CachePlan:
    """The cache plan for `n_calls` calls, among which the source's lie at the fractional indices `at`.

    Each site refreshes in the same share of calls, to within one, where `spread_refreshes` places them. Sites go from
    the outside in: first the calls in which anything refreshes at all, then each site among the calls in which its
    parent runs. So sites that refresh together still do, no value inside one that is read is refreshed in vain, and
    nothing that a parent needs goes stale while the parent runs. Other calls do what the nearest source call does that
    reads the site.
    """
    use = cell_use(plan, inventory)
    cached: Mask = np.asarray(use.reads.any(axis=0))
    active: Mask = np.asarray(use.runs[:, cached].any(axis=1))
    top = np.flatnonzero(active), spread_calls(at, np.arange(plan.n_calls), active, np.arange(n_calls))
    clocks: dict[int, tuple[Calls, Calls]] = {}
    refreshes: dict[int, Calls] = {}
    known: dict[tuple[bytes, bytes, bytes], Calls] = {}
    table = np.full((n_calls, plan.n_sites), CacheAction.RECOMPUTE, np.uint8)
    for site in np.concatenate([level.sites for level in inventory.tree.levels]).tolist():
        runs, parent = use.runs[:, site], inventory.sites[site].parent
        if parent is None:
            clock = top
        elif cached[parent] and (runs <= use.runs[:, parent]).all():
            clock = np.flatnonzero(use.runs[:, parent]), refreshes[parent]
        else:  # the parent always runs; or this feeds it, and refreshes while it is read, for a later forecast
            clock = clocks[parent]
        clocks[site] = clock
        if not cached[site]:
            continue
        key = (clock[0].tobytes(), runs.tobytes(), clock[1].tobytes())
        if key not in known:
            known[key] = spread_calls(at, clock[0], runs, clock[1])
        refreshes[site] = known[key]
        table[:, site] = plan.table[nearest_calls(at, np.flatnonzero(use.reads[:, site]), n_calls), site]
        table[known[key], site] = CacheAction.RECOMPUTE
    return CachePlan.from_array(table)


def spread_calls(at: Array, old: Calls, fresh: Mask, new: Calls) -> Calls:
    """`spread_refreshes` among some of the calls: the source's `old` ones, and the target's `new` ones, of which some.

    Args:
        at: fractional target index of every source call, (n_source,).
        old: source calls, rising; the first is call 0 or the list is empty.
        fresh: which source calls refresh, (n_source,).
        new: target calls, rising.
    """
    if not len(old) or not len(new):
        return new[:0]
    position = np.interp(at[old], np.append(new, new[-1] + 1.0), np.arange(len(new) + 1.0))
    position[0] = 0.0  # a run begins with a refresh, wherever its first level lies
    return np.asarray(new[spread_refreshes(position, fresh[old], len(new))])


def retimed_guidance(column: Sequence[GuidanceRow], at: Array, n_calls: int) -> tuple[GuidanceRow, ...]:
    """The guidance column for `n_calls` calls, among which the source's lie at the fractional indices `at`.

    Calls that run both branches are spread as refreshes are. Others take the row of the nearest source call that
    leaves a branch out; where that reads more differences than are there it is STORED, or CONDITIONAL if there is none.
    """
    both = np.array([row is GuidanceAction.BOTH for row in column])
    fresh = spread_refreshes(at, both, n_calls)
    others = np.flatnonzero(~both)
    rows: list[GuidanceRow] = []
    for call in range(n_calls):
        if fresh[call] or not len(others):
            rows.append(GuidanceAction.BOTH)
            continue
        row, n_both = column[nearest_calls(at - call, others, 1)[0]], int(fresh[:call].sum())
        if n_differences(row) and not n_both:
            row = GuidanceAction.CONDITIONAL
        rows.append(GuidanceAction.STORED if isinstance(row, tuple) and len(row) > n_both else row)
    return tuple(rows)


def _retimed_solver(schedule: Schedule, source: RunLevels, target: RunLevels, n_steps: int) -> tuple[Schedule, Array]:
    """The columns of the solver, and the `noise_share` of the new calls on the source's side."""
    times, solver = schedule.solver_columns
    if type(source.noise) is not type(target.noise):
        raise ScheduleMismatchError(
            f"a solver column moves between noise schedules of one kind; it was made for {source.noise}, the model has "
            f"{target.noise}: transfer a schedule without the columns time and solver"
        )
    if n_steps == schedule.n_steps:
        grid, correction = times, schedule.correction
        compensation = schedule.compensation
    else:
        first = [i for i in range(len(times)) if i == 0 or times[i] < times[i - 1]]
        index = np.linspace(0.0, len(first) - 1.0, n_steps)
        grid, correction = _between(source.noise, tuple(times[i] for i in first), n_steps), None
        solver = tuple(_multistep(solver[first[i]]) for i in np.floor(index + 0.5).astype(int))
        ratios = None if schedule.compensation is None else np.array(schedule.compensation)[first]
        compensation = None if ratios is None else tuple(np.interp(index, np.arange(len(first)), ratios).tolist())
    moved = _moved(source, target, (*(() if schedule.start is None else (schedule.start,)), *grid))
    result = Schedule(
        n_steps=n_steps,
        time=moved[-n_steps:],
        solver=solver,
        compensation=compensation,
        start=None if schedule.start is None else moved[0],
        correction=correction if moved[-n_steps:] == times else None,
    )
    return result, noise_share(source.noise, grid)


def _between(noise: KnownNoise, times: tuple[float, ...], n: int) -> tuple[float, ...]:
    """`n` levels along a grid, from its first to its last level; from a single level on down to the clean end."""
    share = noise_share(noise, times)
    if len(times) == 1:
        share = share[0] * (1.0 - np.arange(n) / n)
    else:
        share = np.interp(np.linspace(0.0, len(times) - 1.0, n), np.arange(len(times)), share)
    grid = noise.t_from_lam(np.log1p(-share) - np.log(share)).tolist()
    grid[0] = times[0]
    if n > 1 and len(times) > 1:
        grid[-1] = times[-1]
    return tuple(grid)


def _moved(source: RunLevels, target: RunLevels, times: tuple[float, ...]) -> tuple[float, ...]:
    """Timesteps of the target's noise schedule; what is at the start of the one run is at the start of the other."""
    old, new = source.noise, target.noise
    if isinstance(old, Flow) and isinstance(new, Flow) and old.n_train == new.n_train:
        moved = times if old.mu == new.mu else shift_flow_times(times, new.mu - old.mu, n_train=old.n_train)
    else:
        moved = times if old == new else tuple(new.t_from_lam(old.lam(times)).tolist())
    return tuple(target.start if t == source.start else m for t, m in zip(times, moved, strict=True))


def _multistep(row: SolverRow) -> SolverRow:
    return replace(row, origin=0) if isinstance(row, SolverStep) else row
