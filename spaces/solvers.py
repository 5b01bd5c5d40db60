"""Known samplers as rows of the solver column: what a search starts from and is compared with.

Orders warm up (1, 2, ..) because a first step has no history, and fall again at the end where the published method
does so by default; both are the defaults of diffusers, so a recipe on a pipeline's own grid equals its scheduler.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from autotune.spaces.bdia_step import BdiaStep
from autotune.spaces.errors import ScheduleError
from autotune.spaces.momentum_step import Method, MomentumStep
from autotune.spaces.noise_schedule import Flow, NoiseSchedule
from autotune.spaces.solver_row import SolverRow
from autotune.spaces.solver_step import MAX_ORDER, Relaxation, SolverStep, View

Recipe = Callable[[int, NoiseSchedule], tuple[SolverRow, ...]]

_SHORT_RUN = 15
"""Below this number of calls the order of the multistep DPM-Solvers and DEIS falls to 2 and 1 at the end."""


def make_solver(name: str, n: int, noise: NoiseSchedule) -> tuple[SolverRow, ...]:
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

    def make(n: int, noise: NoiseSchedule) -> tuple[SolverRow, ...]:
        view = "velocity" if isinstance(noise, Flow) else "noise"
        return tuple(SolverStep(view=view, domain="sigma", order=min(order, i + 1)) for i in range(n))  # type: ignore[arg-type]

    return make


def _euler(n: int, noise: NoiseSchedule) -> tuple[SolverRow, ...]:
    """Euler on a flow, DDIM with eta = 0 otherwise (Song et al. 2021, arXiv 2010.02502)."""
    if isinstance(noise, Flow):
        return _adams_bashforth(1)(n, noise)
    return (SolverStep(view="data", domain="lambda", order=1),) * n


def _multistep(view: View, order: int, *, relaxation: Relaxation = "taylor", curvature: float = 1.0) -> Recipe:
    """Extrapolation through the last `order` outputs, from order 1 on and, on a short run, back to 1.

    In data view DPM-Solver++, in noise view DPM-Solver (Lu et al. 2022, arXiv 2206.00927) and DEIS in log rho (Zhang
    and Chen 2023, arXiv 2204.13902), all in multistep form. Curvature 1/2 is the order-3 form that DPM-Solver's
    authors and diffusers ship: it converges at order 2.
    """

    def make(n: int, noise: NoiseSchedule) -> tuple[SolverRow, ...]:
        tail = [n - i if n < _SHORT_RUN or i == n - 1 else order for i in range(n)]
        orders = [min(order, i + 1, tail[i]) for i in range(n)]
        return tuple(
            SolverStep(
                view=view,
                domain="lambda",
                order=k,
                relaxation=relaxation,
                curvature=curvature if k == 3 else 1.0,
            )
            for k in orders
        )

    return make


def _single_step(order: int) -> Recipe:
    """DPM-Solver++(2S), (3S) as diffusers has them: `order` calls per step (Lu et al. 2022, arXiv 2211.01095).

    The intermediate calls are where the grid has them; 1/2, and 1/3 and 2/3, of the step in lambda are the paper's,
    and those of a grid uniform in lambda. The last call is a step of its own.
    """

    def make(n: int, noise: NoiseSchedule) -> tuple[SolverRow, ...]:
        stages = (0 if i == n - 1 else i % order for i in range(n))
        return tuple(
            SolverStep(
                view="data",
                domain="lambda",
                order=min(2, k + 1),
                relaxation="b2" if k == 1 else "taylor",
                slope_points=min(1, k),
                origin=k,
            )
            for k in stages
        )

    return make


def _heun(n: int, noise: NoiseSchedule) -> tuple[SolverRow, ...]:
    """Pairs of calls on the straight ODE, each an explicit Runge-Kutta step of order 2; the last is a step of its own.

    On a grid that calls every level but the first twice (`autotune.spaces.time_grid.called_twice`) it is Heun's
    method (Karras et al. 2022, arXiv 2206.00364, algorithm 1); on other grids the first call of a pair leads to an
    intermediate level.
    """
    view: View = "velocity" if isinstance(noise, Flow) else "noise"
    stages = (0 if i == n - 1 else i % 2 for i in range(n))
    return tuple(SolverStep(view=view, domain="sigma", order=k + 1, origin=k) for k in stages)


def _momentum(method: Method, order: int, beta: float) -> Recipe:
    """Heavy ball or GHVB (Wizadwongsa et al. 2023, arXiv 2307.11118); a name's `1.8` is order 2 with beta 0.8."""

    def make(n: int, noise: NoiseSchedule) -> tuple[SolverRow, ...]:
        return tuple(MomentumStep(method=method, order=min(order, i + 1), beta=beta) for i in range(n))

    return make


def _bdia(n: int, noise: NoiseSchedule) -> tuple[SolverRow, ...]:
    """BDIA-DDIM with gamma 1/2 (Zhang et al. 2023, arXiv 2307.10829)."""
    return (BdiaStep(gamma=0.5),) * n


def _unipc(order: int, relaxation: Relaxation) -> Recipe:
    """UniPC on the data prediction (Zhao et al. 2023, arXiv 2302.04867): orders 1, 2, .., p, .., 2, 1."""

    def make(n: int, noise: NoiseSchedule) -> tuple[SolverRow, ...]:
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
        "heun": _heun,
        "dpmpp-2m": _multistep("data", 2, relaxation="b2"),
        "dpmpp-2m-heun": _multistep("data", 2),
        "dpmpp-3m": _multistep("data", 3, relaxation="b2"),
        "dpmpp-3m-upstream": _multistep("data", 3, relaxation="b2", curvature=0.5),
        "dpmpp-2s": _single_step(2),
        "dpmpp-3s": _single_step(3),
        "dpm-2": _multistep("noise", 2, relaxation="b2"),
        "dpm-3-upstream": _multistep("noise", 3, relaxation="b2", curvature=0.5),
        "deis-2": _multistep("noise", 2),
        "deis-3": _multistep("noise", 3),
        **{f"unipc-{p}": _unipc(p, "b2") for p in range(1, MAX_ORDER + 1)},
        **{f"unipc-{p}-b1": _unipc(p, "b1") for p in range(1, 4)},
        "ab2": _adams_bashforth(2),
        "ab3": _adams_bashforth(3),
        "hb-1.8": _momentum("hb", 2, 0.8),
        "ghvb-1.8": _momentum("ghvb", 2, 0.8),
        "ghvb-2.8": _momentum("ghvb", 3, 0.8),
        "ghvb-3.8": _momentum("ghvb", 4, 0.8),
        "bdia": _bdia,
    }
)
"""Samplers by name; "euler" is DDIM on a variance-preserving schedule, "-heun" a form of 2M without further calls."""
