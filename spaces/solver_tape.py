"""What a multistep sampler has stored, as rows of coefficients: the formulas act on these instead of on images.

Every formula is linear in past states and network outputs, so running it once on rows of coefficients gives the
table that reproduces it on any image.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.bdia_step import BdiaStep
from autotune.spaces.momentum_step import MomentumStep, ghvb_weights, next_lags
from autotune.spaces.solver_formula import (
    Levels,
    Prediction,
    difference_weights,
    fresh_noise,
    phis,
    transition,
    view_of_output,
)
from autotune.spaces.solver_row import SolverRow
from autotune.spaces.solver_step import SolverStep, View

Array = NDArray[np.float64]


class Tape:
    """Rows over the basis (x_0 .. x_{n-1}, o_0 .. o_{n-1}): the state and the buffered output of every call so far."""

    def __init__(self, levels: Levels, prediction: Prediction) -> None:
        n = levels.n_calls
        self.levels = levels
        self.prediction = prediction
        self._states = np.eye(n, 2 * n)
        self._outputs = np.eye(n, 2 * n, n)
        self._velocities: dict[int, Array] = {}
        self._lags: dict[int, Array] = {}

    @property
    def straight_view(self) -> View:
        """The view that is the slope of the straight ODE."""
        return "velocity" if self.levels.flow else "noise"

    def view(self, view: View, i: int) -> Array:
        """The row of a view of call `i`, as buffered; a corrected state does not change it."""
        on_state, on_output = self._factors(view, i)
        row: Array = on_output * self._outputs[i]
        row[i] += on_state
        return row

    def advance(self, step: SolverRow, i: int) -> Array:
        """The row of x_{i+1}: the predictor."""
        if isinstance(step, MomentumStep):
            return self._with_momentum(step, i)
        if isinstance(step, BdiaStep):
            return self._with_bdia(step, i)
        levels, start = self.levels, i - step.origin
        state = step.state_gain * self._states[start]
        base = step.output_gain * self.view(step.view, start)
        if i == levels.n_calls - 1 and step.domain == "lambda":
            # Only the first term is finite where lambda is: the state becomes its data prediction.
            if step.view == "data":
                return base
            return np.asarray((state - levels.sigma[start] * base) / levels.alpha[start])
        move = transition(step, levels, start, i + 1)
        row: Array = move.state * state + move.scale * move.h * phis(1, move.z)[0] * base
        return row + self._differences(step, start, i + 1, self.history(start, i), extra=0)

    def _with_momentum(self, step: MomentumStep, i: int) -> Array:
        adams = SolverStep(view=self.straight_view, domain="sigma", order=step.order if step.method == "hb" else 1)
        move = transition(adams, self.levels, i, i + 1)
        slope = self.view(adams.view, i)
        slope += self._differences(adams, i, i + 1, self.history(i, i), extra=0) / (move.scale * move.h)
        before = self._velocities.get(i - 1, slope)
        self._velocities[i] = (1.0 - step.beta) * before + step.beta * slope
        velocity = self._velocities[i]
        self._lags[i] = next_lags(self._lags.get(i - 1), step.beta)
        if step.method == "ghvb":
            order = next((k for k in range(1, step.order) if i - k not in self._velocities), step.order)
            first = i - order + 1
            on_velocity, on_slopes = ghvb_weights(order, self._lags[first])
            velocity = on_velocity * self._velocities[first]
            for j, weight in zip(range(i, first, -1), on_slopes, strict=True):
                velocity += weight * self.view(adams.view, j)
        return np.asarray(move.state * self._states[i] + move.scale * move.h * velocity)

    def _with_bdia(self, step: BdiaStep, i: int) -> Array:
        ahead = self._ddim(i, i + 1)
        return ahead if i == 0 else ahead + (1.0 - step.gamma) * (self._states[i - 1] - self._ddim(i, i - 1))

    def _ddim(self, start: int, end: int) -> Array:
        """The row of the first-order step between two levels, forward or back."""
        euler = SolverStep(view=self.straight_view, domain="sigma", order=1)
        move = transition(euler, self.levels, start, end)
        return np.asarray(move.state * self._states[start] + move.scale * move.h * self.view(euler.view, start))

    def correct(self, step: SolverStep, i: int) -> None:
        """Correct the state of call i + 1, which `step` reached, with the output found there (UniC).

        The network was called with the predicted state, so the difference of both forms is added to it.
        """
        start = i - step.origin
        history = self.history(start, i)
        # The fresh output replaces older ones at its level, as of a step that stays where it is.
        fresh = [i + 1, *(j for j in history if self.levels.t[j] != self.levels.t[i + 1])]
        corrected = self._differences(step, start, i + 1, fresh, extra=1)
        self._states[i + 1] += corrected - self._differences(step, start, i + 1, history, extra=0)

    def compensate(self, view: View, i: int, rho: float) -> None:
        """Overwrite the output of call `i`: its view becomes the quadratic through the last three, at a shifted time.

        DC-Solver's dynamic compensation with K = 2 (Zhao et al. 2024, arXiv 2409.03755, equation 8). Nothing happens
        while there are fewer than three levels.
        """
        calls = [i, *self.history(i, i)[:2]]
        if len(calls) < 3:
            return
        times = [self.levels.t[j] for j in calls]
        at = rho * times[0] + (1.0 - rho) * times[1]
        shifted = np.zeros_like(self._outputs[i])
        for k, call in enumerate(calls):
            others = [times[j] for j in range(3) if j != k]
            shifted += float(np.prod([(at - t) / (times[k] - t) for t in others])) * self.view(view, call)
        on_state, on_output = self._factors(view, i)
        shifted[i] -= on_state
        self._outputs[i] = shifted / on_output

    def fresh_noise(self, step: SolverRow, i: int) -> float:
        """Standard deviation of the noise that the step adds."""
        if not isinstance(step, SolverStep) or i == self.levels.n_calls - 1:
            return 0.0
        return fresh_noise(step, self.levels, i - step.origin, i + 1)

    def history(self, start: int, i: int) -> list[int]:
        """Calls up to `i`, newest first, whose outputs differ in level from that of `start` and from one another."""
        return _history(self.levels.t, start, i)

    def _differences(self, step: SolverStep, start: int, end: int, history: list[int], extra: int) -> Array:
        """The row of scale * sum_j w_j (F_j - F_start); a history too short for the formula lowers its order."""
        step = step.limited(len(history) - extra)
        points = history[: step.n_points + extra]
        move = transition(step, self.levels, start, end)
        here = self.levels.position(start, step.domain)
        offsets = [(self.levels.position(j, step.domain) - here) / move.h for j in points]
        base = self.view(step.view, start)
        row = np.zeros_like(base)
        for j, weight in zip(points, difference_weights(step, move, offsets, extra), strict=True):
            row += move.scale * weight * (self.view(step.view, j) - base)
        return row

    def _factors(self, view: View, i: int) -> tuple[float, float]:
        levels = self.levels
        return view_of_output(view, self.prediction, levels.alpha[i], levels.sigma[i], levels.flow)


@lru_cache(maxsize=4096)
def _history(times: tuple[float, ...], start: int, i: int) -> list[int]:
    calls: dict[float, int] = {}
    for j in range(i, -1, -1):
        if times[j] != times[start]:
            calls.setdefault(times[j], j)
    return list(calls.values())


def points_available(times: tuple[float, ...], start: int, i: int) -> int:
    """How many outputs at other levels than call `start`'s are buffered once call `i` has been made."""
    return len(_history(times, start, i))
