"""The unified step against the published update rules, stepped by a second implementation."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.spaces.noise_schedule import Flow
from autotune.spaces.solver_formula import phis
from autotune.spaces.solver_program import compile_program

from .noise_cases import FLOW, LINEAR, SCALED, Noise, named

Array = NDArray[np.float64]
Network = Callable[[Array, float], Array]


# A second implementation, straight from the published update rules and with numbers instead of rows.


def levels(noise: Noise, times: Sequence[float]) -> tuple[Array, Array, Array]:
    """(alpha, sigma, lambda) with the clean end appended; pure noise of a flow clipped."""
    sigma = np.array([min(float(noise.sigma(t)), 1 - 1e-6) for t in times])
    alpha = 1 - sigma if isinstance(noise, Flow) else np.sqrt(1 - sigma**2)
    with np.errstate(divide="ignore"):
        return np.append(alpha, 1.0), np.append(sigma, 0.0), np.append(np.log(alpha / sigma), np.inf)


def dpm_solver_pp_2m(
    noise: Noise, times: Sequence[float], net: Network, x: Array, *, midpoint: bool, last: int = 1
) -> list[Array]:
    alpha, sigma, lam = levels(noise, times)
    states: list[Array] = [x]
    data: list[Array] = []
    for i, t in enumerate(times):
        data.append(net(states[-1], t))
        h = lam[i + 1] - lam[i]
        p1 = math.expm1(-h)
        x = sigma[i + 1] / sigma[i] * states[-1] - alpha[i + 1] * p1 * data[-1]
        if 0 < i < len(times) - last:
            slope = (data[-1] - data[-2]) / ((lam[i] - lam[i - 1]) / h)
            x = x + alpha[i + 1] * (-0.5 * p1 if midpoint else p1 / h + 1) * slope
        states.append(x)
    return states


def unipc(noise: Noise, times: Sequence[float], net: Network, x: Array, order: int, b_of: str) -> list[Array]:
    """UniPC with its multistep warm-up, data prediction; algorithm 1 of the paper, R rho = b solved as written."""
    alpha, sigma, lam = levels(noise, times)
    n = len(times)
    states: list[Array] = [x]
    data: list[Array] = []
    corrected, used = x, 0
    for i, t in enumerate(times):
        fresh = net(states[-1], t)
        z = states[-1]
        if i:
            z = _unipc_update(corrected, [*data[-used:], fresh], i - 1, used, alpha, sigma, lam, b_of, True)
        data.append(fresh)
        used = min(order, i + 1, n - i)
        corrected = z
        states.append(_unipc_update(z, data[-used:], i, used, alpha, sigma, lam, b_of, False))
    return states


def _unipc_update(
    x: Array, data: list[Array], i: int, p: int, alpha: Array, sigma: Array, lam: Array, b_of: str, corrector: bool
) -> Array:
    h = lam[i + 1] - lam[i]
    base = data[p - 1]
    step = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * math.expm1(-h) * base
    ratios = [(lam[i - k] - lam[i]) / h for k in range(1, p)]
    slopes = [(data[p - 1 - k] - base) / r for k, r in enumerate(ratios, start=1)]
    if corrector:
        ratios, slopes = [*ratios, 1.0], [*slopes, data[p] - base]
    scale = -h if b_of == "b1" else math.expm1(-h)
    m = len(ratios)
    if m == 0:
        return np.asarray(step)
    if m == 1:
        rho = np.array([0.5])
    else:
        right, term = [], math.expm1(-h) / -h
        for k in range(1, m + 1):
            term = (term - 1 / math.factorial(k - 1)) / -h if k > 1 else term
            right.append(-h * ((term - 1 / math.factorial(k)) / -h) * math.factorial(k) / scale)
        rho = np.linalg.solve(np.array([[r**k for r in ratios] for k in range(m)]), np.array(right))
    return np.asarray(step - alpha[i + 1] * scale * sum(r * d for r, d in zip(rho, slopes, strict=True)))


@pytest.mark.parametrize("noise", [LINEAR, SCALED, FLOW], ids=["linear", "scaled", "flow"])
@pytest.mark.parametrize(("name", "midpoint"), [("dpmpp-2m", True), ("dpmpp-2m-heun", False)])
def test_dpm_solver_pp_equals_its_published_update(toy: Any, noise: Noise, name: str, midpoint: bool) -> None:
    plan = named(name, noise, 10)
    assert plan.time is not None
    net = toy.network(noise, "data")
    ours = toy.run(compile_program(plan, noise, "data"), net, toy.x0)
    theirs = dpm_solver_pp_2m(noise, plan.time, net, toy.x0, midpoint=midpoint)
    assert toy.largest_gap(ours, theirs) < 1e-12


@pytest.mark.parametrize("noise", [LINEAR, FLOW], ids=["linear", "flow"])
@pytest.mark.parametrize("b_of", ["b1", "b2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_equals_its_published_algorithm(toy: Any, noise: Noise, order: int, b_of: str) -> None:
    plan = named(f"unipc-{order}" + ("-b1" if b_of == "b1" else ""), noise, 10)
    assert plan.time is not None
    net = toy.network(noise, "data")
    ours = toy.run(compile_program(plan, noise, "data"), net, toy.x0)
    assert toy.largest_gap(ours, unipc(noise, plan.time, net, toy.x0, order, b_of)) < 1e-12


def test_compensation_of_one_is_exactly_nothing_and_otherwise_follows_the_formula(toy: Any) -> None:
    plan = named("dpmpp-2m", LINEAR, 6)
    assert plan.time is not None
    net = toy.network(LINEAR, "data")
    plain = compile_program(plan, LINEAR, "data")
    ones = compile_program(replace(plan, compensation=(1.0,) * 6), LINEAR, "data")
    np.testing.assert_array_equal(plain.output_coefs, ones.output_coefs)
    ratios = (0.3, 0.4, 1.3, 0.8, 1.1, 0.9)
    program = compile_program(replace(plan, compensation=ratios), LINEAR, "data")

    alpha, sigma, lam = levels(LINEAR, plan.time)
    states, buffer = [toy.x0], list[Array]()
    for i, t in enumerate(plan.time):
        buffer.append(net(states[-1], t))
        if i >= 2:
            at = ratios[i] * t + (1 - ratios[i]) * plan.time[i - 1]
            buffer[i] = np.stack([np.polyval(np.polyfit(np.array(plan.time[i - 2 : i + 1]) / 999, column, 2), at / 999)
                                  for column in np.array(buffer[i - 2 :]).T])  # fmt: skip
        h = lam[i + 1] - lam[i]
        x = sigma[i + 1] / sigma[i] * states[-1] - alpha[i + 1] * math.expm1(-h) * buffer[i]
        if 0 < i < 5:
            x = x - 0.5 * alpha[i + 1] * math.expm1(-h) * h / (lam[i] - lam[i - 1]) * (buffer[i] - buffer[i - 1])
        states.append(x)
    assert toy.largest_gap(toy.run(program, net, toy.x0), states) < 1e-12


def test_compensation_precedes_the_corrector_base_but_not_the_fresh_output(toy: Any) -> None:
    """The corrector of a step uses the compensated base and history, and the new output as it came."""
    plan = named("unipc-1", LINEAR, 5)
    assert plan.time is not None
    program = compile_program(replace(plan, compensation=(1, 1, 1.5, 1, 1)), LINEAR, "data")
    alpha, sigma, lam = levels(LINEAR, plan.time)
    net = toy.network(LINEAR, "data")
    states, buffer, z = [toy.x0], list[Array](), toy.x0
    for i, t in enumerate(plan.time):
        fresh = net(states[-1], t)
        if i:
            p1 = math.expm1(-(lam[i] - lam[i - 1]))
            z = sigma[i] / sigma[i - 1] * z - alpha[i] * p1 * (buffer[-1] + 0.5 * (fresh - buffer[-1]))
        if i == 2:
            at = 1.5 * t - 0.5 * plan.time[1]
            nodes = plan.time[:3]
            weights = [math.prod((at - b) / (a - b) for b in nodes if b != a) for a in nodes]
            fresh = weights[0] * buffer[0] + weights[1] * buffer[1] + weights[2] * fresh
        buffer.append(fresh)
        states.append(sigma[i + 1] / sigma[i] * z - alpha[i + 1] * math.expm1(lam[i] - lam[i + 1]) * fresh)
    assert toy.largest_gap(toy.run(program, net, toy.x0), states) < 1e-12


@pytest.mark.parametrize("z", [1e-9, -1e-4, 0.3, -0.99, 1.01, -13.0, 8.0])
def test_phi_functions_equal_their_integral(z: float) -> None:
    # phi_k(z) is the integral over [0, 1] of e^{(1-u) z} u^{k-1} / (k-1)!.
    nodes, weights = np.polynomial.legendre.leggauss(60)
    u = (nodes + 1) / 2
    for k, value in enumerate(phis(5, z), start=1):
        exact = float((weights / 2 * np.exp((1 - u) * z) * u ** (k - 1)).sum()) / math.factorial(k - 1)
        assert value == pytest.approx(exact, rel=1e-11)
