"""One row of a schedule's solver column: the formula that leaves this step's noise level."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from autotune.spaces.errors import ScheduleError

View = Literal["data", "noise", "velocity"]
Domain = Literal["lambda", "sigma"]
Relaxation = Literal["taylor", "b1", "b2"]

MAX_ORDER = 6

PLAIN_FACTORS = ("slope", "curvature", "state_gain", "output_gain")
FACTORS = (*PLAIN_FACTORS, "guidance_gain")
"""The real numbers of a row that can be varied or fitted; where one has no effect, it is 1 in canonical form."""

FACTOR_LIMIT = 100.0
"""Largest size of a factor: searches stay within 4, and fits within a few units of where they start."""

MAX_STOCHASTIC = 10.0
"""Ten times ancestral sampling: the fresh noise is all that is left of a state."""


def factors_of(*, guided: bool) -> tuple[str, ...]:
    """Those that have an effect on a run with classifier-free guidance, or without."""
    return FACTORS if guided else PLAIN_FACTORS


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverStep:
    """The unified step (Liu et al. 2024, arXiv 2312.07243), training-free part.

    `view` is the network view F that is extrapolated, `domain` the variable it is extrapolated in (`lambda`:
    exponential integrator; `sigma`: Adams-Bashforth), `order` the number of Taylor terms F, F', F'', ...

    The derivatives are estimated from the differences to the order - 1 nearest buffered outputs at other levels, F'
    from the first `slope_points` of them (by default all). F' is multiplied by `slope` (the paper's linear relaxation
    1 + c h) and F'' by `curvature`. `relaxation` scales F' where a single difference estimates it: `b1` and `b2` are
    UniPC's B(h) = h and B(h) = e^h - 1 (Zhao et al. 2023), `taylor` is none. The state is multiplied by `state_gain`
    and F by `output_gain`: other than 1 they leave the theory, and make up for what few steps under strong guidance
    overshoot. So does `guidance_gain`, which multiplies the difference of the branches in the row's own network call,
    that is, a guidance scale s becomes 1 + guidance_gain (s - 1) there; it needs a run with classifier-free guidance.

    The step starts from the state of the call `origin` rows back, with that call's output as F. With 0 it is a
    multistep method. Rows that start from an earlier call make single-step methods; one that does so and stays at its
    own level, the next row having the same timestep, is an implicit corrector, for one more call.

    With `corrector`, the state that this step reaches is corrected with the network output found there, at one
    order more and no extra call (UniC, the paper's pseudo-corrector). `stochastic` is tau of the reverse-time SDE
    with noise rate tau^2 (Xue et al. 2023, arXiv 2309.05019, eq. 5): 0 is the ODE, 1 ancestral sampling.
    """

    view: View
    domain: Domain
    order: int
    relaxation: Relaxation = "taylor"
    corrector: bool = False
    slope_points: int | None = None
    slope: float = 1.0
    curvature: float = 1.0
    state_gain: float = 1.0
    output_gain: float = 1.0
    guidance_gain: float = 1.0
    origin: int = 0
    stochastic: float = 0.0

    def __post_init__(self) -> None:
        for name, allowed in (("view", View), ("domain", Domain), ("relaxation", Relaxation)):
            if getattr(self, name) not in get_args(allowed):
                raise ScheduleError(f"solver {name} must be one of {get_args(allowed)}; got {getattr(self, name)!r}")
        _check_integer("order", self.order, 1, MAX_ORDER)
        if self.slope_points is None:
            object.__setattr__(self, "slope_points", self.order - 1)
        _check_integer("slope_points", self.slope_points, min(1, self.order - 1), MAX_ORDER if self.order > 1 else 0)
        _check_integer("origin", self.origin, 0, MAX_ORDER)
        if not isinstance(self.corrector, bool):
            raise ScheduleError(f"solver corrector must be true or false; got {self.corrector!r}")
        for name in FACTORS:
            _check_number(name, getattr(self, name), -FACTOR_LIMIT, FACTOR_LIMIT)
        _check_number("stochastic", self.stochastic, 0.0, MAX_STOCHASTIC)
        if (self.view == "data" and self.domain == "sigma") or (self.view == "velocity" and self.domain == "lambda"):
            raise ScheduleError(
                f"view {self.view!r} has no {self.domain}-domain form; data goes with lambda, velocity with sigma, "
                "noise with both"
            )
        if self.stochastic and (self.view, self.corrector) != ("data", False):
            raise ScheduleError(
                f"solver stochastic must be 0 off the data view or with a corrector; got {self.stochastic} with view "
                f"{self.view!r}, corrector {self.corrector}"
            )

    @property
    def form(self) -> str:
        """The formula's family in words."""
        return f"{self.view} view in {self.domain}"

    @property
    def n_points(self) -> int:
        """Buffered outputs besides the origin's that the formula reads."""
        return max(self.order - 1, self.slope_points or 0)

    def limited(self, n_points: int) -> "SolverStep":
        """The step where only `n_points` outputs besides the origin's are buffered: of lower order."""
        if self.n_points <= n_points:
            return self
        slope_points = min(self.slope_points or 0, n_points)
        return replace(self, order=min(self.order, n_points + 1), slope_points=slope_points)


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ScheduleError(f"solver {name} must be an integer in {low}..{high}; got {value!r}")


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ScheduleError(f"solver {name} must be a number; got {value!r}")
    if not low <= value <= high:
        raise ScheduleError(f"solver {name} must be a number in [{low:g}, {high:g}]; got {value}; keep it there")
