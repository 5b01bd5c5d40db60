"""The mean-reverting process of image restoration: it diffuses towards a degraded image instead of towards zero."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autotune.spaces.errors import ScheduleError

Array = NDArray[np.float64]

_COSINE_OFFSET = 0.008
_BISECTIONS = 60


@dataclass(frozen=True, kw_only=True)
class MeanReverting:
    """dx = f(t) (mean - x) dt + g(t) dw with g^2 = 2 s^2 f (Luo et al. 2023, arXiv 2301.11699).

    In y = x - mean it is an interpolant: y_t = alpha y_0 + sigma eps with alpha = exp(-int f) and
    sigma = s sqrt(1 - alpha^2); levels, formulas and programs are those of y. `stationary_std` is s on the scale of
    the images, `alpha_end` the share of the clean image that is left at `t_max`. `drift` is the form of f: `constant`,
    or the `cosine` that rises as 1 - cos^2 (the flipped schedule of Nichol and Dhariwal 2021). Timesteps are continuous
    in (0, n_train]; a model trained on the sum of a discrete f differs in level by a part in `n_train`.
    """

    drift: Literal["constant", "cosine"]
    stationary_std: float
    alpha_end: float = 0.005
    n_train: int = 100

    def __post_init__(self) -> None:
        if self.drift not in ("constant", "cosine"):
            raise ScheduleError(f"drift of a mean-reverting process must be constant or cosine; got {self.drift!r}")
        if not (math.isfinite(self.stationary_std) and self.stationary_std > 0):
            raise ScheduleError(f"stationary_std must be finite and above 0; got {self.stationary_std}")
        if not 0.0 < self.alpha_end < 1.0:
            raise ScheduleError(f"alpha_end must lie in (0, 1); got {self.alpha_end}")

    @property
    def t_max(self) -> float:
        """Largest timestep."""
        return float(self.n_train)

    def alpha(self, t: ArrayLike) -> Array:
        """Share of the clean image, 1 at t = 0."""
        return np.exp(-self._decay(t))

    def sigma(self, t: ArrayLike) -> Array:
        """Noise level, 0 at t = 0."""
        return self.stationary_std * np.sqrt(-np.expm1(-2.0 * self._decay(t)))

    def lam(self, t: ArrayLike) -> Array:
        """log(alpha / sigma)."""
        with np.errstate(divide="ignore"):  # t = 0 has no noise
            return -self._decay(t) - np.log(self.sigma(t))

    def t_from_lam(self, lam: ArrayLike) -> Array:
        """Timestep in [0, t_max] of half log signal-to-noise ratios; clipped at the noisy end."""
        # e^{-2 lam} = s^2 (e^{2 decay} - 1)
        decay = 0.5 * np.log1p(np.exp(-2.0 * np.asarray(lam, np.float64)) / self.stationary_std**2)
        share = np.minimum(decay / -math.log(self.alpha_end), 1.0)
        return np.asarray(self.n_train * (share if self.drift == "constant" else _inverse_cosine_share(share)))

    def to_json(self) -> dict[str, object]:
        """A JSON object that `noise_schedule_from_json` reads back."""
        return {"kind": "mean_reverting", "drift": self.drift, "stationary_std": self.stationary_std,
                "alpha_end": self.alpha_end, "n_train": self.n_train}  # fmt: skip

    def _decay(self, t: ArrayLike) -> Array:
        """The integral of f from 0 to t."""
        u = np.asarray(t, np.float64) / self.n_train
        return np.asarray(-math.log(self.alpha_end) * (u if self.drift == "constant" else _cosine_share(u)))


def _cosine_share(u: Array) -> Array:
    """The integral of 1 - cos^2(phase(u)) / cos^2(phase(0)) from 0 to u, as a share of that to 1."""

    def integral(at: Array) -> Array:
        period = math.pi / (1.0 + _COSINE_OFFSET)
        start = _COSINE_OFFSET * period
        squares = 0.5 * at + (np.sin(start + period * at) - math.sin(start)) / (2.0 * period)
        return np.asarray(at - squares / math.cos(0.5 * start) ** 2)

    return np.asarray(integral(u) / integral(np.asarray(1.0)))


def _inverse_cosine_share(share: Array) -> Array:
    low, high = np.zeros_like(share), np.ones_like(share)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        below = _cosine_share(middle) < share
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray(0.5 * (low + high))
