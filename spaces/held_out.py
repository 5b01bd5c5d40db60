"""What the held-out values say of a front: which members they support, and how far the search has over-fitted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.evaluation import Measurement
from autotune.spaces.objective import OBJECTIVES, objective_value
from autotune.spaces.statistics import mean_draws, percentile_interval, ratio_draws

Array = NDArray[np.float64]

FEWEST_VALUES = 3
"""With fewer timed runs, or prompts, nothing is said to be measurably faster, or better."""


_TIMED: dict[str, Callable[[Measurement], tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "latency": lambda m: (m.latency_ms, m.baseline_latency_ms),
    "energy": lambda m: (m.energy_j, m.baseline_energy_j),
}
"""What the timed runs took, and the default runs in turn with them."""


class Support(StrEnum):
    """What the held-out values say of a member of the front, at 95 % confidence.

    *Unsupported*: another schedule is measurably better in one objective and no worse in the others, or the member
    fails or breaks a limit there. *Supported*: every other schedule is measurably worse than it in some objective, so
    that none dominates it. *Unclear*: some other one may dominate it. *Unverified*: it was not measured there.
    """

    SUPPORTED = "supported"
    UNCLEAR = "unclear"
    UNSUPPORTED = "unsupported"
    UNVERIFIED = "unverified"


def judge(measurements: Sequence[Measurement], objectives: Sequence[str]) -> list[Support]:
    """What is to be said of each of these measurements, all of the same prompts, beside the others.

    Of qualities the differences are paired by prompt, of latency and energy both are relative to the default runs
    that were interleaved with them (`ratio_interval`). Costs that are counted are compared as they are.

    Raises:
        UsageError: an objective was not measured.
    """
    if not measurements:
        return []
    axes = [_draws(name, measurements) for name in objectives]
    return [_verdict(axes, i) for i in range(len(measurements))]


def _verdict(axes: Sequence[Array], i: int) -> Support:
    """The verdict on schedule `i` from draws (n, n_draws) of each objective, less is better."""
    bounds = [_bounds(np.delete(draws, i, axis=0) - draws[i]) for draws in axes]
    low, high = (np.array(side) for side in zip(*bounds, strict=True))  # (n_objectives, n - 1), of the others less it
    if ((high <= 0).all(axis=0) & (high < 0).any(axis=0)).any():
        return Support.UNSUPPORTED
    return Support.SUPPORTED if (low > 0).any(axis=0).all() else Support.UNCLEAR


def _bounds(differences: Array) -> tuple[Array, Array]:
    """95 % bounds (n,) of draws (n, n_draws); infinite where there are none."""
    low, high = np.full(len(differences), -np.inf), np.full(len(differences), np.inf)
    known = np.isfinite(differences).all(axis=1)
    if known.any():
        low[known], high[known] = np.quantile(differences[known], [0.025, 0.975], axis=1)
    return low, high


def _draws(name: str, measurements: Sequence[Measurement]) -> Array:
    """Bootstrap draws (n, n_draws) of an objective, less is better: NaN where the values are too few."""
    values = [objective_value(name, measurement) for measurement in measurements]
    if name in _TIMED:
        runs = [_TIMED[name](m) for m in measurements]
        enough = [min(map(len, pair)) >= FEWEST_VALUES and min(map(min, pair)) > 0.0 for pair in runs]
        drawn = [
            ratio_draws(*pair, seed=i) if ok else None for i, (pair, ok) in enumerate(zip(runs, enough, strict=True))
        ]
        return _stacked([None if draws is None else np.log(draws) for draws in drawn])
    if OBJECTIVES[name].is_cost:
        return np.array(values)[:, None]
    sign = -1.0 if OBJECTIVES[name].higher_is_better else 1.0
    series = [m.quality[name] for m in measurements]
    return _stacked([sign * mean_draws(row, seed=0) if len(row) >= FEWEST_VALUES else None for row in series])


def _stacked(rows: Sequence[Array | None]) -> Array:
    n_draws = next((len(row) for row in rows if row is not None), 1)
    return np.array([np.full(n_draws, np.nan) if row is None else row for row in rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Overfit:
    """How much worse a schedule does on the held-out prompts than the calibration promised.

    `shift` is the calibration's mean of `metric` less the held-out one. Prompt sets differ in difficulty, so `excess`
    is relative to the default run, which nothing was chosen for: the quotient of both means of the schedule over that
    of the default run, less 1; above 0 the search has over-fitted. `interval` is its 95 % bootstrap interval over both
    prompt sets; None for a single prompt.
    """

    metric: str
    shift: float
    excess: float
    interval: tuple[float, float] | None


def overfit(
    metric: str, own: tuple[Measurement, Measurement], default: tuple[Measurement, Measurement]
) -> Overfit | None:
    """The over-fitting of a schedule from (calibration, held-out) measurements of its own and of the default run.

    None where the two were not measured on the same prompts, or a mean is not positive.
    """
    pairs = [(m.quality.get(metric, ()), d.quality.get(metric, ())) for m, d in zip(own, default, strict=True)]
    if any(not a or len(a) != len(b) or not np.isfinite([*a, *b]).all() for a, b in pairs):
        return None
    before, after = ((np.mean(a), np.mean(b)) for a, b in pairs)
    if min(*before, *after) <= 0:
        return None
    draws = [np.stack([mean_draws(a, seed=i), mean_draws(b, seed=i)]) for i, (a, b) in enumerate(pairs)]
    sign = -1.0 if OBJECTIVES[metric].higher_is_better else 1.0
    excess = sign * ((after[0] / after[1]) / (before[0] / before[1]) - 1.0)
    interval = None
    if min(len(a) for a, _ in pairs) > 1 and min(float(d.min()) for d in draws) > 0:
        drawn = (draws[1][0] / draws[1][1]) / (draws[0][0] / draws[0][1]) - 1.0
        interval = percentile_interval(sign * drawn)
    return Overfit(metric=metric, shift=float(before[0] - after[0]), excess=float(excess), interval=interval)
