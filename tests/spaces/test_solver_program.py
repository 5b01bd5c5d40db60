"""Programs against an independent stepping, the known special cases, and measured orders of convergence."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from autotune.spaces.errors import ScheduleError
from autotune.spaces.noise_schedule import Flow, VariancePreserving
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.solver_formula import Prediction, phis
from autotune.spaces.solver_program import SolverProgram, compile_program
from autotune.spaces.solver_step import Domain, Relaxation, SolverStep, View
from autotune.spaces.solvers import SOLVERS, make_solver
from autotune.spaces.time_grid import shifted_flow, uniform_lambda

Array = NDArray[np.float64]
Noise = VariancePreserving | Flow
Network = Callable[[Array, float], Array]

LINEAR = VariancePreserving(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
SCALED = VariancePreserving(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
FLOW = Flow(mu=0.5)
MEANS, SPREADS, WEIGHTS = np.array([-1.0, 0.7]), np.array([0.35, 0.5]), np.array([0.4, 0.6])


def denoise(x: Array, alpha: float, sigma: float) -> Array:
    """E[x_0 | x] of a two-component Gaussian mixture."""
    variance = (alpha * SPREADS) ** 2 + sigma**2
    gap = x[..., None] - alpha * MEANS
    logits = np.log(WEIGHTS) - 0.5 * np.log(variance) - 0.5 * gap**2 / variance
    posterior = np.exp(logits - logits.max(axis=-1, keepdims=True))
    posterior /= posterior.sum(axis=-1, keepdims=True)
    return np.asarray((posterior * (MEANS + alpha * SPREADS**2 / variance * gap)).sum(axis=-1))


def network(noise: Noise, prediction: Prediction) -> Network:
    """An exact network for the mixture, as a function of state and timestep."""

    def call(x: Array, t: float) -> Array:
        alpha, sigma = float(noise.alpha(t)), float(noise.sigma(t))
        data = denoise(x, alpha, sigma)
        eps = (x - alpha * data) / sigma
        if prediction == "velocity":
            return eps - data if isinstance(noise, Flow) else alpha * eps - sigma * data
        return eps if prediction == "noise" else data

    return call


def run(program: SolverProgram, net: Network, x: Array, exact: Sequence[Array] = ()) -> list[Array]:
    """All states of a run; the first ones are replaced by `exact`."""
    states, outputs = [x], []
    for i in range(program.n_steps):
        states[i] = exact[i] if i < len(exact) else states[i]
        outputs.append(net(states[i], float(program.timesteps[i])))
        row = zip(program.state_coefs[i], program.output_coefs[i], states, outputs, strict=False)
        states.append(np.asarray(sum(a * s + b * o for a, b, s, o in row)))
    return states


def schedule(noise: Noise, times: Sequence[float], solver: Sequence[SolverStep]) -> Schedule:
    return Schedule(n_steps=len(times), time=tuple(times), solver=tuple(solver))


def named(name: str, noise: Noise, n: int) -> Schedule:
    return schedule(noise, uniform_lambda(noise, n), make_solver(name, n, noise))


def same_program(a: SolverProgram, b: SolverProgram, tolerance: float = 1e-12) -> bool:
    return all(
        float(np.abs(p - q).max()) <= tolerance * max(1.0, float(np.abs(q).max()))
        for p, q in ((a.state_coefs, b.state_coefs), (a.output_coefs, b.output_coefs))
    )


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


X0 = np.random.default_rng(0).standard_normal(64)


def largest_gap(a: Sequence[Array], b: Sequence[Array]) -> float:
    assert np.all(np.isfinite(np.array([*a, *b])))
    return max(float(np.sqrt(((p - q) ** 2).mean() / (q**2).mean())) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("noise", [LINEAR, SCALED, FLOW], ids=["linear", "scaled", "flow"])
@pytest.mark.parametrize(("name", "midpoint"), [("dpmpp-2m", True), ("dpmpp-2m-heun", False)])
def test_dpm_solver_pp_equals_its_published_update(noise: Noise, name: str, midpoint: bool) -> None:
    plan = named(name, noise, 10)
    assert plan.time is not None
    net = network(noise, "data")
    ours = run(compile_program(plan, noise, "data"), net, X0)
    theirs = dpm_solver_pp_2m(noise, plan.time, net, X0, midpoint=midpoint)
    assert largest_gap(ours, theirs) < 1e-12


@pytest.mark.parametrize("noise", [LINEAR, FLOW], ids=["linear", "flow"])
@pytest.mark.parametrize("b_of", ["b1", "b2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_equals_its_published_algorithm(noise: Noise, order: int, b_of: str) -> None:
    plan = named(f"unipc-{order}" + ("-b1" if b_of == "b1" else ""), noise, 10)
    assert plan.time is not None
    net = network(noise, "data")
    ours = run(compile_program(plan, noise, "data"), net, X0)
    assert largest_gap(ours, unipc(noise, plan.time, net, X0, order, b_of)) < 1e-12


def uniform_steps(
    view: View, order: int, relaxation: Relaxation, domain: Domain = "lambda"
) -> Callable[[int], list[SolverStep]]:
    return lambda n: [SolverStep(view=view, domain=domain, order=order, relaxation=relaxation)] * n


@pytest.mark.parametrize("noise", [LINEAR, SCALED], ids=["linear", "scaled"])
def test_first_order_noise_and_data_forms_are_ddim(noise: Noise) -> None:
    times = uniform_lambda(noise, 10)
    expected = np.zeros((10, 10)), np.zeros((10, 10))
    for i, t in enumerate(times):
        a, s = float(noise.alpha(t)), float(noise.sigma(t))
        a_t, s_t = (float(noise.alpha(times[i + 1])), float(noise.sigma(times[i + 1]))) if i < 9 else (1.0, 0.0)
        expected[0][i, i], expected[1][i, i] = a_t / a, s_t - a_t * s / a
    for view in ("data", "noise"):
        program = compile_program(schedule(noise, times, uniform_steps(view, 1, "taylor")(10)), noise, "noise")
        assert np.abs(program.state_coefs / np.where(expected[0], expected[0], 1) - np.eye(10)).max() < 1e-11
        assert np.abs(program.output_coefs - expected[1]).max() < 1e-10


def test_first_order_on_a_flow_is_euler_in_every_form() -> None:
    times = shifted_flow(FLOW, 10)
    steps = np.diff(np.append(times, 0.0)) / 1000
    euler = compile_program(schedule(FLOW, times, make_solver("euler", 10, FLOW)), FLOW, "velocity")
    np.testing.assert_array_equal(euler.state_coefs, np.eye(10))
    np.testing.assert_allclose(euler.output_coefs, np.diag(steps), rtol=0, atol=1e-15)
    for view in ("data", "noise"):
        program = compile_program(schedule(FLOW, times, uniform_steps(view, 1, "taylor")(10)), FLOW, "velocity")
        np.testing.assert_allclose(program.state_coefs, np.eye(10), rtol=0, atol=1e-9)
        # Pure noise is clipped by 1e-6 where lambda is needed.
        np.testing.assert_allclose(program.output_coefs, np.diag(steps), rtol=0, atol=1.1e-6)


def test_order_two_with_b2_is_the_midpoint_form_and_without_the_taylor_form() -> None:
    times = uniform_lambda(LINEAR, 10)
    for name, relaxation in (("dpmpp-2m", "b2"), ("dpmpp-2m-heun", "taylor")):
        steps = uniform_steps("data", 2, relaxation)(10)  # type: ignore[arg-type]
        unified = compile_program(schedule(LINEAR, times, steps), LINEAR, "noise")
        recipe = compile_program(schedule(LINEAR, times, make_solver(name, 10, LINEAR)), LINEAR, "noise")
        assert same_program(unified, recipe)


def test_order_three_does_not_depend_on_relaxation() -> None:
    b2, b1 = (compile_program(named(name, LINEAR, 12), LINEAR, "noise") for name in ("unipc-3", "unipc-3-b1"))
    # Row 1 has order 2 and a first-order corrector before it; from row 4 on to the tail both are identical.
    for i in range(4, 10):
        np.testing.assert_allclose(b2.output_coefs[i], b1.output_coefs[i], rtol=0, atol=1e-13)
    assert not same_program(b2, b1)


def test_prediction_kinds_give_the_same_run() -> None:
    kinds: tuple[Prediction, ...] = ("noise", "velocity", "data")
    for noise in (LINEAR, FLOW):
        times = uniform_lambda(noise, 8, t_start=990.0)
        plan = schedule(noise, times, make_solver("unipc-3", 8, noise))
        plan = replace(plan, compensation=(1, 1, 1.1, 0.9, 1.2, 1, 0.8, 1.1))
        runs = [run(compile_program(plan, noise, kind), network(noise, kind), X0) for kind in kinds]
        for other in runs[1:]:
            assert largest_gap(runs[0][1:], other[1:]) < 1e-9


def test_compensation_of_one_is_exactly_nothing_and_otherwise_follows_the_formula() -> None:
    plan = named("dpmpp-2m", LINEAR, 6)
    assert plan.time is not None
    net = network(LINEAR, "data")
    plain = compile_program(plan, LINEAR, "data")
    ones = compile_program(replace(plan, compensation=(1.0,) * 6), LINEAR, "data")
    np.testing.assert_array_equal(plain.output_coefs, ones.output_coefs)
    ratios = (0.3, 0.4, 1.3, 0.8, 1.1, 0.9)
    program = compile_program(replace(plan, compensation=ratios), LINEAR, "data")

    alpha, sigma, lam = levels(LINEAR, plan.time)
    states, buffer = [X0], list[Array]()
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
    assert largest_gap(run(program, net, X0), states) < 1e-11


def test_compensation_precedes_the_corrector_base_but_not_the_fresh_output() -> None:
    """The corrector of a step uses the compensated base and history, and the new output as it came."""
    plan = named("unipc-1", LINEAR, 5)
    assert plan.time is not None
    program = compile_program(replace(plan, compensation=(1, 1, 1.5, 1, 1)), LINEAR, "data")
    alpha, sigma, lam = levels(LINEAR, plan.time)
    net = network(LINEAR, "data")
    states, buffer, z = [X0], list[Array](), X0
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
    assert largest_gap(run(program, net, X0), states) < 1e-12


def test_canonical_form_compiles_to_the_same_program() -> None:
    from autotune.spaces.inventory import Inventory

    steps = [
        SolverStep(view="data", domain="lambda", order=4, relaxation="b1", corrector=True),
        SolverStep(view="noise", domain="sigma", order=3, relaxation="b2"),
        SolverStep(view="data", domain="lambda", order=3, relaxation="b1", corrector=True),
        SolverStep(view="noise", domain="lambda", order=2, relaxation="b2", corrector=True),
        SolverStep(view="noise", domain="lambda", order=3, relaxation="b2", corrector=True),
    ]
    plan = replace(schedule(LINEAR, uniform_lambda(LINEAR, 5), steps), compensation=(0.7, 0.6, 1.2, 1.0, 0.8))
    inventory = Inventory.__new__(Inventory)  # only the cache column reads it
    canonical = canonical_schedule(plan, inventory)
    assert canonical != plan
    first, second = (compile_program(p, LINEAR, "noise") for p in (plan, canonical))
    np.testing.assert_array_equal(first.output_coefs, second.output_coefs)
    np.testing.assert_array_equal(first.state_coefs, second.state_coefs)


def test_the_history_is_as_short_as_the_formula() -> None:
    cases: list[tuple[str, Noise, Prediction, int, int]] = [
        ("euler", FLOW, "velocity", 0, 0),
        ("ab2", FLOW, "velocity", 0, 1),
        ("ab3", LINEAR, "noise", 0, 2),
        ("dpmpp-2m", LINEAR, "noise", 1, 1),
        ("unipc-2", LINEAR, "data", 0, 2),
        ("unipc-3", FLOW, "velocity", 3, 3),
    ]
    for name, noise, prediction, states_kept, outputs_kept in cases:
        program = compile_program(named(name, noise, 12), noise, prediction)
        assert max(last - j for j, last in enumerate(program.state_last_used)) == states_kept, name
        assert max(last - j for j, last in enumerate(program.output_last_used)) == outputs_kept, name


@pytest.mark.parametrize("z", [1e-9, -1e-4, 0.3, -0.99, 1.01, -13.0, 8.0])
def test_phi_functions_equal_their_integral(z: float) -> None:
    # phi_k(z) is the integral over [0, 1] of e^{(1-u) z} u^{k-1} / (k-1)!.
    nodes, weights = np.polynomial.legendre.leggauss(60)
    u = (nodes + 1) / 2
    for k, value in enumerate(phis(5, z), start=1):
        exact = float((weights / 2 * np.exp((1 - u) * z) * u ** (k - 1)).sum()) / math.factorial(k - 1)
        assert value == pytest.approx(exact, rel=1e-11)


# Orders of convergence.

ORDERS = {
    "euler": 1, "dpmpp-2m": 2, "dpmpp-2m-heun": 2, "ab2": 2, "ab3": 3,
    "unipc-1": 2, "unipc-2": 3, "unipc-3": 4, "unipc-1-b1": 2, "unipc-2-b1": 3, "unipc-3-b1": 4,
}  # fmt: skip


def test_every_solver_has_an_expected_order() -> None:
    assert set(ORDERS) == set(SOLVERS)


def exact_states(noise: Noise, times: Sequence[float]) -> list[Array]:
    """States of the probability-flow ODE d(x / alpha) / d(sigma / alpha) = eps at the timesteps."""
    lam = noise.lam(times)

    def slope(at: float, y: Array) -> Array:
        t = float(noise.t_from_lam(at))
        alpha, sigma = float(noise.alpha(t)), float(noise.sigma(t))
        return np.asarray(-(alpha * y - alpha * denoise(alpha * y, alpha, sigma)) / alpha)

    alpha = noise.alpha(times)
    solved = solve_ivp(slope, (lam[0], lam[-1]), X0[:16] / alpha[0], "DOP853", lam, rtol=1e-12, atol=1e-13)
    return [a * y for a, y in zip(alpha, solved.y.T, strict=True)]


def slopes(name: str, noise: Noise, sizes: Sequence[int], t_start: float, t_end: float) -> list[float]:
    """Observed orders: log2 of the ratio of errors at the last network call, from one grid to the next."""
    errors = []
    for n in sizes:
        times = uniform_lambda(noise, n, t_start=t_start, t_end=t_end)
        truth = exact_states(noise, times)
        # The warm-up and the falling orders at the end have errors of their own: exact starts, and a long tail cut off.
        steps = [replace(s, corrector=s.corrector and i > 3) for i, s in enumerate(make_solver(name, n + 9, noise)[:n])]
        prediction: Prediction = "velocity" if isinstance(noise, Flow) else "noise"
        states = run(
            compile_program(schedule(noise, times, steps), noise, prediction),
            network(noise, prediction),
            truth[0],
            truth[:4],
        )
        errors.append(float(np.sqrt(((states[n - 1] - truth[-1]) ** 2).mean())))
    return [math.log2(a / b) for a, b in pairwise(errors)]


@pytest.mark.parametrize(
    ("noise", "t_start", "t_end"), [(LINEAR, 700.0, 100.0), (FLOW, 900.0, 200.0)], ids=["vp", "flow"]
)
@pytest.mark.parametrize("name", SOLVERS)
def test_measured_order_of_convergence(name: str, noise: Noise, t_start: float, t_end: float) -> None:
    observed = slopes(name, noise, (40, 80, 160), t_start, t_end)
    assert ORDERS[name] - 0.1 < observed[-1] < ORDERS[name] + 0.3, observed


# Any recipe.


@st.composite
def plans(draw: st.DrawFn) -> tuple[Schedule, Noise, Prediction]:
    choices: list[Noise] = [LINEAR, SCALED, FLOW, Flow()]
    noise = draw(st.sampled_from(choices))
    flow = isinstance(noise, Flow)
    prediction: Prediction = draw(st.sampled_from(["noise", "velocity", "data"]))
    n = draw(st.integers(1, 9))
    grid = st.floats(1.0, noise.t_max, allow_nan=False)
    times = draw(st.lists(grid, min_size=n, max_size=n, unique_by=lambda t: round(t)))
    if draw(st.booleans()):
        times[0] = noise.t_max
    times = sorted(set(times), reverse=True)
    views: list[tuple[View, Domain]] = [
        ("data", "lambda"),
        ("noise", "lambda"),
        ("velocity", "sigma") if flow else ("noise", "sigma"),
    ]
    steps = []
    for _ in times:
        view, domain = draw(st.sampled_from(views))
        relaxation: Relaxation = draw(st.sampled_from(["taylor", "b1", "b2"]))
        order, corrector = draw(st.integers(1, 4)), draw(st.booleans())
        steps.append(SolverStep(view=view, domain=domain, order=order, relaxation=relaxation, corrector=corrector))
    ratios = tuple(draw(st.floats(0.5, 1.5)) for _ in times)
    return replace(schedule(noise, times, steps), compensation=ratios), noise, prediction


@settings(max_examples=150, deadline=None)
@given(plans())
def test_every_recipe_compiles_to_a_finite_program_that_keeps_a_straight_line(
    case: tuple[Schedule, Noise, Prediction],
) -> None:
    """If the network knows one x_0 and one noise, every formula of any order stays on alpha x_0 + sigma eps."""
    plan, noise, prediction = case
    program = compile_program(plan, noise, prediction)
    assert np.all(np.isfinite(program.output_coefs))
    assert not np.any(np.triu(program.state_coefs, 1))
    data, eps = 0.6, -1.3
    sigma = noise.sigma(program.timesteps)
    alpha = noise.alpha(program.timesteps)
    states = alpha * data + sigma * eps
    outputs = {
        "noise": np.full_like(states, eps),
        "data": np.full_like(states, data),
        "velocity": eps - data + 0 * states if isinstance(noise, Flow) else alpha * eps - sigma * data,
    }[prediction]
    reached = program.state_coefs @ states + program.output_coefs @ outputs
    size = np.abs(program.state_coefs).sum(axis=1) + np.abs(program.output_coefs).sum(axis=1)
    # Pure noise of a flow is clipped by 1e-6 where the formula needs lambda.
    clip = 1e-5 if isinstance(noise, Flow) and program.timesteps[0] > 999 else 0.0
    assert np.all(np.abs(reached - np.append(states[1:], data)) <= size * (1e-9 + clip))


# Errors and speed.


@pytest.mark.parametrize(
    ("noise", "times", "step", "words"),
    [
        (LINEAR, (999.0, 500.0), ("velocity", "sigma"), "velocity view needs a flow"),
        (FLOW, (1000.0, 500.0), ("noise", "sigma"), "no sigma-domain form on a flow"),
        (LINEAR, (999.5, 500.0), ("data", "lambda"), r"time\[0\] must lie in \[0, 999\]"),
        (FLOW, (1000.0, 0.0), ("data", "lambda"), r"time\[1\] must lie in \(0, 1000\]"),
        (FLOW, (1000.0, 999.9999), ("data", "lambda"), "different noise levels"),
    ],
)
def test_impossible_schedules_are_refused(
    noise: Noise, times: tuple[float, ...], step: tuple[View, Domain], words: str
) -> None:
    steps = [SolverStep(view=step[0], domain=step[1], order=1)] * 2
    with pytest.raises(ScheduleError, match=words):
        compile_program(schedule(noise, times, steps), noise, "velocity")


def test_a_program_needs_a_solver_column() -> None:
    with pytest.raises(ScheduleError, match="time and solver"):
        compile_program(Schedule(n_steps=3), LINEAR, "noise")


def test_programs_check_their_tables() -> None:
    good = compile_program(named("euler", FLOW, 3), FLOW, "velocity")
    with pytest.raises(ScheduleError, match="lower triangular"):
        replace(good, output_coefs=np.ones((3, 3)))
    with pytest.raises(ScheduleError, match="finite"):
        replace(good, state_coefs=np.full((3, 3), np.nan))
    with pytest.raises(ScheduleError, match="shape"):
        replace(good, state_coefs=np.zeros((2, 3)))
    with pytest.raises(ValueError, match="read-only"):
        good.output_coefs[0, 0] = 1.0


def test_compiling_a_hundred_steps_is_fast() -> None:
    plan = named("unipc-3", LINEAR, 100)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        compile_program(plan, LINEAR, "noise")
        seconds.append(time.perf_counter() - start)
    # 8 ms on an idle core; a loaded machine gets some room.
    assert min(seconds) < 0.02
