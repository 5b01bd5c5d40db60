"""Time grids read off a trace of the probability-flow ODE: GITS and Align Your Steps.

Both give every jump between two traced levels a cost and take the cheapest path. The nodes are the M levels of the
trace and the clean end; a grid of n timesteps is a path of n jumps, of which the last goes to the clean end.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.grid_path import cheapest_path
from autotune.spaces.noise_schedule import NoiseSchedule
from autotune.spaces.solver_formula import Prediction, levels_of, view_of_output
from autotune.spaces.solver_step import View
from autotune.spaces.trace import Trace

Array = NDArray[np.float64]

GITS_DISCOUNT = 1.15
"""The paper's default; on Stable Diffusion it takes 0.8 to 1.2. Below 1 the levels move to the noisy end."""

Costs = Callable[[Trace, NoiseSchedule, Prediction], Array]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One sample's way in the straight variable q, in which the ODE is a plain integral: dy / dq is the slope.

    `y` (M + 1, d), `slope` (M, d), `q` (M + 1,), all float64; the state x is `scale` (M + 1,) times y. The last entries
    stand for the clean end. On a flow y is x and q sigma, otherwise they are x / alpha and sigma / alpha. One step of
    first order from level i to level j ends at y_i + (q_j - q_i) slope_i.
    """

    y: Array
    slope: Array
    q: Array
    scale: Array


def trajectories(trace: Trace, noise: NoiseSchedule, prediction: Prediction) -> Iterator[Trajectory]:
    """The samples of a trace, one at a time: in float64 they are twice the size of the trace's.

    Raises:
        ScheduleError: a timestep lies outside the noise schedule.
    """
    levels = levels_of(trace.timesteps.tolist(), noise)
    scale = np.ones(trace.n_calls + 1) if levels.flow else np.array(levels.alpha)
    view: View = "velocity" if levels.flow else "noise"
    pairs = zip(levels.alpha[:-1], levels.sigma[:-1], strict=True)
    on_state, on_output = np.array([view_of_output(view, prediction, a, s, levels.flow) for a, s in pairs]).T[..., None]
    for i in range(trace.n_samples):
        x = trace.states[:, i].reshape(trace.n_calls + 1, -1).astype(np.float64)
        output = trace.outputs[:, i].reshape(trace.n_calls, -1).astype(np.float64)
        slope = on_state * x[:-1] + on_output * output
        yield Trajectory(x / scale[:, None], slope, np.array(levels.straight), scale)


def gits(
    trace: Trace,
    noise: NoiseSchedule,
    prediction: Prediction,
    n: int,
    *,
    discount: float = GITS_DISCOUNT,
    costs: Costs | None = None,
) -> tuple[float, ...]:
    """The grid of `n` timesteps whose Euler jumps leave the traced trajectory least (Chen et al. 2024).

    Geometry-inspired time scheduling, arXiv 2405.11326, algorithm 1.

    Args:
        trace: of the probability-flow ODE.
        noise: what its timesteps stand for.
        prediction: what its outputs are.
        n: network calls, at most those of the trace.
        discount: the paper's gamma.
        costs: of jumps; `jump_errors` if None, or `jump_deviations`.

    Raises:
        ScheduleError: `n` does not fit the trace.
    """
    return _grid(trace, (costs or jump_errors)(trace, noise, prediction), n, discount)


def ays(
    trace: Trace, noise: NoiseSchedule, prediction: Prediction, n: int, *, t_end: float | None = None
) -> tuple[float, ...]:
    """The grid of `n` timesteps with the least KL upper bound (Sabour et al. 2024, arXiv 2404.14507).

    The Align Your Steps objective, solved by dynamic programming where the paper moves one level at a time, and on
    traced trajectories of the probability-flow ODE where it draws states from the forward process.

    Args:
        trace: of the probability-flow ODE.
        noise: what its timesteps stand for.
        prediction: what its outputs are.
        n: network calls, at most those of the trace.
        t_end: where the bound's integral ends; the trace's last level if None.

    Raises:
        ScheduleError: `n` does not fit the trace.
    """
    return _grid(trace, klub_costs(trace, noise, prediction, t_end=t_end), n, 1.0)


def jump_errors(trace: Trace, noise: NoiseSchedule, prediction: Prediction) -> Array:
    """Costs (M + 1, M + 1) of jumps: how far one step of first order from state i ends from state j.

    The step is the schedule's own (DDIM, or Euler on a flow), the distance a root mean square over a sample's elements,
    averaged over samples. It is that of the states x, whose scale hardly changes along a run: for data of unit variance
    the rest of a variance-preserving run hands an error of x on to the sample at its own size, from any level. An error
    of x / alpha shrinks on the way by up to 1 / alpha; costs in it would draw all levels to the noisy end.
    """
    total = np.zeros((trace.n_calls + 1,) * 2)
    for path in trajectories(trace, noise, prediction):
        gap = path.q - path.q[:-1, None]
        # Squares of y_i - y_j + (q_j - q_i) slope_i, multiplied out: nothing larger than the trace is stored.
        y = path.y - path.y[-1]
        products = y[:-1] @ y.T
        sizes = (y**2).sum(axis=1)
        along = (y[:-1] * path.slope).sum(axis=1)[:, None] - path.slope @ y.T
        steepness = (path.slope**2).sum(axis=1)[:, None]
        squares = sizes[:-1, None] + sizes - 2.0 * products + 2.0 * gap * along + gap**2 * steepness
        total[:-1] += path.scale * np.sqrt(np.maximum(squares, 0.0) / y.shape[1])
    return np.triu(total, 1) / trace.n_samples


def jump_deviations(trace: Trace, noise: NoiseSchedule, prediction: Prediction) -> Array:
    """Costs (M + 1, M + 1) of jumps by the paper's measure of curvature; entries can be negative.

    The deviation of a point is its distance to the chord, the straight line through the trajectory's first state and
    its sample; a jump costs the deviation after one step of first order from state i, less that of state j. It is
    measured in y, where a network that is right from the start draws a straight line. Root mean squares over a sample's
    elements, averaged over samples.
    """
    total = np.zeros((trace.n_calls + 1,) * 2)
    for path in trajectories(trace, noise, prediction):
        y = path.y - path.y[-1]
        chord = y[0] / np.linalg.norm(y[0])
        y, slope = (rows - np.outer(rows @ chord, chord) for rows in (y, path.slope))
        gap = path.q - path.q[:-1, None]
        sizes = (y**2).sum(axis=1)
        along, steepness = (y[:-1] * slope).sum(axis=1)[:, None], (slope**2).sum(axis=1)[:, None]
        squares = sizes[:-1, None] + 2.0 * gap * along + gap**2 * steepness
        total[:-1] += (np.sqrt(np.maximum(squares, 0.0)) - np.sqrt(sizes)) / np.sqrt(y.shape[1])
    return np.triu(total, 1) / trace.n_samples


def klub_costs(trace: Trace, noise: NoiseSchedule, prediction: Prediction, *, t_end: float | None = None) -> Array:
    """Costs (M + 1, M + 1) of jumps: the integral of e^(2 lambda) E|D(x_t, t) - D(x_s, s)|^2 over lambda from s to t.

    D is the data prediction, |.|^2 the mean over elements and samples. The weight is that of Stochastic-DDIM,
    sigma' / sigma^3 dt with sigma / alpha for sigma; a scale of the state drops out, as it must of a KL divergence. The
    integral is by the trapezoidal rule on the trace's levels. It diverges at the clean end, so it is cut at `t_end`;
    at the trace's last level if None.
    """
    levels = levels_of(trace.timesteps.tolist(), noise)
    lam = np.array(levels.lam[:-1])
    distances = np.zeros((trace.n_calls,) * 2)
    for path in trajectories(trace, noise, prediction):
        data = path.y[:-1] - path.q[:-1, None] * path.slope
        data -= data[-1]
        sizes = (data**2).sum(axis=1)
        distances += np.maximum(sizes[:, None] + sizes - 2.0 * data @ data.T, 0.0) / data.shape[1]
    distances /= trace.n_samples
    end = lam[-1] if t_end is None else float(noise.lam(t_end))
    weighted = np.exp(2.0 * lam) * distances
    pieces = 0.5 * (weighted[:, 1:] + weighted[:, :-1]) * np.diff(np.minimum(lam, end))
    integral = np.concatenate([np.zeros((len(lam), 1)), np.cumsum(pieces, axis=1)], axis=1)
    integral -= np.diag(integral)[:, None]
    costs = np.zeros((len(lam) + 1,) * 2)
    costs[:-1] = np.concatenate([integral, integral[:, -1:]], axis=1)
    return np.triu(costs, 1)


def _grid(trace: Trace, costs: Array, n: int, discount: float) -> tuple[float, ...]:
    path = cheapest_path(costs, n, discount=discount)
    return tuple(trace.timesteps[list(path[:-1])].tolist())
