"""A trace: the states and network outputs of one dense run, which time grids are planned on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError


@dataclass(frozen=True, eq=False, kw_only=True)
class Trace:
    """What reached the scheduler at each of the M calls of a run, and the sample.

    `timesteps` (M,) float64, decreasing, are what the network was called with. `states` (M + 1, n, ...) float32 holds
    the n samples' states at the calls and, as the last entry, the final samples; `outputs` (M, n, ...) float32 the
    network's outputs after guidance, in the model's own prediction. States have the shape that the scheduler sees,
    such as (channels, height, width) or (tokens, channels). The arrays are made read-only.

    Raises:
        ScheduleError: shapes disagree, a number is not finite, or timesteps do not decrease.
    """

    timesteps: NDArray[np.float64]
    states: NDArray[np.float32]
    outputs: NDArray[np.float32]

    def __post_init__(self) -> None:
        m = len(self.timesteps)
        if self.timesteps.ndim != 1 or m < 1 or np.any(np.diff(self.timesteps) >= 0):
            raise ScheduleError(f"the timesteps of a trace must decrease strictly; got {self.timesteps}")
        if self.states.ndim < 2 or self.states.shape != (m + 1, *self.outputs.shape[1:]) or len(self.outputs) != m:
            raise ScheduleError(
                f"a trace of {m} calls must have {m + 1} states and {m} outputs of one shape; got "
                f"{self.states.shape} and {self.outputs.shape}"
            )
        for name in ("timesteps", "states", "outputs"):
            values = getattr(self, name)
            if not np.all(np.isfinite(values)):
                raise ScheduleError(f"{name} of a trace must be finite; trace other prompts, or in a wider dtype")
            values.setflags(write=False)

    @property
    def n_calls(self) -> int:
        """Network calls of the run."""
        return len(self.timesteps)

    @property
    def n_samples(self) -> int:
        """Samples that were drawn."""
        return int(self.states.shape[1])
