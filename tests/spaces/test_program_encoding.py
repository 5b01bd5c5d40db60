"""A program as a vector: what computes the same has the same one."""

from dataclasses import replace

import numpy as np
import pytest

from autotune.spaces.errors import ScheduleError
from autotune.spaces.noise_schedule import Flow
from autotune.spaces.program_correction import ProgramCorrection
from autotune.spaces.program_encoding import encode_program, unrolled
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_formula import Prediction
from autotune.spaces.solver_program import SolverProgram, compile_program
from autotune.spaces.solver_row import SolverRow
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.solvers import SOLVERS
from autotune.spaces.time_grid import uniform_lambda

from .conftest import Array, Toy
from .noise_cases import FLOW, LINEAR, SCALED, Noise, named, schedule

CASES: tuple[tuple[Noise, Prediction], ...] = ((LINEAR, "noise"), (SCALED, "velocity"), (FLOW, "velocity"))


def random_schedule(noise: Noise, seed: int) -> Schedule:
    """Any views, orders, factors and levels."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 9))
    times = np.sort(rng.uniform(2.0, 998.0, n))[::-1]
    sigma_view = "velocity" if isinstance(noise, Flow) else "noise"
    steps: list[SolverRow] = []
    for _ in range(n):
        view, domain = [("data", "lambda"), ("noise", "lambda"), (sigma_view, "sigma")][int(rng.integers(3))]
        order = int(rng.integers(1, 5))
        steps.append(
            SolverStep(
                view=view,  # type: ignore[arg-type]
                domain=domain,  # type: ignore[arg-type]
                order=order,
                corrector=bool(rng.integers(2)),
                slope_points=None if order == 1 else int(rng.integers(1, 4)),
                slope=float(rng.normal(1.0, 0.3)),
                curvature=float(rng.normal(1.0, 0.3)),
            )
        )
    made = schedule(noise, times.tolist(), steps)
    return replace(made, start=999.0) if rng.random() < 0.5 else made


def encoding(plan: Schedule, noise: Noise, prediction: Prediction) -> Array:
    return encode_program(compile_program(plan, noise, prediction), noise)


@pytest.mark.parametrize(("noise", "prediction"), CASES)
@pytest.mark.parametrize("seed", range(6))
def test_the_unrolled_program_runs_through_the_same_states(
    noise: Noise, prediction: Prediction, seed: int, toy: Toy
) -> None:
    program = compile_program(random_schedule(noise, seed), noise, prediction)
    on_start, on_outputs = unrolled(program)
    n = program.n_steps
    flat = SolverProgram(
        timesteps=program.timesteps,
        state_coefs=np.c_[on_start, np.zeros((n, n - 1))],
        output_coefs=on_outputs,
        noise_coefs=np.zeros(n),
    )
    net = toy.network(noise, prediction)
    expected = np.array(toy.run(program, net, toy.x0))
    np.testing.assert_allclose(toy.run(flat, net, toy.x0), expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("noise", [LINEAR, SCALED])
def test_the_four_first_order_formulas_have_one_encoding(noise: Noise) -> None:
    times = uniform_lambda(noise, 6, t_end=20.0)
    steps = [
        SolverStep(view="data", domain="lambda", order=1),
        SolverStep(view="noise", domain="lambda", order=1),
        SolverStep(view="noise", domain="sigma", order=1),
    ]
    first, *others = [encoding(schedule(noise, times, [step] * 5 + steps[:1]), noise, "noise") for step in steps]
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("noise", "prediction"), [(LINEAR, "noise"), (FLOW, "velocity")])
def test_eulers_weights_are_one_and_on_the_diagonal(noise: Noise, prediction: Prediction) -> None:
    n = 5
    code = encoding(named("euler", noise, n), noise, prediction)
    assert code.shape == (3 * n + n * (n + 1) // 2 + 1,)
    weights = np.zeros((n, n))
    weights[np.tril_indices(n)] = code[2 * n : -n - 1]
    np.testing.assert_allclose(weights, np.eye(n), atol=1e-9)
    on_start = code[n : 2 * n] * (1.0 if isinstance(noise, Flow) else float(noise.alpha(noise.t_max)))
    np.testing.assert_allclose(on_start, 1.0, rtol=1e-9)
    assert code[-n - 1 :].tolist() == [1.0] * (n + 1)


@pytest.mark.parametrize(("noise", "prediction"), CASES)
def test_different_solvers_times_and_starts_differ(noise: Noise, prediction: Prediction) -> None:
    plans = [named(name, noise, 6) for name in ("euler", "dpmpp-2m", "unipc-2", "unipc-3")]
    time, steps = plans[0].solver_columns
    plans += [
        replace(plans[0], time=(*time[:2], time[2] + 1.0, *time[3:])),
        replace(plans[0], time=(990.0, *time[1:])),
        replace(plans[0], time=(990.0, *time[1:]), start=999.0),
        replace(plans[0], solver=tuple(replace(s, guidance_gain=0.9) for s in steps if isinstance(s, SolverStep))),
    ]
    codes = np.array([encoding(plan, noise, prediction) for plan in plans])
    gaps = np.linalg.norm(codes[:, None] - codes[None], axis=-1)
    assert gaps[np.triu_indices(len(plans), 1)].min() > 1e-7


@pytest.mark.parametrize(("noise", "prediction"), CASES)
def test_it_is_finite_for_every_solver_and_for_random_ones(noise: Noise, prediction: Prediction) -> None:
    for name in SOLVERS:
        assert np.all(np.isfinite(encoding(named(name, noise, 6), noise, prediction))), name
    for seed in range(40):
        assert np.all(np.isfinite(encoding(random_schedule(noise, seed), noise, prediction))), seed


def test_it_is_smooth_in_the_times() -> None:
    """A predictor can learn it: a tenth of the move changes it a tenth as much."""
    plan = named("unipc-3", LINEAR, 6)
    time, _ = plan.solver_columns

    def moved(by: float) -> Array:
        return encoding(replace(plan, time=(*time[:3], time[3] + by, *time[4:])), LINEAR, "noise")

    large, small = moved(0.1) - moved(0.0), moved(0.01) - moved(0.0)
    np.testing.assert_allclose(small * 10.0, large, atol=0.05 * float(np.abs(large).max()))


@pytest.mark.parametrize("shift", [(0.0, -900.0, 0.0, 0.0), (0.0, 0.0, 0.0, -1000.0)])
def test_calls_out_of_order_or_at_the_clean_end_are_refused(shift: tuple[float, ...]) -> None:
    """A correction may move a call past its neighbour; the formulas compute with the levels before the move."""
    plan = named("ab2", FLOW, 4)
    zeros = tuple((0.0,) * (i + 1) for i in range(4))
    moved = replace(plan, correction=ProgramCorrection(timesteps=shift, states=zeros, outputs=zeros))
    program = compile_program(moved, FLOW, "velocity")
    with pytest.raises(ScheduleError, match=r"time\[(1|3)\]"):
        encode_program(program, FLOW)
