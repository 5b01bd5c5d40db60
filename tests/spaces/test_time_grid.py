"""Grids against diffusers' own, and what every grid must satisfy."""

from typing import Any

import diffusers
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.spaces.errors import ScheduleError
from autotune.spaces.noise_schedule import Flow, VariancePreserving
from autotune.spaces.schedule import Schedule
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import karras, shift_flow_times, shifted_flow, uniform_lambda

D: Any = diffusers  # its constructors are untyped

LINEAR = VariancePreserving(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
SCALED = VariancePreserving(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
CONFIG: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@pytest.mark.parametrize(("grid", "flag"), [(karras, "use_karras_sigmas"), (uniform_lambda, "use_exponential_sigmas")])
def test_grids_are_those_of_diffusers(grid: Any, flag: str) -> None:
    theirs = D.EulerDiscreteScheduler(**CONFIG, **{flag: True})
    theirs.set_timesteps(12)
    times = np.array(grid(SCALED, 12))
    ratio = SCALED.sigma(times) / SCALED.alpha(times)
    np.testing.assert_allclose(ratio, theirs.sigmas[:-1], rtol=3e-4)  # sigma_min of theirs is 1 - float32


@pytest.mark.parametrize("mu", [0.0, 0.63, 1.15, -0.4])
def test_shifted_flow_is_the_grid_of_flux(mu: float) -> None:
    theirs = D.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / 9, 9), mu=mu)
    for times in (shifted_flow(Flow(mu=mu), 9), shifted_flow(Flow(), 9, mu=mu)):
        np.testing.assert_allclose(times, theirs.timesteps, rtol=1e-6)


def test_shift_is_a_translation_in_lambda_that_leaves_pure_noise() -> None:
    times = (1000.0, 700.0, 20.0)
    shifted = shift_flow_times(times, 0.9)
    assert shifted[0] == 1000.0
    np.testing.assert_allclose(Flow().lam(shifted[1:]), Flow().lam(times[1:]) - 0.9, rtol=1e-12)
    np.testing.assert_allclose(shift_flow_times(shifted, -0.9), times, rtol=1e-12)


def test_uniform_lambda_is_uniform_and_keeps_its_ends() -> None:
    times = uniform_lambda(LINEAR, 8, t_start=900.0, t_end=30.0)
    assert (times[0], times[-1]) == (900.0, 30.0)
    gaps = np.diff(LINEAR.lam(times))
    np.testing.assert_allclose(gaps, gaps[0], rtol=1e-9)


def test_karras_is_uniform_in_the_root_and_tends_to_uniform_lambda() -> None:
    times = karras(LINEAR, 8, t_start=900.0, t_end=30.0, rho=3.0)
    roots = np.exp(-LINEAR.lam(times) / 3.0)
    np.testing.assert_allclose(np.diff(roots), np.diff(roots)[0], rtol=1e-8)
    np.testing.assert_allclose(karras(LINEAR, 8, rho=1e7), uniform_lambda(LINEAR, 8), atol=0.01)


@given(
    n=st.integers(1, 100),
    noise=st.sampled_from([LINEAR, SCALED, Flow(mu=0.5), Flow(mu=-1.0)]),
    grid=st.sampled_from([uniform_lambda, karras]),
)
def test_grids_make_valid_schedules(n: int, noise: Any, grid: Any) -> None:
    grids = [grid(noise, n), *([shifted_flow(noise, n)] if isinstance(noise, Flow) else [])]
    for times in grids:
        plan = Schedule(n_steps=n, time=times, solver=make_solver("euler", n, noise))
        assert plan.time is not None
        assert plan.time[0] == noise.t_max
        assert len(plan.time) == n


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: uniform_lambda(LINEAR, 0), "at least one timestep"),
        (lambda: karras(LINEAR, 4, t_start=10.0, t_end=20.0), "t_end < t_start"),
        (lambda: uniform_lambda(LINEAR, 4, t_start=1000.0), "<= 999"),
        (lambda: uniform_lambda(Flow(), 4, t_end=0.0), "above 0 on a flow"),
        (lambda: karras(LINEAR, 4, rho=0.0), "rho"),
        (lambda: shifted_flow(Flow(), 0), "at least one timestep"),
    ],
)
def test_bad_arguments_are_refused(call: Any, words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        call()
