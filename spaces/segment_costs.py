"""What it costs to reuse a feature from one call on up to the next refresh, by norm and source of the error."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError

SegmentNorm = Literal["l1", "l2", "cosine", "relative-l1"]
"""How a change of the feature X_t from X_i is measured: the sum of |X_t - X_i|, its Euclidean length, 1 less the
cosine, or the sum over that of |X_t|. Each of one sample; the first is CacheQuant's."""

SegmentSource = Literal["full-precision", "fake-quantized", "correction-aware"]
"""Whether X_i is the feature, the feature as a quantized layer reads it, rounded to 8 bits, or what the best affine map
of each of its channels makes of it."""

NORMS: tuple[SegmentNorm, ...] = get_args(SegmentNorm)

CostKey = tuple[SegmentSource, SegmentNorm]

COST_KEYS: tuple[CostKey, ...] = (
    *(("full-precision", norm) for norm in NORMS),
    *(("fake-quantized", norm) for norm in NORMS),
    ("correction-aware", "l2"),
)
"""What is measured. An affine map by least squares leaves a length; its other norms would need the features again."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class SegmentCosts:
    """Costs D(i, j) = sum over t = i .. j - 1 of the change of X_t from X_i, by key: (n_calls + 1, n_calls + 1).

    They are float64, and inf where j - i is not in 1 .. `longest`.
    """

    tables: Mapping[CostKey, Array]
    longest: int

    def __post_init__(self) -> None:
        if not self.tables:
            raise ScheduleError("costs of segments need a table at least; got none")
        for (source, norm), table in self.tables.items():
            start, end = np.ogrid[: len(table), : len(table)]
            known = (end > start) & (end - start <= self.longest)
            if table.shape != (len(table), len(table)) or not np.isfinite(table[known]).all() or table[known].min() < 0:
                raise ScheduleError(
                    f"costs of segments must be a square table, finite and at least 0 up to {self.longest} calls; got "
                    f"{source} {norm} of shape {table.shape}; record finite features"
                )

    @property
    def n_calls(self) -> int:
        """Network calls of a run."""
        return len(next(iter(self.tables.values()))) - 1


def segment_table(changes: Array) -> Array:
    """D (n + 1, n + 1) of changes (n, longest), where entry [i, k] is that of X_{i+k} from X_i; inf elsewhere."""
    n, longest = changes.shape
    table = np.full((n + 1, n + 1), np.inf)
    sums = changes.cumsum(axis=1)
    for i in range(n):
        last = min(longest, n - i)
        table[i, i + 1 : i + last + 1] = sums[i, :last]
    return table
