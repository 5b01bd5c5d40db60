"""Noise schedules: the signal and noise levels that a model timestep stands for.

The forward process is x_t = alpha(t) x_0 + sigma(t) eps. `lam` is half the log signal-to-noise ratio,
log(alpha / sigma): it grows as the noise shrinks. A timestep is what the network is called with, a float in
(0, `t_max`]; between the integers that a discrete model was trained on, `lam` is interpolated linearly in t.
The clean end (sigma = 0, lam = +inf) is not a timestep.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autotune.spaces.errors import ScheduleError
from autotune.spaces.mean_reverting import MeanReverting

Array = NDArray[np.float64]

FLOW_START = 1.0 - 1e-6
"""Largest flow sigma with a finite `lam`; diffusers clips to the same value."""


class NoiseSchedule(Protocol):
    """Levels of a forward process as functions of the model timestep; arrays in, float64 arrays out."""

    @property
    def t_max(self) -> float:
        """Largest timestep."""
        ...

    def alpha(self, t: ArrayLike) -> Array:
        """Signal level."""
        ...

    def sigma(self, t: ArrayLike) -> Array:
        """Noise level."""
        ...

    def lam(self, t: ArrayLike) -> Array:
        """log(alpha / sigma)."""
        ...

    def t_from_lam(self, lam: ArrayLike) -> Array:
        """Inverse of `lam`."""
        ...

    def to_json(self) -> dict[str, object]:
        """A JSON object that `noise_schedule_from_json` reads back."""
        ...


BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]


@dataclass(frozen=True, kw_only=True)
class VariancePreserving:
    """Discrete variance-preserving process of DDPM (Ho et al. 2020): alpha^2 + sigma^2 = 1.

    `linear` interpolates beta, `scaled_linear` its square root (Stable Diffusion). `squaredcos_cap_v2` has no use for
    the two ends of beta: alpha^2 falls as cos^2((t / n + 0.008) / 1.008 pi / 2), with beta at most 0.999 (Nichol and
    Dhariwal 2021, arXiv 2102.09672, eq. 17).
    """

    beta_schedule: BetaSchedule
    beta_start: float
    beta_end: float
    n_train: int = 1000

    def __post_init__(self) -> None:
        if not 0.0 < self.beta_start <= self.beta_end < 1.0:
            raise ScheduleError(f"0 < beta_start <= beta_end < 1 must hold; got {self.beta_start=}, {self.beta_end=}")

    @cached_property
    def _lam_table(self) -> Array:
        if self.beta_schedule == "squaredcos_cap_v2":
            remaining = np.cos((np.linspace(0.0, 1.0, self.n_train + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
            betas = np.minimum(1.0 - remaining[1:] / remaining[:-1], 0.999)
        elif self.beta_schedule == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, self.n_train)
        else:
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.n_train) ** 2
        alpha_bar = np.cumprod(1.0 - betas)
        return 0.5 * np.log(alpha_bar / (1.0 - alpha_bar))

    @property
    def t_max(self) -> float:
        """Largest timestep."""
        return float(self.n_train - 1)

    def lam(self, t: ArrayLike) -> Array:
        """log(alpha / sigma) at timesteps in [0, t_max]."""
        return np.interp(np.asarray(t, np.float64), np.arange(self.n_train), self._lam_table)

    def alpha(self, t: ArrayLike) -> Array:
        """Signal level, sqrt(alpha_bar) at the integers."""
        return 1.0 / np.sqrt(1.0 + np.exp(-2.0 * self.lam(t)))

    def sigma(self, t: ArrayLike) -> Array:
        """Noise level, sqrt(1 - alpha_bar) at the integers."""
        return 1.0 / np.sqrt(1.0 + np.exp(2.0 * self.lam(t)))

    def t_from_lam(self, lam: ArrayLike) -> Array:
        """Timestep in [0, t_max] of half log signal-to-noise ratios; clipped at both ends."""
        return np.interp(np.asarray(lam, np.float64), self._lam_table[::-1], np.arange(self.n_train)[::-1])

    def to_json(self) -> dict[str, object]:
        """A JSON object that `noise_schedule_from_json` reads back."""
        return {"kind": "variance_preserving", "beta_schedule": self.beta_schedule, "beta_start": self.beta_start,
                "beta_end": self.beta_end, "n_train": self.n_train}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Rectified flow (Liu et al. 2022; Esser et al. 2024): alpha = 1 - sigma, timestep = 1000 sigma.

    `mu` is the time shift that the pipeline applies to its grid: sigma' = e^mu / (e^mu + 1/sigma - 1), which is the
    translation lam' = lam - mu. `dynamic` says that the pipeline derives it from the resolution; a static
    `shift=k` of diffusers is `mu = log k`. The levels themselves do not depend on it.
    """

    mu: float = 0.0
    dynamic: bool = False
    n_train: int = 1000

    def __post_init__(self) -> None:
        if not np.isfinite(self.mu):
            raise ScheduleError(f"the shift mu of a flow must be finite; got {self.mu}")

    @property
    def t_max(self) -> float:
        """Largest timestep."""
        return float(self.n_train)

    def sigma(self, t: ArrayLike) -> Array:
        """Noise level, t / n_train."""
        return np.asarray(t, np.float64) / self.n_train

    def alpha(self, t: ArrayLike) -> Array:
        """Signal level, 1 - sigma."""
        return 1.0 - self.sigma(t)

    def lam(self, t: ArrayLike) -> Array:
        """log(alpha / sigma), with sigma clipped to `FLOW_START` so that pure noise stays finite."""
        sigma = np.minimum(self.sigma(t), FLOW_START)
        return np.log((1.0 - sigma) / sigma)

    def t_from_lam(self, lam: ArrayLike) -> Array:
        """Timestep of half log signal-to-noise ratios."""
        return self.n_train / (1.0 + np.exp(np.asarray(lam, np.float64)))

    def to_json(self) -> dict[str, object]:
        """A JSON object that `noise_schedule_from_json` reads back."""
        return {"kind": "flow", "mu": self.mu, "dynamic": self.dynamic, "n_train": self.n_train}


KnownNoise = VariancePreserving | Flow | MeanReverting
"""The noise schedules that a condition can name."""


def noise_schedule_from_json(data: dict[str, object]) -> KnownNoise:
    """The noise schedule that `to_json` wrote.

    Raises:
        ScheduleError: the kind is unknown, or a field is missing, unknown or out of range.
    """
    fields = dict(data)
    kind = fields.pop("kind", None)
    makers: dict[str, Callable[..., KnownNoise]] = {
        "variance_preserving": VariancePreserving, "flow": Flow, "mean_reverting": MeanReverting,
    }  # fmt: skip
    if kind not in makers:
        raise ScheduleError(f"noise_schedule.kind must be one of {sorted(makers)}; got {kind!r}")
    try:
        return makers[str(kind)](**fields)
    except TypeError as error:
        raise ScheduleError(f"noise_schedule of kind {kind!r} has wrong fields: {error}") from error
