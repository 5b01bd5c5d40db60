"""The unified step of multistep samplers, as weights on network views.

A step from level s to level t is x_t = f x_s + g (h phi_1 F_s + sum_j w_j (F_j - F_s)), where the F_j are buffered
views of the network (data, noise or velocity) and the w_j make the sum exact for polynomials (Liu et al. 2024,
arXiv 2312.07243, section 3). In the domain `lambda` it is an exponential integrator (Lu et al. 2022,
arXiv 2211.01095), in the domain `sigma` an Adams method on the straight ODE.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError
from autotune.spaces.noise_schedule import FLOW_START, Flow, NoiseSchedule
from autotune.spaces.solver_step import Domain, SolverStep, View

Array = NDArray[np.float64]
Prediction = Literal["noise", "velocity", "data"]
"""What a network puts out. Velocity is a_t e - s_t x_0 on a variance-preserving process and e - x_0 on a flow."""

_SERIES_RADIUS = 1.0
_SERIES_TERMS = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """Noise levels of the n network calls and, as entry n, of the clean end."""

    t: tuple[float, ...]
    alpha: tuple[float, ...]
    sigma: tuple[float, ...]
    lam: tuple[float, ...]
    straight: tuple[float, ...]
    """The variable in which the ODE is a plain integral: sigma on a flow, sigma / alpha otherwise."""
    flow: bool

    @property
    def n_calls(self) -> int:
        """Number of network calls."""
        return len(self.t)

    def position(self, i: int, domain: Domain) -> float:
        """Where level `i` lies in the variable of `domain`."""
        return self.lam[i] if domain == "lambda" else self.straight[i]


@dataclass(frozen=True, slots=True)
class Transition:
    """Factors of one step: x_t = state * x_s + scale * (h phi_1(z) F_s + ...); h is the step in the domain."""

    state: float
    scale: float
    h: float
    z: float


def levels_of(time: Sequence[float], noise: NoiseSchedule) -> Levels:
    """Levels at strictly decreasing model timesteps, with the clean end appended.

    A flow's pure noise (sigma = 1) is taken as `FLOW_START` where a logarithm or a division by alpha needs it.

    Raises:
        ScheduleError: a timestep lies outside the noise schedule, or two stand for the same level.
    """
    flow = isinstance(noise, Flow)
    times = np.asarray(time, np.float64)
    noisy = float(noise.sigma(0.0)) > 0.0
    low = 0.0 if noisy else np.nextafter(0.0, 1.0)
    for i, t in enumerate(times):
        if not low <= t <= noise.t_max:
            bound = "[0" if noisy else "(0"
            raise ScheduleError(f"time[{i}] must lie in {bound}, {noise.t_max:g}] for this noise schedule; got {t:g}")
    lam = noise.lam(times)
    same = (np.diff(lam) <= 0) & (np.diff(times) != 0)  # an implicit corrector repeats its timestep
    if np.any(same):
        i = int(np.argmax(same))
        raise ScheduleError(
            f"timesteps must stand for different noise levels; got the same one for time[{i}] = {float(times[i])!r} "
            f"and time[{i + 1}] = {float(times[i + 1])!r}; move them apart"
        )
    sigma = np.minimum(noise.sigma(times), FLOW_START) if flow else noise.sigma(times)
    alpha = 1.0 - sigma if flow else noise.alpha(times)
    straight = noise.sigma(times) if flow else sigma / alpha
    return Levels(
        t=tuple(times.tolist()),
        alpha=(*alpha.tolist(), 1.0),
        sigma=(*sigma.tolist(), 0.0),
        lam=(*lam.tolist(), math.inf),
        straight=(*straight.tolist(), 0.0),
        flow=flow,
    )


def check_step(step: SolverStep, i: int, flow: bool) -> None:
    """Check that a formula exists on this kind of noise schedule.

    Raises:
        ScheduleError: a velocity is asked for off a flow, or a flow is integrated in sigma by its noise.
    """
    if step.view == "velocity" and not flow:
        raise ScheduleError(
            f"solver[{i}]: the velocity view needs a flow; got another noise schedule; use noise or data"
        )
    if step.view == "noise" and step.domain == "sigma" and flow:
        raise ScheduleError(
            f"solver[{i}]: the noise view has no sigma-domain form on a flow; use velocity, or the lambda domain"
        )


def view_of_output(view: View, prediction: Prediction, alpha: float, sigma: float, flow: bool) -> tuple[float, float]:
    """Factors (on the state, on the raw network output) whose sum is `view` at one level."""
    if view == prediction:
        return 0.0, 1.0
    if prediction == "velocity":
        if flow:
            return (1.0, -sigma) if view == "data" else (1.0, alpha)
        return (alpha, -sigma) if view == "data" else (sigma, alpha)
    if view == "velocity":
        return (-1.0 / alpha, 1.0 / alpha) if prediction == "noise" else (1.0 / sigma, -1.0 / sigma)
    if view == "data":
        return 1.0 / alpha, -sigma / alpha
    return 1.0 / sigma, -alpha / sigma


def transition(step: SolverStep, levels: Levels, start: int, end: int) -> Transition:
    """Factors of a step between two levels; in the lambda domain the level reached must not be the clean end."""
    a_s, a_t, s_s, s_t = levels.alpha[start], levels.alpha[end], levels.sigma[start], levels.sigma[end]
    h = levels.position(end, step.domain) - levels.position(start, step.domain)
    if step.domain == "sigma":
        return Transition(1.0, 1.0, h, 0.0) if step.view == "velocity" else Transition(a_t / a_s, a_t, h, 0.0)
    if step.view == "data":
        rate = step.stochastic**2
        return Transition(s_t / s_s * math.exp(-rate * h), a_t * (1.0 + rate), h, -(1.0 + rate) * h)
    return Transition(a_t / a_s, -s_t, h, h)


def fresh_noise(step: SolverStep, levels: Levels, start: int, end: int) -> float:
    """Standard deviation of the noise that a stochastic step adds: sigma_t sqrt(1 - exp(-2 tau^2 h))."""
    if not step.stochastic:
        return 0.0
    h = levels.lam[end] - levels.lam[start]
    return levels.sigma[end] * math.sqrt(-math.expm1(-2.0 * step.stochastic**2 * h))


def phis(count: int, z: float) -> list[float]:
    """phi_1(z) .. phi_count(z), where phi_1 = (e^z - 1) / z and phi_{k+1} = (phi_k - 1/k!) / z; at 0 they are 1/k!."""
    if abs(z) > _SERIES_RADIUS:
        values = [math.expm1(z) / z]
        for k in range(1, count):
            values.append((values[-1] - 1.0 / math.factorial(k)) / z)
        return values
    # The recurrence upwards loses all digits near 0; downwards from a series of the last one, it is stable.
    term = 1.0 / math.factorial(count)
    last = term
    for n in range(count + 1, count + 1 + _SERIES_TERMS):
        term *= z / n
        last += term
    values = [last]
    for k in range(count - 1, 0, -1):
        values.append(z * values[-1] + 1.0 / math.factorial(k))
    return values[::-1]


def difference_weights(step: SolverStep, move: Transition, offsets: Sequence[float], extra: int) -> Array:
    """Weights w_j of the differences F_j - F_s, for views at `offsets` (in units of h) from level s, nearest first.

    `extra` is 0 for the predictor and 1 for the corrector, which has one point and one order more. Where one
    difference estimates the slope, `b1` and `b2` scale it as UniPC's order-2 predictor and order-1 corrector do
    (Zhao et al. 2023, arXiv 2302.04867, section 3.4).

    Returns:
        one weight per offset; without slope and curvature factors the sum over j is h^2 phi_2 F' + h^3 phi_3 F'' + ...
    """
    n_derivatives = step.order - 1 + extra
    weights = np.zeros(len(offsets))
    if n_derivatives == 0:
        return weights
    n_slope = (step.slope_points or 0) + extra
    terms = move.h * np.array(phis(n_derivatives + 1, move.z)[1:])
    if n_slope == 1 and step.relaxation != "taylor" and step.domain == "lambda":
        terms[0] = 0.5 * move.h * (1.0 if step.relaxation == "b1" else math.expm1(move.z) / move.z)
    terms[0] *= step.slope
    if n_derivatives >= 2:
        terms[1] *= step.curvature
    if n_slope != n_derivatives:
        weights[:n_slope] = derivative_weights(offsets[:n_slope], np.array([terms[0]]))
        terms[0] = 0.0
    weights[:n_derivatives] += derivative_weights(offsets[:n_derivatives], terms)
    return weights


def derivative_weights(offsets: Sequence[float], terms: Array) -> Array:
    """Weights of differences whose sum is sum_k terms[k-1] h^k F^(k), exact for polynomials of degree len(offsets)."""
    m = len(offsets)
    padded = np.concatenate([terms, np.zeros(m - len(terms))])
    if m == 1:
        return padded / offsets[0]
    powers = np.arange(1, m + 1)
    factorials = np.array([math.factorial(k) for k in range(1, m + 1)])
    return np.linalg.solve(np.asarray(offsets)[None, :] ** powers[:, None] / factorials[:, None], padded)
