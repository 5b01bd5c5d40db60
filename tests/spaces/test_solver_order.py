"""Measured orders of convergence, against the exact solution of the probability-flow ODE."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from autotune.spaces.noise_schedule import Flow, VariancePreserving
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_formula import Prediction
from autotune.spaces.solver_program import compile_program
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.solvers import SOLVERS, make_solver
from autotune.spaces.time_grid import called_twice, uniform_lambda

Array = NDArray[np.float64]
Noise = VariancePreserving | Flow

LINEAR = VariancePreserving(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
SCALED = VariancePreserving(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
FLOW = Flow(mu=0.5)

ORDERS = {
    "euler": 1, "heun": 2, "ab2": 2, "ab3": 3, "bdia": 1,
    "dpmpp-2m": 2, "dpmpp-2m-heun": 2, "dpmpp-3m": 3, "dpmpp-3m-upstream": 2, "dpmpp-2s": 2, "dpmpp-3s": 3,
    "dpm-2": 2, "dpm-3-upstream": 2, "deis-2": 2, "deis-3": 3,
    "unipc-1": 2, "unipc-2": 3, "unipc-3": 4, "unipc-4": 5, "unipc-5": 6, "unipc-6": 7,
    "unipc-1-b1": 2, "unipc-2-b1": 3, "unipc-3-b1": 4,
    "hb-1.8": 1, "ghvb-1.8": 2, "ghvb-2.8": 3, "ghvb-3.8": 4,
}  # fmt: skip


N_EXACT = 7
SIZES = (43, 85, 169)
"""One more than a multiple of 6: the last call is no intermediate one of a single-step method."""


def test_every_solver_has_an_expected_order() -> None:
    assert set(ORDERS) == set(SOLVERS)


@cache
def exact_states(toy: Any, noise: Noise, times: tuple[float, ...]) -> list[Array]:
    """States of the probability-flow ODE d(x / alpha) / d(sigma / alpha) = eps at the timesteps."""
    lam = noise.lam(times)

    def slope(at: float, y: Array) -> Array:
        t = float(noise.t_from_lam(at))
        alpha, sigma = float(noise.alpha(t)), float(noise.sigma(t))
        return np.asarray(-(alpha * y - alpha * toy.denoise(alpha * y, alpha, sigma)) / alpha)

    alpha = noise.alpha(times)
    levels, index = np.unique(lam, return_inverse=True)
    solved = solve_ivp(slope, (lam[0], lam[-1]), toy.x0[:16] / alpha[0], "DOP853", levels, rtol=1e-12, atol=1e-13)
    return [a * y for a, y in zip(alpha, solved.y.T[index], strict=True)]


def equal_steps(noise: Noise, n: int, *, t_start: float, t_end: float) -> tuple[float, ...]:
    """`n` timesteps at equal distances in the straight variable: sigma on a flow, sigma / alpha otherwise."""
    if isinstance(noise, Flow):
        return tuple(np.linspace(t_start, t_end, n).tolist())
    first, last = np.exp(-noise.lam([t_start, t_end]))
    return tuple(noise.t_from_lam(-np.log(np.linspace(first, last, n))).tolist())


Grid = Callable[[Noise, int], tuple[float, ...]]


def slopes(toy: Any, name: str, noise: Noise, sizes: Sequence[int], grid: Grid) -> list[float]:
    """Observed orders: log2 of the ratio of errors at the last network call, from one grid to the next."""
    errors = []
    for n in sizes:
        times = grid(noise, n)
        truth = exact_states(toy, noise, times)
        # The warm-up and the falling orders at the end have errors of their own: exact starts, and a long tail cut off.
        steps = [
            replace(s, corrector=i >= N_EXACT) if isinstance(s, SolverStep) and s.corrector else s
            for i, s in enumerate(make_solver(name, n + 9, noise)[:n])
        ]
        prediction: Prediction = "velocity" if isinstance(noise, Flow) else "noise"
        states = toy.run(
            compile_program(Schedule(n_steps=n, time=times, solver=tuple(steps)), noise, prediction),
            toy.network(noise, prediction),
            truth[0],
            truth[:N_EXACT],
        )
        errors.append(float(np.sqrt(((states[n - 1] - truth[-1]) ** 2).mean())))
    return [math.log2(a / b) for a, b in pairwise(errors)]


EQUAL_STEPS = [name for name in SOLVERS if name.startswith("ghvb")]
"""Solvers whose weights are for equal steps in the straight variable."""


@pytest.mark.parametrize(
    ("noise", "t_start", "t_end"), [(LINEAR, 700.0, 100.0), (FLOW, 900.0, 200.0)], ids=["vp", "flow"]
)
@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in EQUAL_STEPS])
def test_measured_order_of_convergence(toy: Any, name: str, noise: Noise, t_start: float, t_end: float) -> None:
    observed = slopes(toy, name, noise, SIZES, partial(uniform_lambda, t_start=t_start, t_end=t_end))
    assert ORDERS[name] - 0.1 < observed[-1] < ORDERS[name] + (0.3 if ORDERS[name] < 5 else 0.7), observed


@pytest.mark.parametrize(
    ("noise", "t_start", "t_end", "n"), [(LINEAR, 400.0, 150.0, 169), (FLOW, 900.0, 200.0, 85)], ids=["vp", "flow"]
)
@pytest.mark.parametrize("name", EQUAL_STEPS)
def test_measured_order_with_equal_steps(
    toy: Any, name: str, noise: Noise, t_start: float, t_end: float, n: int
) -> None:
    (observed,) = slopes(toy, name, noise, (n, 2 * n - 1), partial(equal_steps, t_start=t_start, t_end=t_end))
    assert abs(observed - ORDERS[name]) < 0.1


@pytest.mark.parametrize("noise", [LINEAR, FLOW], ids=["vp", "flow"])
def test_heun_on_its_own_grid_is_of_order_two_in_its_steps(toy: Any, noise: Noise) -> None:
    def grid(noise: Noise, n: int) -> tuple[float, ...]:
        return called_twice(uniform_lambda(noise, (n + 1) // 2, t_start=700.0, t_end=100.0))

    observed = slopes(toy, "heun", noise, SIZES, grid)
    assert abs(observed[-1] - 2) < 0.1, observed
