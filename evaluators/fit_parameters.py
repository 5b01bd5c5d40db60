"""What a gradient fit moves: a schedule's column as numbers of unit scale, zero where the column changes nothing."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.carried_fit import call_gaps, first_calls, has_free_start
from autotune.spaces.column_fit import FitColumn
from autotune.spaces.errors import ScheduleError
from autotune.spaces.noise_schedule import NoiseSchedule
from autotune.spaces.program_correction import ProgramCorrection
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_formula import Prediction
from autotune.spaces.solver_program import SolverProgram, compile_program, corrected
from autotune.spaces.solver_step import SolverStep, factors_of
from autotune.spaces.solver_tape import points_available

Array = NDArray[np.float64]

MAX_HISTORY = 10
"""Calls that a correction looks back on, the present one among them: parameters grow with steps, not their square."""

RATIO_RANGE = 0.5
"""Ratios stay in 1 -+ this: beyond, they are no use and extrapolate wildly (DC-Solver's released bound)."""


@dataclass(frozen=True, kw_only=True)
class FitParameters:
    """`build` turns parameters (n,) into a program, `finish` into the schedule with the fitted column."""

    n: int
    build: Callable[[Array], SolverProgram]
    finish: Callable[[Array], Schedule]


def parameters_of(
    schedule: Schedule, column: FitColumn, noise: NoiseSchedule, prediction: Prediction, *, guided: bool = False
) -> FitParameters:
    """The parameters of a column; compensation starts from none, corrections from those that the schedule has.

    Those of a solver, and corrections with them, have factors on the guidance where the run is `guided`.

    Raises:
        ScheduleError: the schedule has no solver, or too few steps for the column.
    """
    if column is FitColumn.COMPENSATION:
        return _compensation(schedule, noise, prediction)
    if column is FitColumn.SOLVER:
        return _solver(schedule, noise, prediction, factors_of(guided=guided))
    return _correction(schedule, noise, prediction, guided=guided)


def _compensation(schedule: Schedule, noise: NoiseSchedule, prediction: Prediction) -> FitParameters:
    time, _ = schedule.solver_columns
    free = [i for i in range(len(time)) if points_available(time, i, i) >= 2]
    if not free:
        raise ScheduleError(f"compensation needs at least 3 steps, the polynomial's points; got {len(time)}")

    def finish(theta: Array) -> Schedule:
        ratios = np.ones(len(time))
        ratios[free] = 1.0 + RATIO_RANGE * np.tanh(theta / RATIO_RANGE)
        return replace(schedule, compensation=tuple(ratios.tolist()))

    return FitParameters(
        n=len(free), build=lambda theta: compile_program(finish(theta), noise, prediction), finish=finish
    )


def _solver(schedule: Schedule, noise: NoiseSchedule, prediction: Prediction, names: tuple[str, ...]) -> FitParameters:
    time, rows = schedule.solver_columns
    lam, gaps = call_gaps(time, noise)
    first = first_calls(time)
    free = sorted(set(first))[0 if has_free_start(schedule, noise) else 1 :]
    unified = {i: row for i, row in enumerate(rows) if isinstance(row, SolverStep)}

    def finish(theta: Array) -> Schedule:
        times = np.array(time)
        times[free] = noise.t_from_lam(lam[free] + gaps[free] * theta[: len(free)])
        changed = list(rows)
        for (i, row), moves in zip(unified.items(), theta[len(free) :].reshape(-1, len(names)), strict=True):
            factors = {name: getattr(row, name) + float(move) for name, move in zip(names, moves, strict=True)}
            changed[i] = replace(row, **factors)
        return replace(schedule, time=tuple(times[first].tolist()), solver=tuple(changed))

    return FitParameters(
        n=len(free) + len(names) * len(unified),
        build=lambda theta: compile_program(finish(theta), noise, prediction),
        finish=finish,
    )


def _correction(schedule: Schedule, noise: NoiseSchedule, prediction: Prediction, *, guided: bool) -> FitParameters:
    base = compile_program(replace(schedule, correction=None), noise, prediction)
    n = base.n_steps
    rows, columns = np.tril_indices(n)
    near = rows - columns < MAX_HISTORY
    # A unit moves a timestep by its gap to the next one, and a coefficient by the largest weight on an output there.
    gaps = -np.diff(base.timesteps, append=0.0)
    weights = np.abs(base.output_coefs).max(axis=1)[rows]
    # Without an analytic first step, the starting noise says what the first call sees.
    free = np.arange(0 if schedule.start is not None else 1, n)
    _, steps = schedule.solver_columns
    gained = {i: row for i, row in enumerate(steps) if guided and isinstance(row, SolverStep)}
    ends = np.cumsum([len(free), near.sum(), near.sum()])

    def correction(theta: Array) -> ProgramCorrection:
        moves = np.zeros(n)
        states, outputs = np.zeros((2, len(rows)))
        moves[free], states[near], outputs[near], _ = np.split(theta, ends)
        addends = ProgramCorrection(
            timesteps=tuple((gaps * moves).tolist()),
            states=_triangle(weights * states, n),
            outputs=_triangle(weights * outputs, n),
        )
        return addends if schedule.correction is None else schedule.correction.plus(addends)

    def moved(theta: Array) -> dict[int, SolverStep]:
        moves = theta[ends[-1] :].tolist()
        return {
            i: replace(row, guidance_gain=row.guidance_gain + move)
            for (i, row), move in zip(gained.items(), moves, strict=True)
        }

    def build(theta: Array) -> SolverProgram:
        gains = np.ones(n)
        gains[list(gained)] = [row.guidance_gain for row in moved(theta).values()]
        program = replace(base, guidance_gains=gains) if gained else base
        return corrected(program, correction(theta), noise.t_max)

    def finish(theta: Array) -> Schedule:
        solver = tuple({**dict(enumerate(steps)), **moved(theta)}.values())
        return replace(schedule, solver=solver, correction=correction(theta))

    return FitParameters(n=int(ends[-1]) + len(gained), build=build, finish=finish)


def _triangle(values: Array, n: int) -> tuple[tuple[float, ...], ...]:
    ends = np.cumsum(np.arange(1, n))
    return tuple(tuple(row.tolist()) for row in np.split(values, ends))
