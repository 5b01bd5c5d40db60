"""What the numbers of a fit stand for: zero is the plain solver, the rest the column."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autotune.evaluators.fit_column import SETTINGS
from autotune.evaluators.fit_parameters import RATIO_RANGE, parameters_of
from autotune.evaluators.gradient_fit import fit_parameters
from autotune.evaluators.gradient_run import ProgramTensors, flatten
from autotune.spaces.column_fit import FitColumn
from autotune.spaces.errors import ScheduleError
from autotune.spaces.noise_schedule import Flow, NoiseSchedule, VariancePreserving
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_formula import Prediction
from autotune.spaces.solver_program import compile_program
from autotune.spaces.solver_step import FACTORS
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import called_twice, uniform_lambda

SCALED = VariancePreserving(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
NOISES: tuple[tuple[NoiseSchedule, Prediction], ...] = ((SCALED, "noise"), (Flow(mu=0.5), "velocity"))
N = 5
BY_GRADIENT = list(SETTINGS)


def plan_on(noise: NoiseSchedule, *, start: float | None = None) -> Schedule:
    first = noise.t_max if start is None else 0.9 * noise.t_max
    times = uniform_lambda(noise, N, t_start=first, t_end=20.0)
    return Schedule(n_steps=N, time=times, solver=make_solver("unipc-2", N, noise), start=start)


@pytest.mark.parametrize("column", BY_GRADIENT)
@pytest.mark.parametrize(("noise", "prediction"), NOISES)
def test_zero_is_the_schedule_itself(noise: NoiseSchedule, prediction: Prediction, column: FitColumn) -> None:
    plan = plan_on(noise)
    parameters = parameters_of(plan, column, noise, prediction)
    program, plain = parameters.build(np.zeros(parameters.n)), compile_program(plan, noise, prediction)
    for name in ("timesteps", "state_coefs", "output_coefs"):
        np.testing.assert_allclose(getattr(program, name), getattr(plain, name), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("noise", "prediction"), NOISES)
def test_corrections_go_on_from_those_that_are_there(noise: NoiseSchedule, prediction: Prediction) -> None:
    plan = plan_on(noise)
    plain = parameters_of(plan, FitColumn.CORRECTION, noise, prediction)
    first, second = 0.05 * np.random.default_rng(1).standard_normal((2, plain.n))
    again = parameters_of(plain.finish(first), FitColumn.CORRECTION, noise, prediction)
    for theta, expected in ((np.zeros(plain.n), first), (second, first + second)):
        program, other = again.build(theta), plain.build(expected)
        for name in ("timesteps", "state_coefs", "output_coefs"):
            np.testing.assert_allclose(getattr(program, name), getattr(other, name), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("column", BY_GRADIENT)
@pytest.mark.parametrize("start", [None, 990.0])
@pytest.mark.parametrize(("noise", "prediction"), NOISES)
def test_the_finished_schedule_is_the_program_that_was_fitted(
    noise: NoiseSchedule, prediction: Prediction, start: float | None, column: FitColumn
) -> None:
    plan = plan_on(noise, start=start)
    parameters = parameters_of(plan, column, noise, prediction)
    theta = 0.1 * np.random.default_rng(0).standard_normal(parameters.n)
    program = parameters.build(theta)
    finished = parameters.finish(theta)
    again = compile_program(finished, noise, prediction)
    for name in ("timesteps", "state_coefs", "output_coefs"):
        np.testing.assert_allclose(getattr(program, name), getattr(again, name), rtol=1e-12)
    assert program.initial_scale == again.initial_scale
    changed = {name: getattr(plan, name) for name in ("time", "solver", column)}
    assert replace(finished, **changed) == plan


@pytest.mark.parametrize("column", BY_GRADIENT)
def test_all_but_ratios_of_a_guided_run_have_factors_on_guidance(column: FitColumn) -> None:
    plan = plan_on(SCALED)
    plain, guided = (parameters_of(plan, column, SCALED, "noise", guided=guided) for guided in (False, True))
    assert guided.n == plain.n + (N if column is not FitColumn.COMPENSATION else 0)
    theta = 0.1 * np.random.default_rng(0).standard_normal(guided.n)
    assert plain.build(theta[: plain.n]).guidance_gains is None
    gains = guided.build(theta).guidance_gains
    assert (gains is None) == (column is FitColumn.COMPENSATION)
    if gains is not None:
        assert len(set(gains.tolist()) - {1.0}) == N
        again = compile_program(guided.finish(theta), SCALED, "noise").guidance_gains
        assert again is not None
        np.testing.assert_array_equal(gains, again)


@pytest.mark.parametrize("column", BY_GRADIENT)
@pytest.mark.parametrize("start", [None, 990.0])
def test_parameters_with_an_effect_move_the_program_and_no_two_alike(start: float | None, column: FitColumn) -> None:
    plan = plan_on(SCALED, start=start)
    parameters = parameters_of(plan, column, SCALED, "noise")
    n_times = N - (start is None)
    expected = {
        FitColumn.COMPENSATION: N - 2,
        FitColumn.SOLVER: n_times + 4 * N,
        FitColumn.CORRECTION: n_times + N * (N + 1),
    }
    assert parameters.n == expected[column]

    def flat(theta: np.ndarray) -> np.ndarray:
        program = parameters.build(theta)
        return np.concatenate([program.timesteps / 1000.0, program.state_coefs.ravel(), program.output_coefs.ravel()])

    moves = np.array([flat(0.05 * row) - flat(np.zeros(parameters.n)) for row in np.eye(parameters.n)])
    if column is FitColumn.SOLVER:
        # At the clean end a data prediction is all that counts: one gain, and no correction of the state before it.
        without_effect = [(0, "curvature"), (3, "curvature"), (4, "slope"), (4, "curvature"), (4, "state_gain")]
        places = [n_times + 4 * i + FACTORS.index(name) for i, name in without_effect]
        assert np.flatnonzero(~moves.any(axis=1)).tolist() == places
        return
    assert np.linalg.matrix_rank(moves, tol=1e-9) == parameters.n


def test_the_starting_noise_fixes_the_first_call_unless_a_step_leads_to_it() -> None:
    for start, moves in ((None, False), (990.0, True)):
        plan = plan_on(SCALED, start=start)
        parameters = parameters_of(plan, FitColumn.CORRECTION, SCALED, "noise")
        time, _ = plan.solver_columns
        assert (parameters.build(np.full(parameters.n, -0.1)).timesteps[0] != time[0]) == moves


def test_a_flows_first_call_close_to_pure_noise_stays() -> None:
    """Its lambda would run off to minus infinity."""
    noise = Flow(mu=0.5)
    plan = plan_on(noise, start=1000.0)
    assert plan.time is not None
    plan = replace(plan, time=(999.5, *plan.time[1:]))
    parameters = parameters_of(plan, FitColumn.SOLVER, noise, "velocity")
    for theta in (np.zeros(parameters.n), np.full(parameters.n, 0.1)):
        assert parameters.build(theta).timesteps[0] == 999.5


def test_ratios_stay_in_their_range() -> None:
    plan = plan_on(SCALED)
    parameters = parameters_of(plan, FitColumn.COMPENSATION, SCALED, "noise")
    for sign in (-1.0, 1.0):
        ratios = parameters.finish(np.full(parameters.n, 50.0 * sign)).compensation
        assert ratios is not None
        assert ratios[:2] == (1.0, 1.0)
        np.testing.assert_allclose(ratios[2:], 1.0 + RATIO_RANGE * sign)
    small = parameters.finish(np.full(parameters.n, 0.01)).compensation
    assert small is not None
    np.testing.assert_allclose(small[2:], 1.01, atol=1e-5)


def test_a_unit_moves_a_call_by_its_gap() -> None:
    plan = plan_on(SCALED)
    parameters = parameters_of(plan, FitColumn.CORRECTION, SCALED, "noise")
    theta = np.zeros(parameters.n)
    theta[0] = -1.0
    times = parameters.build(np.zeros(parameters.n)).timesteps
    assert parameters.build(theta).timesteps[1] == pytest.approx(times[2])


@pytest.mark.parametrize("n", [1, 2])
def test_ratios_need_three_steps(n: int) -> None:
    short = Schedule(n_steps=n, time=(900.0, 400.0)[:n], solver=make_solver("euler", n, SCALED))
    with pytest.raises(ScheduleError, match=f"at least 3 steps, the polynomial's points; got {n}"):
        parameters_of(short, FitColumn.COMPENSATION, SCALED, "noise")


@pytest.mark.parametrize(("noise", "prediction"), NOISES)
def test_a_time_that_is_called_twice_moves_as_one(noise: NoiseSchedule, prediction: Prediction) -> None:
    times = called_twice(uniform_lambda(noise, 4, t_end=20.0))
    plan = Schedule(n_steps=7, time=times, solver=make_solver("heun", 7, noise))
    parameters = parameters_of(plan, FitColumn.SOLVER, noise, prediction)
    assert parameters.n == 3 + 4 * 7
    wanted = parameters.build(np.where(np.arange(parameters.n) < 3, 0.1, 0.02))
    assert np.all(wanted.timesteps[1:] != np.array(times[1:]))
    np.testing.assert_array_equal(wanted.timesteps[1::2], wanted.timesteps[2::2])
    target = flatten(wanted).float()

    def residuals(tensors: ProgramTensors, prompts: NDArray[np.int64]) -> torch.Tensor:
        goal = ProgramTensors.unflatten(target)
        gaps = [(tensors.timesteps - goal.timesteps) / 1000, (tensors.output_coefs - goal.output_coefs).flatten()]
        return torch.cat(gaps).expand(len(prompts), -1)

    fit = fit_parameters(parameters, residuals, np.arange(3), np.arange(3, 4), SETTINGS[FitColumn.SOLVER])
    assert fit.after < 0.1 * fit.before
