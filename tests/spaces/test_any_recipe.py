"""Any recipe on any noise schedule: a finite program, exact where the network is, and one canonical form."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from numpy.typing import NDArray

from autotune.spaces.bdia_step import BdiaStep
from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import Inventory
from autotune.spaces.mean_reverting import MeanReverting
from autotune.spaces.momentum_step import MomentumStep
from autotune.spaces.noise_schedule import Flow, KnownNoise
from autotune.spaces.program_correction import ProgramCorrection
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.solver_formula import Prediction
from autotune.spaces.solver_program import SolverProgram, compile_program
from autotune.spaces.solver_row import SolverRow
from autotune.spaces.solver_step import Domain, SolverStep, View

from .noise_cases import COSINE, FLOW, LINEAR, REVERTING, SCALED, same_program, schedule

Array = NDArray[np.float64]
NOISES: tuple[KnownNoise, ...] = (LINEAR, SCALED, COSINE, FLOW, Flow(), *REVERTING)


@st.composite
def solver_rows(draw: st.DrawFn, flow: bool, i: int, stochastic: bool, gains: bool) -> SolverRow:
    kind = draw(st.sampled_from(["unified"] * 6 + ["hb", "ghvb", "bdia"]))
    if kind == "bdia":
        return BdiaStep(gamma=draw(st.floats(0.0, 1.0)))
    if kind != "unified":
        beta = draw(st.floats(0.0, 1.0, exclude_min=True))
        return MomentumStep(method=kind, order=draw(st.integers(1, 4)), beta=beta)  # type: ignore[arg-type]
    views: list[tuple[View, Domain]] = [
        ("data", "lambda"),
        ("noise", "lambda"),
        ("velocity", "sigma") if flow else ("noise", "sigma"),
    ]
    view, domain = draw(st.sampled_from(views))
    order, factors = draw(st.integers(1, 4)), st.sampled_from([1.0, 0.0, 0.5, 1.1, 2.0, -4.0])
    tau = draw(st.sampled_from([0.0, 0.5, 1.0])) if stochastic and view == "data" else 0.0
    return SolverStep(
        view=view,
        domain=domain,
        order=order,
        relaxation=draw(st.sampled_from(["taylor", "b1", "b2"])),
        corrector=draw(st.booleans()) and not tau,
        slope_points=draw(st.none() | st.integers(1, 4)) if order > 1 else None,
        slope=draw(factors),
        curvature=draw(factors),
        state_gain=draw(factors) if gains else 1.0,
        output_gain=draw(factors) if gains else 1.0,
        guidance_gain=draw(factors),
        origin=min(i, draw(st.sampled_from([0, 0, 0, 1, 2]))),
        stochastic=tau,
    )


@st.composite
def plans(draw: st.DrawFn, stochastic: bool = False, gains: bool = False) -> tuple[Schedule, KnownNoise, Prediction]:
    noise = draw(st.sampled_from(NOISES))
    flow, reverting = isinstance(noise, Flow), isinstance(noise, MeanReverting)
    predictions: list[Prediction] = ["noise", "data"] if reverting else ["noise", "data", "velocity"]
    prediction = draw(st.sampled_from(predictions))
    lowest = 1 if flow or reverting else 0  # there, timestep 0 is the clean end
    eighths = st.integers(lowest, 8 * int(noise.t_max) - 1) | st.integers(lowest, 8)
    chosen = sorted(draw(st.sets(eighths, min_size=1, max_size=9)), reverse=True)
    levels = [k / 8 + draw(st.floats(0.0, 0.0625)) for k in chosen]
    start = None if reverting else draw(st.none() | st.floats(levels[0] + 0.01, noise.t_max))
    if start is None and draw(st.booleans()):
        levels[0] = noise.t_max
    times: list[float] = []
    rows: list[SolverRow] = []
    for k, t in enumerate(levels):
        times.append(t)
        rows.append(draw(solver_rows(flow, len(rows), stochastic, gains)))
        row = rows[-1]
        may_stay = k + 1 < len(levels) and row.origin > 0 and times[-1 - row.origin] != t
        if may_stay and draw(st.booleans()):  # an implicit corrector
            times.append(t)
            follower = draw(solver_rows(flow, len(rows), stochastic, gains))
            if isinstance(follower, SolverStep) and times[-1 - follower.origin] == t:
                follower = replace(follower, origin=0)
            rows.append(follower)
    if isinstance(rows[-1], SolverStep) and rows[-1].domain == "lambda":
        rows[-1] = replace(rows[-1], origin=0)
    ratios = tuple(draw(st.floats(0.5, 1.5)) for _ in times)
    plan = replace(schedule(noise, times, rows), compensation=ratios, start=start)
    correction = addends(len(times), draw(st.sampled_from([0.0, 0.1, 30.0]))) if gains and draw(st.booleans()) else None
    return replace(plan, correction=correction), noise, prediction


def addends(n: int, size: float) -> ProgramCorrection:
    numbers = size * np.random.default_rng(n).standard_normal((3, n, n))
    states, outputs = (tuple(tuple(row[: i + 1].tolist()) for i, row in enumerate(table)) for table in numbers[1:])
    return ProgramCorrection(timesteps=tuple(numbers[0, 0].tolist()), states=states, outputs=outputs)


def compiled(plan: Schedule, noise: KnownNoise, prediction: Prediction) -> SolverProgram:
    """The program; an example in a thousand, such as two calls from pure noise to the end, is too large for one."""
    try:
        return compile_program(plan, noise, prediction)
    except ScheduleError as error:
        if "must be at most 1e+09 in size" not in str(error):
            raise
        reject()


def outputs_on_a_line(
    prediction: Prediction, noise: KnownNoise, levels: tuple[Array, Array], line: tuple[float, float]
) -> Array:
    """What the network puts out at the levels (alpha, sigma) if it knows one line = (x_0, noise)."""
    (alpha, sigma), (data, eps) = levels, line
    if prediction == "velocity":
        return eps - data + 0 * alpha if isinstance(noise, Flow) else alpha * eps - sigma * data
    return np.full_like(alpha, eps if prediction == "noise" else data)


@given(plans())
def test_every_recipe_compiles_to_a_finite_program_that_keeps_a_straight_line(
    case: tuple[Schedule, KnownNoise, Prediction],
) -> None:
    """If the network knows one x_0 and one noise, every formula of any order stays on alpha x_0 + sigma eps."""
    plan, noise, prediction = case
    program = compiled(plan, noise, prediction)
    assert np.all(np.isfinite(program.output_coefs))
    assert not np.any(np.triu(program.state_coefs, 1))
    assert not np.any(program.noise_coefs)
    data, eps, mean = 0.6, -1.3, 0.9
    sigma = noise.sigma(program.timesteps)
    alpha = noise.alpha(program.timesteps)
    states = alpha * data + sigma * eps
    if program.mean_coefs is not None:
        states += (1.0 - alpha) * mean
    outputs = outputs_on_a_line(prediction, noise, (alpha, sigma), (data, eps))
    reached = program.state_coefs @ states + program.output_coefs @ outputs
    if program.mean_coefs is not None:
        reached += program.mean_coefs * mean
    size = np.abs(program.state_coefs).sum(axis=1) + np.abs(program.output_coefs).sum(axis=1)
    # Pure noise of a flow is clipped by 1e-6 where the formula needs lambda.
    clip = 1e-5 if isinstance(noise, Flow) and program.timesteps[0] > 999 else 0.0
    assert np.all(np.abs(reached - np.append(states[1:], data)) <= size * (1e-9 + clip))
    if plan.start is not None:
        assert program.initial_scale == pytest.approx(float(sigma[0] / noise.sigma(plan.start)))


@given(plans(stochastic=True))
def test_stochastic_recipes_keep_the_data_and_the_size_of_the_noise(
    case: tuple[Schedule, KnownNoise, Prediction],
) -> None:
    """From x = alpha X + sigma e, a network that knows X leads to alpha X and noise of the size of sigma."""
    plan, noise, _ = case
    assert plan.solver is not None
    assert plan.time is not None
    rows = [row for row in plan.solver if isinstance(row, SolverStep) and row.view == "data"]
    times = sorted(set(plan.time), reverse=True)[: len(rows)]
    steps = [replace(row, origin=0) for row in rows[: len(times)]]
    if not steps:
        return
    program = compile_program(schedule(noise, times, steps), noise, "data")
    sigma = np.append(np.minimum(noise.sigma(times), 1 - 1e-6) if isinstance(noise, Flow) else noise.sigma(times), 0.0)
    alpha = np.append(1 - sigma[:-1] if isinstance(noise, Flow) else noise.alpha(times), 1.0)
    kept = np.diagonal(program.state_coefs)
    np.testing.assert_allclose(kept * alpha[:-1] + program.output_coefs.sum(axis=1), alpha[1:], rtol=1e-9, atol=1e-9)
    carried = np.hypot(kept * sigma[:-1], program.noise_coefs)
    np.testing.assert_allclose(carried, sigma[1:], rtol=1e-9, atol=1e-12)


@given(plans(stochastic=True, gains=True))
def test_canonical_form_compiles_to_the_same_program(case: tuple[Schedule, KnownNoise, Prediction]) -> None:
    plan, noise, prediction = case
    inventory = Inventory.__new__(Inventory)  # only the cache column reads it
    canonical = canonical_schedule(plan, inventory)
    assert canonical_schedule(canonical, inventory) == canonical
    first, second = (compiled(p, noise, prediction) for p in (plan, canonical))
    assert same_program(first, second)
    np.testing.assert_array_equal(first.timesteps, second.timesteps)
    gains = [row.guidance_gain if isinstance(row, SolverStep) else 1.0 for row in plan.solver_columns[1]]
    for program in (first, second):
        np.testing.assert_array_equal(gains if program.guidance_gains is None else program.guidance_gains, gains)
