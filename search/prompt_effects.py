"""How hard each prompt is, learnt from schedules that were measured on all of them."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autotune.spaces.error_scale import ERROR_FLOOR
from autotune.spaces.evaluation import DEVIATION, SUCCESS

Array = NDArray[np.float64]

LOGARITHMIC = (DEVIATION,)
"""Metrics whose values are a level of the schedule times a factor of the prompt; of others, they are a sum."""


class PromptEffects:
    """The two-way layout value = schedule + prompt (+ noise), on a log scale where the metric asks for it.

    An effect is a prompt's mean over all full results less the mean over the prompts; only sums are kept.
    """

    def __init__(self, n_prompts: int) -> None:
        self._n_prompts = n_prompts
        self._sums: dict[str, Array] = {}
        self._counts: dict[str, int] = {}

    def note(self, quality: Mapping[str, Sequence[float]]) -> None:
        """Learn from one schedule's values, one per prompt; a metric with a value that is not finite is passed over."""
        for metric, values in quality.items():
            row = _scaled(metric, values)
            if len(row) != self._n_prompts:
                raise ValueError(f"{metric} needs a value for each of {self._n_prompts} prompts; got {len(row)}")
            if np.isfinite(row).all():
                self._sums[metric] = self._sums.get(metric, 0.0) + row
                self._counts[metric] = self._counts.get(metric, 0) + 1

    def knows(self, metric: str) -> bool:
        """Whether a schedule's values were seen."""
        return metric in self._sums

    def typical(self, metric: str, means: ArrayLike) -> Array:
        """Values (n, n_prompts) without noise, for means (n,); all alike before the first `note`."""
        levels = np.asarray(means, np.float64)[:, None]
        effect = self._sums.get(metric, np.zeros(self._n_prompts)) / self._counts.get(metric, 1)
        if metric not in LOGARITHMIC:
            return np.asarray(levels + effect - effect.mean())
        factor = np.exp(effect - effect.mean())
        return np.asarray(levels * factor / factor.mean())

    def corrected(self, metric: str, values: Sequence[float]) -> tuple[float, ...]:
        """The values of the first k prompts as if each were of mean difficulty: their mean estimates that of all.

        Where the layout holds without noise it is that mean. Nothing changes before the first `note`, or at k = all.
        Of successes, which are 0 or 1, all become the estimated share, in [0, 1]: corrected one by one they would not
        stay in between, and to cut each off would bias the mean.
        """
        if metric not in self._sums or len(values) == self._n_prompts:
            return tuple(values)
        own = np.asarray(values, np.float64)
        if metric in LOGARITHMIC:
            corrected = own / self.typical(metric, [1.0])[0, : len(own)]
        else:
            corrected = own - self.typical(metric, [0.0])[0, : len(own)]
        if metric == SUCCESS:
            corrected = np.full(len(corrected), np.clip(corrected.mean(), 0.0, 1.0))
        return tuple(corrected.tolist())


def _scaled(metric: str, values: Sequence[float]) -> Array:
    row = np.asarray(values, np.float64)
    return np.log(np.maximum(row, ERROR_FLOOR)) if metric in LOGARITHMIC else row
