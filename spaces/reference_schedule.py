"""The schedule of the reference: the converged run that every other schedule is compared with."""

from autotune.spaces.condition import Condition
from autotune.spaces.schedule import Schedule
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

REFERENCE_STEPS = 100


def reference_schedule(condition: Condition, n_steps: int = REFERENCE_STEPS) -> Schedule:
    """The converged run: from the condition's start level, in many steps of a solver of high order.

    The start is fixed because the default grids of different step counts do not all begin at the same noise level: a
    run of the default grid with more steps would solve another problem.
    """
    noise = condition.noise_schedule
    return Schedule(
        n_steps=n_steps,
        time=uniform_lambda(noise, n_steps, t_start=condition.start_timestep),
        solver=make_solver("unipc-3", n_steps, noise),
    )
