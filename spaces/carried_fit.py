"""What a fit of times and factors has moved, taken over to a schedule of another number of steps."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError
from autotune.spaces.noise_schedule import Flow, NoiseSchedule
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_row import SolverRow
from autotune.spaces.solver_step import FACTORS, SolverStep

Array = NDArray[np.float64]


def carry_fit(start: Schedule, fitted: Schedule, target: Schedule, noise: NoiseSchedule) -> Schedule:
    """`target` with the moves that led from `start` to `fitted`.

    What few steps get wrong changes little with their number: a fit of 8 steps of mini-flux (10 gradients, 12 prompts)
    leaves .42 of their error; carried to 7 steps, without a run of the network, it leaves .53, and .56 at 9 steps.
    Moves are those of times, in units of the gap in lambda to the next one, and of factors; between rows they are
    interpolated by their share of the way. The first time stays where no analytic step leads to it, and so do rows with
    no factors or with another view or domain than those that moved.

    Args:
        start: a schedule with a solver.
        fitted: the same, with other times and factors.
        target: such a schedule of any number of steps.
        noise: what the timesteps of all three stand for.

    Raises:
        ScheduleError: a schedule has no solver, start and fitted have other lengths, or times would change their order.
    """
    (before, rows), (after, fitted_rows) = start.solver_columns, fitted.solver_columns
    times, target_rows = target.solver_columns
    if len(before) != len(after):
        raise ScheduleError(f"a fit keeps its number of steps; got {len(before)} before and {len(after)} after it")
    (lam, gaps), (fitted_lam, _) = call_gaps(before, noise), call_gaps(after, noise)
    moves = np.column_stack([(fitted_lam - lam) / gaps, _factor_moves(rows, fitted_rows)])
    share, at = np.linspace(0.0, 1.0, len(before)), np.linspace(0.0, 1.0, len(times))
    carried = np.column_stack([np.interp(at, share, column) for column in moves.T])
    target_lam, target_gaps = call_gaps(times, noise)
    moved = noise.t_from_lam(target_lam + target_gaps * carried[:, 0]).tolist()
    moved = [moved[0] if has_free_start(target, noise) else times[0], *moved[1:]]
    first = first_calls(times)
    if any(moved[j] >= moved[i] for i, j in itertools.pairwise(sorted(set(first)))):
        raise ScheduleError(f"the moves of a fit of {len(before)} steps would change the order of {len(times)} times")
    solver = tuple(
        _moved(row, row_moves) if isinstance(row, SolverStep) and row.form == form else row
        for row, row_moves, form in zip(target_rows, carried[:, 1:].tolist(), _forms(rows, at), strict=True)
    )
    return replace(target, time=tuple(moved[i] for i in first), solver=solver)


def call_gaps(times: Sequence[float], noise: NoiseSchedule) -> tuple[Array, Array]:
    """Lambda of the calls, and the gap of each to the next other level: the unit of its moves.

    It is 1 after the last level, whose end lies at infinity.
    """
    lam = np.asarray(noise.lam(np.minimum(times, _top(noise))), np.float64)
    levels, level = np.unique(lam, return_inverse=True)
    return lam, np.append(np.diff(levels), 1.0)[level]


def first_calls(times: Sequence[float]) -> list[int]:
    """Per call the first one of its time: a step that calls a time twice moves both calls as one."""
    return [times.index(t) for t in times]


def has_free_start(schedule: Schedule, noise: NoiseSchedule) -> bool:
    """Whether the first time may move: an analytic step leads down to it from the starting noise."""
    return schedule.start is not None and schedule.solver_columns[0][0] <= _top(noise)


def _top(noise: NoiseSchedule) -> float:
    """The largest time that moves are reckoned from: a flow's pure noise has an infinite lambda."""
    return noise.t_max - 1.0 if isinstance(noise, Flow) else noise.t_max


def _factor_moves(rows: tuple[SolverRow, ...], moved: tuple[SolverRow, ...]) -> Array:
    """(number of rows, number of factors); 0 where there are none."""
    changes = [
        [getattr(b, name) - getattr(a, name) for name in FACTORS]
        if isinstance(a, SolverStep) and isinstance(b, SolverStep)
        else [0.0] * len(FACTORS)
        for a, b in zip(rows, moved, strict=True)
    ]
    return np.array(changes, np.float64)


def _forms(rows: tuple[SolverRow, ...], at: Array) -> list[str | None]:
    """The form of the row that lies nearest to each share of the way."""
    nearest = np.floor(at * (len(rows) - 1) + 0.5).astype(int).tolist()
    forms = [row.form if isinstance(row, SolverStep) else None for row in rows]
    return [forms[i] for i in nearest]


def _moved(row: SolverStep, moves: list[float]) -> SolverStep:
    return replace(row, **{name: getattr(row, name) + move for name, move in zip(FACTORS, moves, strict=True)})
