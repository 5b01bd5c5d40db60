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
from autotune.spaces.solver_step import Domain, Relaxation, SolverStep, View

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
    low = 0.0 if not flow else np.nextafter(0.0, 1.0)
    for i, t in enumerate(times):
        if not low <= t <= noise.t_max:
            bound = "(0" if flow else "[0"
            raise ScheduleError(f"time[{i}] must lie in {bound}, {noise.t_max:g}] for this noise schedule; got {t:g}")
    lam = noise.lam(times)
    if np.any(np.diff(lam) <= 0):
        i = int(np.argmax(np.diff(lam) <= 0))
        raise ScheduleError(
            f"timesteps must stand for different noise levels; got the same one for time[{i}] = {times[i]!r} "
            f"and time[{i + 1}] = {times[i + 1]!r}; move them apart"
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
            f"solver[{i}]: the velocity view needs a flow; got a variance-preserving schedule; use noise or data"
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


def transition(view: View, domain: Domain, levels: Levels, i: int) -> Transition:
    """Factors of the step that leaves level `i`; in the lambda domain the level reached must not be the clean end."""
    a_s, a_t, s_s, s_t = levels.alpha[i], levels.alpha[i + 1], levels.sigma[i], levels.sigma[i + 1]
    h = levels.position(i + 1, domain) - levels.position(i, domain)
    if domain == "sigma":
        return Transition(1.0, 1.0, h, 0.0) if view == "velocity" else Transition(a_t / a_s, a_t, h, 0.0)
    if view == "data":
        return Transition(s_t / s_s, a_t, h, -h)
    return Transition(a_t / a_s, -s_t, h, h)


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


def difference_weights(move: Transition, offsets: Sequence[float], relaxation: Relaxation) -> NDArray[np.float64]:
    """Weights w_j of the differences F_j - F_s, for views at `offsets` (in units of h) from level s.

    The first m derivatives come from m differences. Where m is 1, `b1` and `b2` scale that derivative as UniPC's
    order-2 predictor and order-1 corrector do (Zhao et al. 2023, arXiv 2302.04867, section 3.4).

    Returns:
        m weights; the sum over j equals h^2 phi_2 F' + h^3 phi_3 F'' + ... .
    """
    m = len(offsets)
    if m == 0:
        return np.zeros(0)
    if m == 1 and relaxation != "taylor":
        b = move.z if relaxation == "b1" else math.expm1(move.z)
        return np.array([0.5 * move.h * b / (move.z * offsets[0])])
    terms = move.h * np.array(phis(m + 1, move.z)[1:])
    if m == 1:
        return np.asarray(terms / offsets[0])
    powers = np.arange(1, m + 1)
    factorials = np.array([math.factorial(k) for k in range(1, m + 1)])
    system = np.asarray(offsets)[None, :] ** powers[:, None] / factorials[:, None]
    return np.linalg.solve(system, terms)
