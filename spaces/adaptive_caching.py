"""BAC's Adaptive Caching Scheduler (Ji et al. 2026, arXiv 2506.13456): when to refresh one branch, given how often."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.branch_tables import Metric
from autotune.spaces.errors import ScheduleError
from autotune.spaces.segmentation import GroupBounds, best_segmentation

ScoreForm = Literal["anchored", "adjacent"]
"""What a reuse in call t of the value of call i scores: the similarity of calls i and t, or that of t and t - 1.

The adjacent form is the paper's formula. Its best plan is simply to refresh the calls that are least similar to the
ones before, since every call that is not refreshed scores the same whatever its refresh."""

Array = NDArray[np.float64]

RESOLUTION = 2.0**-40
"""Of entries, relative to the greatest: sums of their multiples are exact, so that equal ones tie on every machine."""


def adaptive_refreshes(
    table: Array,
    n_refreshes: int,
    *,
    metric: Metric = "cosine",
    form: ScoreForm = "anchored",
    force_last: bool = False,
) -> tuple[int, ...]:
    """The calls in which a branch is refreshed, ascending from 0, so that its reuses score best in sum.

    With refreshes c_1 = 0 < c_2 < ... < c_M, the sum over m of the scores of calls c_m + 1 .. c_{m+1} - 1 is maximised,
    or minimised where the metric is a distance, by `best_segmentation`. Of equal sums, at `RESOLUTION`, the one with
    the lowest last refresh is taken, and so on backwards.

    Args:
        table: similarities or distances of the branch's outputs (n_calls, n_calls), of the earlier call first.
        n_refreshes: M, in 1 .. n_calls.
        metric: what the table holds.
        form: which entries are added up.
        force_last: refresh the last call too, as one of the M.

    Raises:
        ScheduleError: the table is no square or not finite, or there can't be so many refreshes.
    """
    scores = _group_scores(np.asarray(table, np.float64), form)
    bounds = GroupBounds(n_groups=n_refreshes, forced=(len(scores) - 2,) if force_last else ())
    return best_segmentation(scores, bounds, maximize=metric == "cosine").starts


def _group_scores(table: Array, form: ScoreForm) -> Array:
    """Score of refreshing call s and reusing its value up to call e - 1, at [s, e], in units of the resolution.

    float64 (n_calls + 1, n_calls + 1).
    """
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not len(table):
        raise ScheduleError(f"a branch's table must be (n_calls, n_calls), n_calls >= 1; got shape {table.shape}")
    if not np.isfinite(np.triu(table, 1)).all():
        raise ScheduleError("a branch's table must be finite above its diagonal; record the branches again")
    n = len(table)
    later = table if form == "anchored" else np.broadcast_to(np.append(0.0, np.diagonal(table, 1)), (n, n))
    reuses = np.triu(later, 1)
    unit = RESOLUTION * 2.0 ** np.ceil(np.log2(np.abs(reuses).max(initial=0.0) or 1.0))
    scores = np.zeros((n + 1, n + 1))
    scores[:n, 1:] = np.cumsum(np.round(reuses / unit), axis=1)
    return scores
