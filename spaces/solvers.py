"""Known samplers as rows of the solver column: what a search starts from and is compared with.

Orders warm up (1, 2, ..) because a first step has no history, and fall again at the end where the published method
does so by default; both are the defaults of diffusers, so a recipe on a pipeline's own grid equals its scheduler.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from autotune.spaces.errors import ScheduleError
from autotune.spaces.noise_schedule import Flow, NoiseSchedule
from autotune.spaces.solver_step import Relaxation, SolverStep

Recipe = Callable[[int, NoiseSchedule], tuple[SolverStep, ...]]


def make_solver(name: str, n: int, noise: NoiseSchedule) -> tuple[SolverStep, ...]:
    """The solver column of a named sampler for `n` steps.

    Raises:
        ScheduleError: the name is not one of `SOLVERS`, or `n` is not positive.
    """
    if name not in SOLVERS:
        raise ScheduleError(f"solver must be one of {', '.join(SOLVERS)}; got {name!r}")
    if n < 1:
        raise ScheduleError(f"a solver needs at least one step; got {n}")
    return SOLVERS[name](n, noise)


def _adams_bashforth(order: int) -> Recipe:
    """Adams-Bashforth on the straight ODE: velocity in sigma on a flow, noise in sigma / alpha otherwise."""

    def make(n: int, noise: NoiseSchedule) -> tuple[SolverStep, ...]:
        view = "velocity" if isinstance(noise, Flow) else "noise"
        return tuple(SolverStep(view=view, domain="sigma", order=min(order, i + 1)) for i in range(n))  # type: ignore[arg-type]

    return make


def _euler(n: int, noise: NoiseSchedule) -> tuple[SolverStep, ...]:
    """Euler on a flow, DDIM with eta = 0 otherwise (Song et al. 2021, arXiv 2010.02502)."""
    if isinstance(noise, Flow):
        return _adams_bashforth(1)(n, noise)
    return (SolverStep(view="data", domain="lambda", order=1),) * n


def _dpm_solver_pp(relaxation: Relaxation) -> Recipe:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095): midpoint is `b2`, the other form `taylor`."""

    def make(n: int, noise: NoiseSchedule) -> tuple[SolverStep, ...]:
        orders = (min(2, i + 1, n - i) for i in range(n))
        return tuple(SolverStep(view="data", domain="lambda", order=k, relaxation=relaxation) for k in orders)

    return make


def _unipc(order: int, relaxation: Relaxation) -> Recipe:
    """UniPC on the data prediction (Zhao et al. 2023, arXiv 2302.04867): orders 1, 2, .., p, .., 2, 1."""

    def make(n: int, noise: NoiseSchedule) -> tuple[SolverStep, ...]:
        return tuple(
            SolverStep(
                view="data",
                domain="lambda",
                order=min(order, i + 1, n - i),
                relaxation=relaxation,
                corrector=i < n - 1,
            )
            for i in range(n)
        )

    return make


SOLVERS: Mapping[str, Recipe] = MappingProxyType(
    {
        "euler": _euler,
        "dpmpp-2m": _dpm_solver_pp("b2"),
        "dpmpp-2m-heun": _dpm_solver_pp("taylor"),
        "unipc-1": _unipc(1, "b2"),
        "unipc-2": _unipc(2, "b2"),
        "unipc-3": _unipc(3, "b2"),
        "unipc-1-b1": _unipc(1, "b1"),
        "unipc-2-b1": _unipc(2, "b1"),
        "unipc-3-b1": _unipc(3, "b1"),
        "ab2": _adams_bashforth(2),
        "ab3": _adams_bashforth(3),
    }
)
"""Samplers by name; "euler" is DDIM on a variance-preserving schedule."""
