"""Running a sampler backwards, from its result to the starting noise, without any iteration."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from autotune.spaces.errors import ScheduleError
from autotune.spaces.solver_program import SolverProgram

Image = TypeVar("Image", bound=Any)
"""Arrays or tensors: anything with `+`, `-` and multiplication by a float."""


def invert_program(
    program: SolverProgram, network: Callable[[Image, float], Image], sample: Image, before: Image
) -> Image:
    """The starting noise x_0 of a run, up to rounding (Zhang et al. 2023, arXiv 2307.10829).

    Every step x_{i+1} = a x_{i-1} + b x_i + c o_i is solved for x_{i-1}. Rounding errors grow by 1 / (1 - gamma) per
    step of BDIA, so a small gamma inverts best.

    Args:
        program: of a schedule with `BdiaStep` rows, gamma below 1 (the first row may be any of first order).
        network: raw output at a state and a model timestep; called n - 1 times.
        sample: x_n, what the run returned.
        before: x_{n-1}, the state of the last network call.

    Returns:
        x_0, the state of the first network call.

    Raises:
        ScheduleError: a row reads more than its own call and the state before, does not read that state, or adds
            noise.
    """
    a, b, c = np.diagonal(program.state_coefs, -1), np.diagonal(program.state_coefs), np.diagonal(program.output_coefs)
    banded = not np.any(np.tril(program.state_coefs, -2)) and not np.any(np.tril(program.output_coefs, -1))
    if program.n_steps < 2 or not banded or np.any(a == 0.0) or np.any(program.noise_coefs):
        raise ScheduleError(
            "only a run of two or more BDIA steps with gamma below 1 can be inverted; got other rows; make it with "
            "BdiaStep(gamma=0.1)"
        )
    later, here = sample, before
    for i in range(program.n_steps - 1, 0, -1):
        output = network(here, float(program.timesteps[i]))
        later, here = here, (later - float(b[i]) * here - float(c[i]) * output) * (1.0 / float(a[i - 1]))
    return here
