"""Noise schedules of published models, and schedules on them."""

from collections.abc import Sequence

import numpy as np

from autotune.spaces.mean_reverting import MeanReverting
from autotune.spaces.noise_schedule import Flow, KnownNoise, VariancePreserving
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_program import SolverProgram
from autotune.spaces.solver_row import SolverRow
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

Noise = VariancePreserving | Flow

LINEAR = VariancePreserving(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
SCALED = VariancePreserving(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
COSINE = VariancePreserving(beta_schedule="squaredcos_cap_v2", beta_start=1e-4, beta_end=0.02)
FLOW = Flow(mu=0.5)
REVERTING = (
    MeanReverting(drift="constant", stationary_std=0.4),
    MeanReverting(drift="cosine", stationary_std=1.7, alpha_end=0.01, n_train=1000),
)


def schedule(noise: KnownNoise, times: Sequence[float], solver: Sequence[SolverRow]) -> Schedule:
    return Schedule(n_steps=len(times), time=tuple(times), solver=tuple(solver))


def named(name: str, noise: Noise, n: int) -> Schedule:
    return schedule(noise, uniform_lambda(noise, n), make_solver(name, n, noise))


def same_program(a: SolverProgram, b: SolverProgram, tolerance: float = 1e-12) -> bool:
    if (a.mean_coefs is None) != (b.mean_coefs is None):
        return False
    pairs = [(a.state_coefs, b.state_coefs), (a.output_coefs, b.output_coefs), (a.noise_coefs, b.noise_coefs)]
    if a.mean_coefs is not None and b.mean_coefs is not None:
        pairs.append((a.mean_coefs, b.mean_coefs))
    return all(float(np.abs(p - q).max()) <= tolerance * max(1.0, float(np.abs(q).max())) for p, q in pairs)
