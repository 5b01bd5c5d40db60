"""A sampling run as a table of coefficients, and the compiler from a schedule to it.

Every solver of the schedule space is linear in what it has stored, so correctors and compensation fold into
x_{i+1} = sum_j a_ij x_j + b_ij o_j over the states x_j that the network was called with and its raw outputs o_j.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError
from autotune.spaces.noise_schedule import NoiseSchedule
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_formula import (
    Levels,
    Prediction,
    check_step,
    difference_weights,
    levels_of,
    phis,
    transition,
    view_of_output,
)
from autotune.spaces.solver_step import Relaxation, SolverStep, View

Array = NDArray[np.float64]
Term = tuple[int, float, float]

_NEGLIGIBLE = 1e-13
"""Relative size below which a coefficient is the rounding error of a cancellation."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SolverProgram:
    """Coefficients of a run of n network calls.

    Row i of `state_coefs` and `output_coefs`, both (n, n) and lower triangular, gives x_{i+1} from x_0 .. x_i and
    o_0 .. o_i; x_n is the sample. `timesteps` (n,) is what the network is called with.

    Raises:
        ScheduleError: shapes disagree, a number is not finite, or a row looks ahead.
    """

    timesteps: Array
    state_coefs: Array
    output_coefs: Array

    def __post_init__(self) -> None:
        n = len(self.timesteps)
        for name in ("timesteps", "state_coefs", "output_coefs"):
            values = np.array(getattr(self, name), np.float64)
            if values.shape != ((n,) if name == "timesteps" else (n, n)):
                raise ScheduleError(f"{name} of a solver program must fit {n} timesteps; got shape {values.shape}")
            if not np.all(np.isfinite(values)):
                raise ScheduleError(
                    f"{name} of a solver program must be finite; got {values[~np.isfinite(values)][0]}; "
                    "timesteps that lie too close together overflow"
                )
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


def compile_program(schedule: Schedule, noise: NoiseSchedule, prediction: Prediction) -> SolverProgram:
    """The coefficients of a schedule's `time`, `solver` and `compensation` columns.

    Args:
        schedule: has the columns `time` and `solver`.
        noise: what the timesteps stand for.
        prediction: what the network puts out.

    Raises:
        ScheduleError: a column is missing, a timestep lies outside the noise schedule, or a formula does not exist
            on it.
    """
    if schedule.time is None or schedule.solver is None:
        raise ScheduleError("a solver program needs the columns time and solver; got a schedule without them")
    levels = levels_of(schedule.time, noise)
    for i, step in enumerate(schedule.solver):
        check_step(step, i, levels.flow)
    tape = _Tape(levels, prediction)
    ratios = schedule.compensation or (1.0,) * schedule.n_steps
    rows = []
    for i, step in enumerate(schedule.solver):
        state = tape.state(i)
        if i and schedule.solver[i - 1].corrector:
            state += _correction(tape, schedule.solver[i - 1], i - 1)
        if i >= 2 and ratios[i] != 1.0:
            tape.compensate(step.view, i, ratios[i])
        rows.append(_advance(tape, step, i, state))
    table = np.array(rows)
    table[np.abs(table) < _NEGLIGIBLE * np.abs(table).max(axis=1, keepdims=True)] = 0.0
    n = levels.n_calls
    return SolverProgram(timesteps=np.array(levels.t), state_coefs=table[:, :n], output_coefs=table[:, n:])


class _Tape:
    """Rows over the basis (x_0 .. x_{n-1}, o_0 .. o_{n-1}): the buffered network output of every call so far."""

    def __init__(self, levels: Levels, prediction: Prediction) -> None:
        self.levels = levels
        self.prediction = prediction
        self.outputs = np.eye(levels.n_calls, 2 * levels.n_calls, levels.n_calls)

    def state(self, i: int) -> Array:
        """The row of x_i."""
        row = np.zeros(2 * self.levels.n_calls)
        row[i] = 1.0
        return row

    def view(self, view: View, i: int) -> Array:
        """The row of a view of call `i`, as buffered."""
        on_state, on_output = self._factors(view, i)
        row: Array = on_output * self.outputs[i]
        row[i] += on_state
        return row

    def compensate(self, view: View, i: int, rho: float) -> None:
        """Overwrite the output of call `i`: its view becomes the quadratic through the last three, at a shifted time.

        DC-Solver's dynamic compensation with K = 2 (Zhao et al. 2024, arXiv 2409.03755, equation 8).
        """
        times = self.levels.t[i - 2 : i + 1]
        at = rho * times[2] + (1.0 - rho) * times[1]
        shifted = np.zeros_like(self.outputs[i])
        for k in range(3):
            others = [times[j] for j in range(3) if j != k]
            weight = float(np.prod([(at - t) / (times[k] - t) for t in others]))
            shifted += weight * self.view(view, i - 2 + k)
        on_state, on_output = self._factors(view, i)
        shifted[i] -= on_state
        self.outputs[i] = shifted / on_output

    def _factors(self, view: View, i: int) -> tuple[float, float]:
        levels = self.levels
        return view_of_output(view, self.prediction, levels.alpha[i], levels.sigma[i], levels.flow)


def _advance(tape: _Tape, step: SolverStep, i: int, state: Array) -> Array:
    """The row of x_{i+1}, from the row of the (corrected) state at level i."""
    levels = tape.levels
    base = tape.view(step.view, i)
    if i == levels.n_calls - 1 and step.domain == "lambda":
        # Only the first term is finite where lambda is: the state becomes its data prediction.
        if step.view == "data":
            return base
        return np.asarray((state - levels.sigma[i] * base) / levels.alpha[i])
    move = transition(step.view, step.domain, levels, i)
    row = move.state * state + move.scale * move.h * phis(1, move.z)[0] * base
    order = min(step.order, i + 1)
    weights = difference_weights(move, _offsets(levels, step, i, order, move.h), _relaxation(step))
    for k, weight in enumerate(weights, start=1):
        row += move.scale * weight * (tape.view(step.view, i - k) - base)
    return row


def _correction(tape: _Tape, step: SolverStep, i: int) -> Array:
    """The row of (step i with the output found at its end, one order higher) minus (step i); x_i cancels (UniC)."""
    levels = tape.levels
    move = transition(step.view, step.domain, levels, i)
    base = tape.view(step.view, i)
    past = _offsets(levels, step, i, min(step.order, i + 1), move.h)
    predicted = difference_weights(move, past, _relaxation(step))
    corrected = difference_weights(move, [*past, 1.0], _relaxation(step))
    row = corrected[-1] * (tape.view(step.view, i + 1) - base)
    for k, weight in enumerate(corrected[:-1] - predicted, start=1):
        row += weight * (tape.view(step.view, i - k) - base)
    return np.asarray(move.scale * row)


def _offsets(levels: Levels, step: SolverStep, i: int, order: int, h: float) -> list[float]:
    here = levels.position(i, step.domain)
    return [(levels.position(i - k, step.domain) - here) / h for k in range(1, order)]


def _relaxation(step: SolverStep) -> Relaxation:
    return step.relaxation if step.domain == "lambda" else "taylor"


def _last_used(coefs: Array) -> tuple[int, ...]:
    used = (np.flatnonzero(column).tolist() for column in coefs.T)
    return tuple(steps[-1] if steps else -1 for steps in used)
