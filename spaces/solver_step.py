"""One row of a schedule's solver column: the formula that leaves this step's noise level."""

from dataclasses import dataclass
from typing import Literal, get_args

from autotune.spaces.errors import ScheduleError

View = Literal["data", "noise", "velocity"]
Domain = Literal["lambda", "sigma"]
Relaxation = Literal["taylor", "b1", "b2"]

MAX_ORDER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverStep:
    """A step of the unified sampling framework (Liu et al. 2024, arXiv 2312.07243), training-free part.

    `view` is the network view that is extrapolated, `domain` the variable it is extrapolated in (`lambda`: exponential
    integrator; `sigma`: Adams-Bashforth), `order` the number of Taylor terms, estimated from as many outputs.
    `relaxation` scales the first derivative where a single difference estimates it: `b1` and `b2` are UniPC's B(h) = h
    and B(h) = e^h - 1 (Zhao et al. 2023), `taylor` is none. With `corrector`, the state that this step reaches
    is corrected with the network output found there, at no extra call (UniC).
    """

    view: View
    domain: Domain
    order: int
    relaxation: Relaxation = "taylor"
    corrector: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("view", View), ("domain", Domain), ("relaxation", Relaxation)):
            if getattr(self, name) not in get_args(allowed):
                raise ScheduleError(f"solver {name} must be one of {get_args(allowed)}; got {getattr(self, name)!r}")
        if isinstance(self.order, bool) or not isinstance(self.order, int) or not 1 <= self.order <= MAX_ORDER:
            raise ScheduleError(f"solver order must be an integer in 1..{MAX_ORDER}; got {self.order!r}")
        if not isinstance(self.corrector, bool):
            raise ScheduleError(f"solver corrector must be true or false; got {self.corrector!r}")
        if (self.view == "data" and self.domain == "sigma") or (self.view == "velocity" and self.domain == "lambda"):
            raise ScheduleError(
                f"view {self.view!r} has no {self.domain}-domain form; data goes with lambda, velocity with sigma, "
                "noise with both"
            )
