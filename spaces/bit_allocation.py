"""Mixed precision: which option each layer takes under a budget, a knapsack with one choice per layer.

What a layer's option costs is scored once; then every budget is solved without running the network again.
"""

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError

UNITS = 20_000
"""The budget is divided into so many parts, and sizes are rounded up to them: a choice never exceeds the budget."""


def allocate(errors: NDArray[np.float64], sizes: NDArray[np.int64], budget: int) -> tuple[int, ...]:
    """The option of each layer that makes the sum of errors least while the sizes sum to at most `budget`.

    Exact for sizes that are multiples of budget / `UNITS`, rounded down to a whole number; else each layer is taken
    for larger by less than that.

    Args:
        errors: what each option of each layer costs in quality, float64 (n_layers, n_options).
        sizes: what it takes of the budget, positive, of the same shape.
        budget: what may be taken in all.

    Raises:
        ScheduleError: the smallest options take more than the budget; an error is no finite number.
    """
    if errors.shape != sizes.shape or errors.ndim != 2 or not np.isfinite(errors).all():
        raise ScheduleError(f"each option needs a finite error and a size; got {errors.shape} and {sizes.shape}")
    unit = max(1, budget // UNITS)
    units = -(-sizes // unit)
    n_units = budget // unit
    least = int(units.min(axis=1).sum())
    if least > n_units:
        raise ScheduleError(f"the budget must be at least {least * unit}, of the smallest options; got {budget}")
    best = np.zeros(n_units + 1)
    taken = np.zeros((len(errors), n_units + 1), np.int64)
    for layer, (costs, widths) in enumerate(zip(errors, units, strict=True)):
        totals = np.full((len(costs), n_units + 1), np.inf)
        for option, (cost, width) in enumerate(zip(costs, widths, strict=True)):
            if width <= n_units:
                totals[option, width:] = best[: n_units + 1 - width] + cost
        taken[layer], best = totals.argmin(axis=0), totals.min(axis=0)
    options, left = [], n_units
    for layer in reversed(range(len(errors))):
        option = int(taken[layer, left])
        options.append(option)
        left -= int(units[layer, option])
    return tuple(reversed(options))
