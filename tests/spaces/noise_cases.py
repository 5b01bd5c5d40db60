"""Noise schedules of published models, and schedules on them."""

from collections.abc import Sequence

from autotune.spaces.noise_schedule import Flow, VariancePreserving
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_row import SolverRow
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

Noise = VariancePreserving | Flow

LINEAR = VariancePreserving(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
SCALED = VariancePreserving(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
FLOW = Flow(mu=0.5)


def schedule(noise: Noise, times: Sequence[float], solver: Sequence[SolverRow]) -> Schedule:
    return Schedule(n_steps=len(times), time=tuple(times), solver=tuple(solver))


def named(name: str, noise: Noise, n: int) -> Schedule:
    return schedule(noise, uniform_lambda(noise, n), make_solver(name, n, noise))
