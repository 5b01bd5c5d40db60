"""A solver program run on a trace in place of the network: what its error would be if the network were linear.

Near a traced state x_t the data prediction is taken as X(x, t) = X_t + k s_t (x - x_t). Of unit Gaussian data it would
be exactly that with k = 1 and s_t = alpha_t / (alpha_t^2 + sigma_t^2); with k = 0 the prediction would not depend on
the state. A real network lies in between, and differently at each level, so errors are given for several k.
With no schedule scored, k = 0.8 ranked those of 15 searches on mini-flux and mini-pixart with a Kendall's tau of .34 to
.74, .66 in the median.
"""

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.noise_schedule import NoiseSchedule
from autotune.spaces.solver_formula import Prediction, levels_of, view_of_output
from autotune.spaces.solver_program import SolverProgram
from autotune.spaces.trace import Trace

Array = NDArray[np.float64]

N_TRACED = 2
TRACE_LEVELS = 40
"""Samples and calls of a trace: there, 2 samples at every 2nd or 4th of 100 levels did as well as 4 at all."""

RESPONSES = (0.3, 0.6, 0.8, 1.0)
"""The k that errors are given for."""

MAX_ELEMENTS = 1024
"""Elements per sample that are run, evenly spread: programs act on each one alike."""

_FLOOR = 1e-4
"""Relative error below which programs count as equal."""


class TracedRun:
    """Runs programs on a trace; it must begin where they do.

    Raises:
        ScheduleError: a timestep of the trace lies outside the noise schedule.
    """

    def __init__(self, trace: Trace, noise: NoiseSchedule, prediction: Prediction) -> None:
        self._noise, self._prediction = noise, prediction
        n_elements = int(np.prod(trace.states.shape[2:]))
        chosen = slice(None, None, -(-n_elements // MAX_ELEMENTS))
        self._states = trace.states.reshape(*trace.states.shape[:2], -1)[..., chosen].astype(np.float64)
        self._outputs = trace.outputs.reshape(*trace.outputs.shape[:2], -1)[..., chosen].astype(np.float64)
        self._lam = np.array(levels_of(trace.timesteps.tolist(), noise).lam[:-1])

    def log_errors(self, program: SolverProgram) -> Array:
        """Logarithm of the mean relative deviation from the trace's samples, per entry of `RESPONSES`.

        Raises:
            ScheduleError: the program calls the network at a level outside the noise schedule, or twice at one.
        """
        levels = levels_of(program.timesteps.tolist(), self._noise)
        responses = np.array(RESPONSES)[:, None, None]
        states = [np.broadcast_to(program.initial_scale * self._states[0], (len(RESPONSES), *self._states[0].shape))]
        outputs: list[Array] = []
        for i, (lam, alpha, sigma) in enumerate(zip(levels.lam[:-1], levels.alpha, levels.sigma, strict=False)):
            on_state, on_output = view_of_output("data", self._prediction, alpha, sigma, levels.flow)
            state, output = self._at(lam)
            off = states[-1] - state
            # The output whose data prediction is the traced one, moved by the network's response to the state.
            moved = responses * alpha / (alpha**2 + sigma**2) - on_state
            outputs.append(output + moved * off / on_output)
            terms = program.terms[i]
            states.append(np.sum([a * states[j] + b * outputs[j] for j, a, b in terms], axis=0))
        goal = self._states[-1]
        norms = np.linalg.norm(states[-1] - goal, axis=-1) / np.linalg.norm(goal, axis=-1)
        return np.asarray(np.log(_FLOOR + norms.mean(axis=-1)))

    def _at(self, lam: float) -> tuple[Array, Array]:
        """State and output on the traced way at a level, linear in lambda between two calls."""
        lam = float(np.clip(lam, self._lam[0], self._lam[-1]))
        j = int(np.clip(np.searchsorted(self._lam, lam) - 1, 0, len(self._lam) - 2))
        share = (lam - self._lam[j]) / (self._lam[j + 1] - self._lam[j])
        state = (1.0 - share) * self._states[j] + share * self._states[j + 1]
        return state, (1.0 - share) * self._outputs[j] + share * self._outputs[j + 1]
