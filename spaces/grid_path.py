"""The cheapest way from the first noise level to the last in a given number of jumps, by dynamic programming."""

import math

import numpy as np
from numpy.typing import ArrayLike

from autotune.spaces.errors import ScheduleError


def cheapest_path(costs: ArrayLike, n_jumps: int, *, discount: float = 1.0) -> tuple[int, ...]:
    """The levels, first and last included, of the path of `n_jumps` jumps from level 0 to the last with the least cost.

    With V_1(i) = C[i, last], the value is V_k(i) = min over j > i of C[i, j] + discount V_{k-1}(j) (Chen et al. 2024,
    arXiv 2405.11326, algorithm 1). Of equal paths the one that jumps to the earlier level is taken.

    Args:
        costs: (M, M); entry [i, j] is the cost of the jump from level i to level j > i, inf where there is none. It
            may be negative. Entries with j <= i are not read.
        n_jumps: jumps of the path, in 1 .. M - 1.
        discount: factor on the cost of all later jumps, positive; above 1, errors late in the path count more.

    Returns:
        `n_jumps` + 1 increasing indices, the first 0 and the last M - 1.

    Raises:
        ScheduleError: an argument breaks a rule, a cost is NaN or -inf, or no path has a finite cost.
    """
    table = np.array(costs, np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or len(table) < 2:
        raise ScheduleError(f"costs must be a square table of at least two levels; got shape {table.shape}")
    last = len(table) - 1
    if isinstance(n_jumps, bool) or not isinstance(n_jumps, int | np.integer) or not 1 <= n_jumps <= last:
        raise ScheduleError(
            f"a path through {last + 1} levels must have 1 to {last} jumps; got {n_jumps!r}; ask for fewer network "
            "calls, or trace more levels"
        )
    if not (discount > 0 and math.isfinite(discount)):
        raise ScheduleError(f"the discount of a path must be positive and finite; got {discount}")
    table[np.tril_indices(last + 1)] = np.inf
    if np.any(np.isnan(table)) or np.any(np.isneginf(table)):
        raise ScheduleError("costs must not be NaN or -inf; use inf for a jump that does not exist")
    value = table[:, last].copy()
    choices = []
    for _ in range(n_jumps - 1):
        totals = table + discount * value
        choices.append(totals.argmin(axis=1))
        value = totals.min(axis=1)
    if not np.isfinite(value[0]):
        raise ScheduleError(f"a path of {n_jumps} jumps must have a finite cost; got none; make more jumps finite")
    path = [0]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return (*path, last)
