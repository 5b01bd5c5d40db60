"""A row of the solver column whose run can be inverted exactly: bi-directional integration (BDIA)."""

from dataclasses import dataclass
from typing import ClassVar

from autotune.spaces.errors import ScheduleError


@dataclass(frozen=True, slots=True, kw_only=True)
class BdiaStep:
    """BDIA-DDIM (Zhang et al. 2023, arXiv 2307.10829): one network call looks forward and back.

    With DDIM(x; a to b) the first-order step, x_{i+1} = DDIM(x_i; i to i+1) + (1 - gamma) (x_{i-1} - DDIM(x_i; i to
    i-1)). `gamma` in [0, 1]: 1 is DDIM, the authors' code writes 1 - gamma for it; below 1 the two last states give
    back the starting noise (`autotune.spaces.solver_inversion`). The first row is DDIM.
    """

    gamma: float

    order: ClassVar[int] = 1
    n_points: ClassVar[int] = 0
    origin: ClassVar[int] = 0
    corrector: ClassVar[bool] = False

    def __post_init__(self) -> None:
        gamma = self.gamma
        if isinstance(gamma, bool) or not isinstance(gamma, int | float) or not 0.0 <= gamma <= 1.0:
            raise ScheduleError(f"BDIA gamma must be a number in [0, 1]; got {gamma!r}")

    @property
    def form(self) -> str:
        """The formula's family in words."""
        return "BDIA"
