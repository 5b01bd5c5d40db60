"""A sampling run whose coefficients differ from one latent element to the next."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError

Array = NDArray[np.float64]
ElementTerm = tuple[int, Array, Array]


@dataclass(frozen=True, eq=False, kw_only=True)
class ElementwiseProgram:
    """Coefficients of a run of n network calls: x_{i+1} = bias_i + sum_j a_ij x_j + b_ij o_j, per element.

    `terms` holds per step (j, a_ij, b_ij) for the few calls that a step reads, `bias` one array per step; all arrays
    have the shape of one latent, without the batch axis. A dense table as in `SolverProgram` would be n / 4 times as
    large. Nothing is drawn: these are ODE solvers.

    Raises:
        ScheduleError: shapes disagree, a number is not finite, or a step looks ahead.
    """

    timesteps: Array
    terms: tuple[tuple[ElementTerm, ...], ...]
    bias: tuple[Array, ...]
    initial_scale = 1.0
    mean_coefs = None
    guidance_gains = None

    def __post_init__(self) -> None:
        n = len(self.timesteps)
        if n < 1 or len(self.terms) != n or len(self.bias) != n:
            raise ScheduleError(
                f"an elementwise program needs terms and a bias per timestep; got {n} timesteps, {len(self.terms)} "
                f"rows of terms and {len(self.bias)} biases"
            )
        for i, (row, bias) in enumerate(zip(self.terms, self.bias, strict=True)):
            if any(j > i for j, _, _ in row):
                raise ScheduleError(f"a step can't look ahead; got call {max(j for j, _, _ in row)} at step {i}")
            for values in (bias, *(array for _, *pair in row for array in pair)):
                if values.shape != self.element_shape:
                    raise ScheduleError(
                        f"coefficients of an elementwise program must have one shape; got {values.shape} beside "
                        f"{self.element_shape} at step {i}"
                    )
                if not np.all(np.isfinite(values)):
                    raise ScheduleError(
                        f"coefficients of an elementwise program must be finite; step {i} has others: "
                        "fit the statistics with more samples"
                    )

    @property
    def n_steps(self) -> int:
        """Number of network calls."""
        return len(self.timesteps)

    @property
    def element_shape(self) -> tuple[int, ...]:
        """Shape of one latent, as the scheduler sees it."""
        return self.bias[0].shape

    @property
    def noise_coefs(self) -> Array:
        """No fresh noise."""
        return np.zeros(self.n_steps)

    @cached_property
    def state_last_used(self) -> tuple[int, ...]:
        """Per state x_j the last step that reads it; -1 if none does."""
        return self._last_used(1)

    @cached_property
    def output_last_used(self) -> tuple[int, ...]:
        """Per network output o_j the last step that reads it; -1 if none does."""
        return self._last_used(2)

    def _last_used(self, which: int) -> tuple[int, ...]:
        last = [-1] * self.n_steps
        for i, row in enumerate(self.terms):
            for term in row:
                if np.any(term[which]):
                    last[term[0]] = i
        return tuple(last)
