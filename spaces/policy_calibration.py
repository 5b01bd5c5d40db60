"""What MagCache and TeaCache must know of a model: how the residual of its stack changes from call to call."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from autotune.spaces.errors import ScheduleError

DEGREE = 4
"""Degree of TeaCache's published polynomials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCalibration:
    """`ratios` and `polynomial` of a `CachePolicy`; the polynomial is empty for a model without a modulated input."""

    ratios: tuple[float, ...]
    polynomial: tuple[float, ...] = ()

    @classmethod
    def fit(cls, ratios: ArrayLike, inputs: ArrayLike, outputs: ArrayLike) -> Self:
        """From what was measured in n default runs of n_calls each.

        Args:
            ratios: of the norms of the stack's residuals in each call after the first and the one before, averaged
                over tokens: (n, n_calls - 1).
            inputs: relative L1 change of the first block's modulated input from call to call (n, n_calls - 1), or
                empty.
            outputs: the same of the stack's residual (n, n_calls - 1). The polynomial maps inputs to outputs by least
                squares, in powers of the input over its largest value.

        Raises:
            ScheduleError: something measured is not finite.
        """
        per_call, x, y = (
            np.asarray(ratios, float),
            np.ravel(np.asarray(inputs, float)),
            np.ravel(np.asarray(outputs, float)),
        )
        if not all(np.isfinite(values).all() for values in (per_call, x, y)):
            raise ScheduleError("a calibration needs finite features; got NaN or infinite: check the model's weights")
        polynomial: tuple[float, ...] = ()
        if x.size:
            degree, scale = min(DEGREE, max(0, x.size // 4)), float(x.max()) or 1.0
            fitted = np.polyfit(x / scale, y, degree)
            polynomial = tuple((fitted / scale ** np.arange(degree, -1, -1)).tolist())
        return cls(ratios=(1.0, *per_call.mean(axis=0).tolist()), polynomial=polynomial)
