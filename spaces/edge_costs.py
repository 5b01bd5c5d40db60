"""What it costs to approximate the network calls between two refreshes, for planners of cache schedules."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.cache_action import CacheAction
from autotune.spaces.errors import ScheduleError
from autotune.spaces.policy_calibration import PolicyCalibration

N_REPLAYS = 16
"""Runs in which one call alone is approximated, at most, to see what its error does to the result."""

EdgeSource = Literal["feature", "outcome", "hybrid"]
"""What costs are made of: errors of the hidden state; those times what they do to the result, seen by replaying each
edge, up to the longest, as a reuse; or, interpolated, by replaying single calls."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class EdgeCosts:
    """Costs of edges, float64 (n_calls, longest + 1, longest + 1, longest + 1, n_kinds), axes (j, d1, d2, gap, kind).

    An edge leads from a refresh in call j to the next one in call j + gap, or to the end where that is n_calls; the
    gap - 1 calls between are approximated with `kinds[kind]`. What a forecast makes of them depends on the refreshes
    before: they lie in calls j - d1 and j - d1 - d2, and a distance of 0 says that there is none, since call 0 is
    reached. Distances are at most `longest`, so the three values that a forecast of order 2 reads are known exactly.

    Entries with a gap of 0, and those that no run of n_calls can have, are not read; inf stands for a missing edge.
    `calibration` is what the same runs say for policies; None where nothing was measured.

    `leaf_errors` are, by component, SmoothCache's errors of reusing the value of call t in call t + k, float64
    (n_calls, longest gap + 1), of the same runs; empty where nothing recorded them.

    `guidance_gram` holds the inner products that `fitted_guidance` reads, float64 (n_calls, n_calls), of the same runs;
    None where guidance has no two branches in one batch.
    """

    kinds: tuple[CacheAction, ...]
    table: Array
    calibration: PolicyCalibration | None = None
    leaf_errors: Mapping[str, Array] = field(default_factory=dict)
    guidance_gram: Array | None = None

    def __post_init__(self) -> None:
        if not self.kinds or CacheAction.RECOMPUTE in self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ScheduleError(f"edges need one or more different actions that read; got {self.kinds}")
        shape = self.table.shape
        if len(shape) != 5 or shape[0] < 1 or not shape[1] == shape[2] == shape[3] >= 2 or shape[4] != len(self.kinds):
            raise ScheduleError(
                f"costs of edges must have the shape (n_calls, longest + 1, longest + 1, longest + 1, "
                f"{len(self.kinds)}) with n_calls, longest >= 1; got {shape}"
            )
        if not np.all(self.table >= 0.0):
            raise ScheduleError(
                f"costs of edges must be at least 0 and not NaN; got {self.table.min()}; use inf for a missing edge"
            )

    @property
    def n_calls(self) -> int:
        """Network calls of a run."""
        return int(self.table.shape[0])

    @property
    def longest(self) -> int:
        """Greatest distance between two refreshes."""
        return int(self.table.shape[1]) - 1


def replayed_calls(n_calls: int) -> list[int]:
    """The calls whose effect is measured: all after the first, or as many as are allowed, evenly spread."""
    return sorted({round(call) for call in np.linspace(1, n_calls - 1, min(N_REPLAYS, n_calls - 1))})
