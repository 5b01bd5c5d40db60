"""A solver program as a vector: what a predictor of a schedule's quality reads."""

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.noise_schedule import Flow, NoiseSchedule
from autotune.spaces.solver_formula import levels_of
from autotune.spaces.solver_program import SolverProgram

Array = NDArray[np.float64]


def unrolled(program: SolverProgram) -> tuple[Array, Array]:
    """The program without references to past states: x_{i+1} = a_i x_0 + sum_j b_ij o_j.

    Recipes that compute the same thing have the same form, and the sample depends on it smoothly.

    Returns:
        a (n,) and b (n, n), lower triangular.
    """
    n = program.n_steps
    states = np.zeros((n + 1, n + 1))  # rows over (x_0, o_0 .. o_{n-1})
    states[0, 0] = 1.0
    for i in range(n):
        states[i + 1] = program.state_coefs[i, : i + 1] @ states[: i + 1]
        states[i + 1, 1:] += program.output_coefs[i]
    return states[1:, 0], states[1:, 1:]


def encode_program(program: SolverProgram, noise: NoiseSchedule) -> Array:
    """Where the network is called, and with what weights each step uses which outputs.

    The weights are those of x / alpha over the step in sigma / alpha (x and sigma on a flow), so that Euler's is 1.

    Raises:
        ScheduleError: the network is not called at levels in order, which a correction may lead to.

    Returns:
        n levels in lambda, n factors on x_0, n (n + 1) / 2 weights, the factor on the starting noise, and n gains of
        guidance.
    """
    n = program.n_steps
    times = program.timesteps
    levels = levels_of(tuple(times.tolist()), noise)
    lam = noise.lam(np.minimum(times, noise.t_max - 1.0) if isinstance(noise, Flow) else times)
    alpha = np.ones(n) if levels.flow else np.array(levels.alpha[1:])
    on_start, on_outputs = unrolled(program)
    per_step = np.diff(on_outputs / alpha[:, None], axis=0, prepend=0.0)
    steps = np.diff(levels.straight)
    weights = per_step / np.where(steps == 0.0, 1.0, steps)[:, None]
    gains = np.ones(n) if program.guidance_gains is None else program.guidance_gains
    return np.concatenate([lam, on_start / alpha, weights[np.tril_indices(n)], [program.initial_scale], gains])
