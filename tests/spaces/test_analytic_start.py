"""`start`: the analytic first step, from the noise that the pipeline draws down to the first network call."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotune.spaces.errors import ScheduleError
from autotune.spaces.schedule import Schedule, schedule_hash, schedule_to_json
from autotune.spaces.schedule_file import ScheduleFile, load_schedule_file, parse_schedule_file, save_schedule_file
from autotune.spaces.solver_formula import Prediction
from autotune.spaces.solver_program import compile_program
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.solvers import SOLVERS, make_solver
from autotune.spaces.time_grid import uniform_lambda

from .conftest import Array, Toy
from .noise_cases import FLOW, LINEAR, SCALED, Noise, schedule
from .test_schedule_file import CONDITION, PUBLISHED, kept_in_file

CASES: tuple[tuple[Noise, Prediction], ...] = ((LINEAR, "noise"), (SCALED, "velocity"), (FLOW, "velocity"))


def started(noise: Noise, n: int = 3, solver: str = "unipc-2") -> Schedule:
    times = uniform_lambda(noise, n, t_start=850.0, t_end=40.0)
    return replace(schedule(noise, times, make_solver(solver, n, noise)), start=noise.t_max)


@pytest.mark.parametrize(("noise", "prediction"), CASES)
def test_the_noise_is_scaled_from_one_level_to_the_other(noise: Noise, prediction: Prediction) -> None:
    plan = started(noise)
    program = compile_program(plan, noise, prediction)
    assert program.initial_scale == pytest.approx(float(noise.sigma(850.0) / noise.sigma(noise.t_max)), rel=1e-14)
    plain = compile_program(replace(plan, start=None), noise, prediction)
    assert plain.initial_scale == 1.0
    np.testing.assert_array_equal(program.state_coefs, plain.state_coefs)
    np.testing.assert_array_equal(program.output_coefs, plain.output_coefs)


@pytest.mark.parametrize(("noise", "prediction"), CASES)
def test_it_is_the_first_order_step_with_a_data_prediction_of_zero(
    noise: Noise, prediction: Prediction, toy: Toy
) -> None:
    plan = started(noise)
    time, _ = plan.solver_columns
    start = noise.t_max if noise is not FLOW else 999.0  # pure noise of a flow has no finite lambda
    plan = replace(plan, start=start)
    step = SolverStep(view="data", domain="lambda", order=1)
    called = compile_program(schedule(noise, (start, *time), (step,) * 4), noise, "data")
    state = toy.run(called, lambda x, t: np.zeros_like(x), toy.x0)[1]
    np.testing.assert_allclose(compile_program(plan, noise, prediction).initial_scale * toy.x0, state, rtol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("noise", "prediction"), CASES)
def test_where_all_data_is_zero_every_solver_stays_on_the_straight_line(
    noise: Noise, prediction: Prediction, solver: str, toy: Toy
) -> None:
    plan = started(noise, 6, solver)
    program = compile_program(plan, noise, prediction)

    def net(x: Array, t: float) -> Array:
        eps = x / float(noise.sigma(t))
        return eps * float(noise.alpha(t)) if prediction == "velocity" and noise is not FLOW else eps

    states = toy.run(program, net, toy.x0 * program.initial_scale)
    sigma = noise.sigma(np.array(plan.time)) / float(noise.sigma(noise.t_max))
    np.testing.assert_allclose(states[:-1], sigma[:, None] * toy.x0, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(states[-1], 0.0, atol=1e-6)


def test_json_and_file_keep_it_and_the_published_schema_knows_it(tmp_path: Path) -> None:
    data = kept_in_file(started(FLOW), tmp_path / "s.json")
    assert data["schedule"]["start"] == 1000.0
    data["condition"]["start_timestep"] = 700.0
    with pytest.raises(ScheduleError, match=r"schedule\.start must be the level of the starting noise, 700; got 1000"):
        parse_schedule_file(json.dumps(data))
    data["schedule"]["start"] = "high"
    assert not PUBLISHED.is_valid(data)
    with pytest.raises(ScheduleError, match=r"schedule\.start must be a number; got 'high'"):
        parse_schedule_file(json.dumps(data))


def test_it_changes_the_hash_and_its_absence_does_not() -> None:
    plan = started(FLOW)
    hashes = {schedule_hash(replace(plan, start=start)) for start in (None, 1000.0, 987.5)}
    assert len(hashes) == 3
    assert "start" not in schedule_to_json(replace(plan, start=None))


@pytest.mark.parametrize("start", [850.0, 3.0, float("nan"), float("inf")])
def test_it_must_lie_above_the_first_timestep(start: float) -> None:
    with pytest.raises(ScheduleError, match=r"start must be a finite number above time\[0\] = 850.0"):
        replace(started(LINEAR), start=start)


def test_it_must_lie_on_the_noise_schedule(tmp_path: Path) -> None:
    plan = replace(started(FLOW), start=1000.5)
    with pytest.raises(ScheduleError, match=r"start must lie in \(850, 1000\]; got 1000.5"):
        compile_program(plan, FLOW, "velocity")
    save_schedule_file(tmp_path / "s.json", ScheduleFile(schedule=plan, condition=CONDITION))
    with pytest.raises(ScheduleError, match=r"start must lie in"):
        load_schedule_file(tmp_path / "s.json")


def test_it_needs_a_solver() -> None:
    with pytest.raises(ScheduleError, match="start needs the columns time and solver"):
        Schedule(n_steps=4, start=1000.0)


@pytest.mark.parametrize("start", [1000, 1000.0])
def test_whole_numbers_are_numbers(start: float, tmp_path: Path) -> None:
    """A file holds floats, so a schedule of integers must have their hash."""
    plan = Schedule(n_steps=2, time=(900, 500), solver=make_solver("euler", 2, FLOW), start=start, compensation=(1, 1))
    save_schedule_file(tmp_path / "s.json", ScheduleFile(schedule=plan, condition=CONDITION))
    assert load_schedule_file(tmp_path / "s.json").schedule == plan
