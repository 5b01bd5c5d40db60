"""A sampling run as a table of coefficients, and the compiler from a schedule to it.

Every solver of the schedule space is linear in what it has stored, so correctors and compensation fold into
x_{i+1} = sum_j a_ij x_j + b_ij o_j over the states x_j that the network was called with and its raw outputs o_j.
"""

import itertools
import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError
from autotune.spaces.mean_reverting import MeanReverting
from autotune.spaces.noise_schedule import NoiseSchedule
from autotune.spaces.program_correction import MAX_ADDEND, ProgramCorrection
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_formula import Levels, Prediction, check_step, levels_of
from autotune.spaces.solver_row import SolverRow
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.solver_tape import Tape

Array = NDArray[np.float64]
Term = tuple[int, float, float]

MAX_COEFFICIENT = MAX_ADDEND
"""Largest size of a compiled coefficient: in single precision an image would be lost in its rounding errors.

Solvers of order 3 that see a flow's pure noise, clipped by 1e-6, as a data prediction come to 1e8.
"""

_CLOSE = 0.1
"""Timesteps that lie closer are the likely cause of larger coefficients; the finest grids of searches have 0.5."""

_NEGLIGIBLE = 1e-13
"""Relative size below which a coefficient is the rounding error of a cancellation."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SolverProgram:
    """Coefficients of a run of n network calls.

    Row i of `state_coefs` and `output_coefs`, both (n, n) and lower triangular, gives x_{i+1} from x_0 .. x_i and
    o_0 .. o_i, and `noise_coefs` (n,) the standard deviation of fresh noise; x_n is the sample. `timesteps` (n,) is
    what the network is called with. x_0 is the starting noise times `initial_scale`. On a mean-reverting process the
    image that it reverts to enters x_{i+1} with the factor `mean_coefs`[i] (n,); elsewhere there is none. Under
    classifier-free guidance the difference of the branches is multiplied by `guidance_gains`[i] (n,) in call i before
    it is combined to o_i; None is 1 in each.

    Raises:
        ScheduleError: shapes disagree, a number is not finite, or a row looks ahead.
    """

    timesteps: Array
    state_coefs: Array
    output_coefs: Array
    noise_coefs: Array
    initial_scale: float = 1.0
    mean_coefs: Array | None = None
    guidance_gains: Array | None = None

    def __post_init__(self) -> None:
        n = len(self.timesteps)
        names = ["timesteps", "state_coefs", "output_coefs", "noise_coefs"]
        names += [name for name in ("mean_coefs", "guidance_gains") if getattr(self, name) is not None]
        for name in names:
            values = np.array(getattr(self, name), np.float64)
            if values.shape != ((n, n) if name in ("state_coefs", "output_coefs") else (n,)):
                raise ScheduleError(f"{name} of a solver program must fit {n} timesteps; got shape {values.shape}")
            if not np.all(np.isfinite(values)):
                raise ScheduleError(f"{name} of a solver program must be finite; got {values[~np.isfinite(values)][0]}")
            if values.ndim == 2 and np.any(np.triu(values, 1)):
                raise ScheduleError(f"{name} of a solver program must be lower triangular; a step can't look ahead")
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    @property
    def n_steps(self) -> int:
        """Number of network calls."""
        return len(self.timesteps)

    @cached_property
    def terms(self) -> tuple[tuple[Term, ...], ...]:
        """Per step, (j, coefficient of x_j, coefficient of o_j) where one of them is not zero."""
        rows = zip(self.state_coefs.tolist(), self.output_coefs.tolist(), strict=True)
        return tuple(
            tuple((j, a, b) for j, (a, b) in enumerate(zip(states, outputs, strict=True)) if a != 0.0 or b != 0.0)
            for states, outputs in rows
        )

    @cached_property
    def state_last_used(self) -> tuple[int, ...]:
        """Per state x_j the last step that reads it; -1 if none does."""
        return _last_used(self.state_coefs)

    @cached_property
    def output_last_used(self) -> tuple[int, ...]:
        """Per network output o_j the last step that reads it; -1 if none does."""
        return _last_used(self.output_coefs)


@np.errstate(over="ignore", divide="ignore", invalid="ignore")  # coefficients are checked for their size
def compile_program(schedule: Schedule, noise: NoiseSchedule, prediction: Prediction) -> SolverProgram:
    """The coefficients of a schedule's `time`, `solver`, `compensation` and `correction` columns.

    Args:
        schedule: has the columns `time` and `solver`.
        noise: what the timesteps stand for.
        prediction: what the network puts out.

    Raises:
        ScheduleError: a column is missing, a timestep lies outside the noise schedule, a formula does not exist on
            it, or a coefficient is too large to compute with.
    """
    time, solver = schedule.solver_columns
    reverting = isinstance(noise, MeanReverting)
    if reverting and (prediction == "velocity" or schedule.start is not None):
        raise ScheduleError(
            "a mean-reverting process has no velocity prediction and no analytic start; got "
            f"prediction {prediction!r}, start {schedule.start}; use noise or data, and leave start out"
        )
    levels = levels_of(time, noise)
    for i, step in enumerate(solver):
        if isinstance(step, SolverStep):
            check_step(step, i, levels.flow)
    tape = Tape(levels, prediction)
    ratios = schedule.compensation or (1.0,) * schedule.n_steps
    table = np.array([_row(tape, solver, i, rho) for i, rho in enumerate(ratios)])
    table[np.abs(table) < _NEGLIGIBLE * np.abs(table).max(axis=1, keepdims=True)] = 0.0
    n = levels.n_calls
    gains = np.array([step.guidance_gain if isinstance(step, SolverStep) else 1.0 for step in solver])
    program = SolverProgram(
        timesteps=np.array(levels.t),
        state_coefs=table[:, :n],
        output_coefs=table[:, n:],
        noise_coefs=np.array([tape.fresh_noise(step, i) for i, step in enumerate(solver)]),
        initial_scale=1.0 if schedule.start is None else analytic_scale(schedule.start, time[0], noise),
        guidance_gains=gains if np.any(gains != 1.0) else None,
    )
    if schedule.correction is not None:
        program = corrected(program, schedule.correction, noise.t_max)
    return replace(program, mean_coefs=_mean_coefs(program, prediction)) if reverting else program


def _row(tape: Tape, solver: tuple[SolverRow, ...], i: int, rho: float) -> Array:
    """The row of x_{i+1}, whose coefficients must be of a size to compute with."""
    step, before = solver[i], solver[i - 1] if i else None
    try:
        if isinstance(before, SolverStep) and before.corrector:
            tape.correct(before, i - 1)
        if rho != 1.0:
            tape.compensate(step.view if isinstance(step, SolverStep) else tape.straight_view, i, rho)
        row = tape.advance(step, i)
        size = float(np.abs(row).max())
    except (ArithmeticError, np.linalg.LinAlgError):  # levels that rounding makes one
        size = math.inf
    if not size <= MAX_COEFFICIENT:
        raise ScheduleError(
            f"the coefficients of solver[{i}] must be at most {MAX_COEFFICIENT:g} in size; got {size:.3g}; "
            f"{_remedy(tape.levels, i)}"
        )
    return row


def _remedy(levels: Levels, i: int) -> str:
    """What makes the coefficients of row `i` smaller."""
    gaps = [(a - b, j) for j, (a, b) in enumerate(itertools.pairwise(levels.t[: i + 2])) if a != b]
    gap, j = min(gaps, default=(math.inf, 0))
    if gap < _CLOSE:
        return f"time[{j}] = {levels.t[j]} and time[{j + 1}] = {levels.t[j + 1]} are too close: move them apart"
    return "lower its order, or bring the factors of its rows and the ratios of compensation closer to 1"


def _mean_coefs(program: SolverProgram, prediction: Prediction) -> Array:
    """What the image m adds to a program for y = x - m, so that it acts on x (Li et al. 2025, arXiv 2502.07856).

    In y_{i+1} = sum_j a_ij y_j + b_ij o_j a data prediction is shifted by m as the states are, a noise prediction not.
    """
    shifted = program.state_coefs + program.output_coefs if prediction == "data" else program.state_coefs
    return np.asarray(1.0 - shifted.sum(axis=1))


def analytic_scale(start: float, end: float, noise: NoiseSchedule) -> float:
    """sigma_end / sigma_start: the step between two timesteps of a network whose data prediction is 0.

    Raises:
        ScheduleError: `start` lies outside the noise schedule.
    """
    if not end < start <= noise.t_max:
        raise ScheduleError(f"start must lie in ({end:g}, {noise.t_max:g}]; got {start:g}")
    return float(noise.sigma(end) / noise.sigma(start))


def corrected(program: SolverProgram, correction: ProgramCorrection, t_max: float) -> SolverProgram:
    """The program with the addends; the network is called with timesteps in [0, t_max]."""
    tables = np.array([program.state_coefs, program.output_coefs])
    for table, rows in zip(tables, (correction.states, correction.outputs), strict=True):
        table[np.tril_indices(program.n_steps)] += [value for row in rows for value in row]
    timesteps = np.clip(program.timesteps + np.array(correction.timesteps), 0.0, t_max)
    return replace(program, timesteps=timesteps, state_coefs=tables[0], output_coefs=tables[1])


def _last_used(coefs: Array) -> tuple[int, ...]:
    used = (np.flatnonzero(column).tolist() for column in coefs.T)
    return tuple(steps[-1] if steps else -1 for steps in used)
