"""Mixed precision: which option each layer takes under a budget, a knapsack with one choice per layer.

What a layer's option costs is scored once; then every budget is solved without running the network again.
"""

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError

UNITS = 50_000
"""What is left of the budget after the smallest options is divided into so many parts, and sizes are rounded up to
them: a choice never exceeds the budget."""


def allocate(errors: NDArray[np.float64], sizes: NDArray[np.int64], budget: int) -> tuple[int, ...]:
    """The option of each layer that makes the sum of errors least while the sizes sum to at most `budget`.

    Exact if what larger options take more has a common divisor of 1 / `UNITS` of what is left, or more; else each layer
    is taken for larger by less than that part.

    Args:
        errors: what each option of each layer costs in quality, float64 (n_layers, n_options).
        sizes: what it takes of the budget, of the same shape.
        budget: what may be taken in all.

    Raises:
        ScheduleError: the smallest options take more than the budget; an error is no finite number.
    """
    if errors.shape != sizes.shape or errors.ndim != 2 or not np.isfinite(errors).all():
        raise ScheduleError(f"each option needs a finite error and a size; got {errors.shape} and {sizes.shape}")
    least = sizes.min(axis=1, keepdims=True)
    left = budget - int(least.sum())
    if left < 0:
        raise ScheduleError(f"the budget must be at least {least.sum()}, of the smallest options; got {budget}")
    more = sizes - least
    unit = max(1, int(np.gcd.reduce(more, axis=None)), left // UNITS)
    units, n_units = -(-more // unit), left // unit
    best = np.zeros(n_units + 1)
    taken = np.zeros((len(errors), n_units + 1), np.int16)
    for layer, (costs, widths) in enumerate(zip(errors, units, strict=True)):
        totals = np.full((len(costs), n_units + 1), np.inf)
        for option, (cost, width) in enumerate(zip(costs, widths, strict=True)):
            if width <= n_units:
                totals[option, width:] = best[: n_units + 1 - width] + cost
        taken[layer], best = totals.argmin(axis=0), totals.min(axis=0)
    options, position = [], n_units
    for layer in reversed(range(len(errors))):
        option = int(taken[layer, position])
        options.append(option)
        position -= int(units[layer, option])
    return tuple(reversed(options))
