"""Quality per prompt of schedules that a table does not hold: predicted, with the scatter that the table shows."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from autotune.evaluators.surrogate import Surrogate
from autotune.spaces.error_scale import ERROR_FLOOR

Array = NDArray[np.float64]
Map = Callable[[Array], Array]


def _log(values: Array) -> Array:
    return np.asarray(np.log(np.maximum(values, ERROR_FLOOR)))


def _log_distance_to_1(values: Array) -> Array:
    return _log(1.0 - values)


def _same(values: Array) -> Array:
    return values


def _share(values: Array) -> Array:
    return np.clip(values, 0.0, 1.0)


SCALES: Mapping[str, tuple[Map, Map]] = MappingProxyType(
    {
        "deviation": (_log, np.exp),
        "ssim": (_log_distance_to_1, lambda scaled: 1.0 - np.exp(scaled)),
        "alignment": (_same, _share),
        "success": (_same, _share),
    }
)
"""Per metric the scale on which it is predicted, and the way back; others are predicted as they are."""


class QualityModel:
    """Predicts all metrics at all prompts of a table, in two parts: their means over the prompts, and the rest.

    To the rest is added what its prediction missed in a recorded row, held out from the fit. So values scatter over
    prompts and metrics as recorded ones do, while the means are the surrogate's.
    """

    def __init__(self, features: Array, qualities: Sequence[Mapping[str, Sequence[float]]], seed: int = 0) -> None:
        """Of rows with features (n, d) and metrics; those that all rows have are learnt."""
        self._metrics = [name for name in qualities[0] if all(name in quality for quality in qualities)]
        scaled = [scaled_values(name, [quality[name] for quality in qualities]) for name in self._metrics]
        targets = np.stack(scaled, axis=1)
        means = targets.mean(axis=2)
        rest = targets - means[:, :, None]
        self._mean = Surrogate(features, means, seed)
        self._rest = Surrogate(features, rest.reshape(len(rest), -1), seed)
        self._missed = self._rest.held_out_residuals().reshape(rest.shape)

    def predict(self, features: Array, draw: int) -> dict[str, Array]:
        """Each metric's values (n_prompts,) for one row of features (d,); `draw` chooses the recorded row."""
        rest = self._rest.predict(features[None]).reshape(self._missed.shape[1:])
        scaled = self._mean.predict(features[None])[0][:, None] + rest + self._missed[draw % len(self._missed)]
        return {name: SCALES.get(name, (_same, _same))[1](row) for name, row in zip(self._metrics, scaled, strict=True)}


def scaled_values(metric: str, values: Sequence[Sequence[float]]) -> Array:
    """Values (n, n_prompts) on the scale on which they are predicted."""
    return SCALES.get(metric, (_same, _same))[0](np.asarray(values, np.float64))
