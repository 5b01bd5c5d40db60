"""Cascade polynomial regression: DC-Solver's ratios as a function of step, step count and guidance scale.

Zhao et al. 2024, arXiv 2409.03755, section 3.4: a polynomial in the step whose coefficients are polynomials in the
guidance scale, whose coefficients are polynomials in the number of calls. Nested, it is linear in the products.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.errors import ScheduleError
from autotune.spaces.schedule import Schedule

Array = NDArray[np.float64]

STEP_DEGREE, GUIDANCE_DEGREE, CALLS_DEGREE = 3, 2, 2
RATIO_BOUNDS = (0.5, 1.5)
RIDGE = 1e-3
"""Weight of the squared coefficients against the mean squared error, on inputs scaled to [-1, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioSample:
    """Fitted ratios of one run: one per step, of which the first two are 1."""

    guidance: float
    ratios: tuple[float, ...]

    @classmethod
    def of(cls, schedule: Schedule, guidance: float) -> "RatioSample":
        """The ratios of a schedule; 1 throughout if it has no such column."""
        return cls(guidance=guidance, ratios=schedule.compensation or (1.0,) * schedule.n_steps)

    @property
    def n_steps(self) -> int:
        """Network calls of the run."""
        return len(self.ratios)


@dataclass(frozen=True, eq=False, kw_only=True)
class CompensationRegression:
    """Ratios predicted within the ranges of step count and guidance that they were fitted on."""

    calls: tuple[int, int]
    guidance: tuple[float, float]
    degrees: tuple[int, int, int]
    coefficients: Array
    rms_error: float
    """Root mean square error of the ratios that it was fitted to."""

    @classmethod
    def fit(cls, samples: Sequence[RatioSample]) -> "CompensationRegression":
        """Least squares with a small ridge; degrees fall where there are too few different settings.

        Raises:
            ScheduleError: no sample has a ratio to learn from.
        """
        samples = [sample for sample in samples if sample.n_steps > 2]
        if not samples:
            raise ScheduleError("a regression of ratios needs runs of at least 3 steps; got none")
        calls = sorted({sample.n_steps for sample in samples})
        guidance = sorted({sample.guidance for sample in samples})
        n_steps = max(sample.n_steps for sample in samples) - 2
        made = cls(
            calls=(calls[0], calls[-1]),
            guidance=(guidance[0], guidance[-1]),
            degrees=(
                min(STEP_DEGREE, n_steps - 1),
                min(GUIDANCE_DEGREE, len(guidance) - 1),
                min(CALLS_DEGREE, len(calls) - 1),
            ),
            coefficients=np.zeros(0),
            rms_error=0.0,
        )
        rows = np.concatenate([made._basis(sample.n_steps, sample.guidance) for sample in samples])
        targets = np.concatenate([sample.ratios[2:] for sample in samples]) - 1.0
        ridge = np.sqrt(RIDGE * len(rows)) * np.eye(rows.shape[1])
        stacked = np.concatenate([rows, ridge]), np.concatenate([targets, np.zeros(rows.shape[1])])
        coefficients = np.linalg.lstsq(*stacked, rcond=None)[0]
        error = float(np.sqrt(np.mean((rows @ coefficients - targets) ** 2)))
        return replace(made, coefficients=coefficients, rms_error=error)

    def covers(self, n_steps: int, guidance: float) -> bool:
        """Whether the settings lie within the fitted ranges."""
        return self.calls[0] <= n_steps <= self.calls[1] and self.guidance[0] <= guidance <= self.guidance[1]

    def predict(self, n_steps: int, guidance: float) -> tuple[float, ...]:
        """Ratios for a run, the first two 1, the others clamped to [0.5, 1.5].

        Raises:
            ScheduleError: the settings lie outside the fitted ranges: polynomials are useless there.
        """
        if not self.covers(n_steps, guidance):
            raise ScheduleError(
                f"ratios are predicted for {self.calls[0]} to {self.calls[1]} steps and a guidance scale of "
                f"{self.guidance[0]:g} to {self.guidance[1]:g}; got {n_steps} and {guidance:g}; fit them there"
            )
        free = np.clip(1.0 + self._basis(n_steps, guidance) @ self.coefficients, *RATIO_BOUNDS)
        return (1.0,) * min(2, n_steps) + tuple(free.tolist())

    def compensated(self, schedule: Schedule, guidance: float) -> Schedule:
        """The schedule with predicted ratios."""
        return replace(schedule, compensation=self.predict(schedule.n_steps, guidance))

    def _basis(self, n_steps: int, guidance: float) -> Array:
        """Products of powers, one row per step from the third on."""
        step = 2.0 * np.arange(2, n_steps) / n_steps - 1.0
        scaled = [_scaled(guidance, self.guidance), _scaled(n_steps, self.calls)]
        by_step = np.polynomial.polynomial.polyvander(step, self.degrees[0])
        by_guidance = np.polynomial.polynomial.polyvander(scaled[0], self.degrees[1]).ravel()
        by_calls = np.polynomial.polynomial.polyvander(scaled[1], self.degrees[2]).ravel()
        basis: Array = np.einsum("is,g,c->isgc", by_step, by_guidance, by_calls)
        return basis.reshape(len(step), -1)


def leave_one_out_error(samples: Sequence[RatioSample]) -> float | None:
    """RMS error of the ratios that a regression on the other samples predicts for each sample that those cover.

    None where no sample lies within the settings of the others.
    """
    misses: list[float] = []
    for i, sample in enumerate(samples):
        others = [other for j, other in enumerate(samples) if j != i and other.n_steps > 2]
        regression = CompensationRegression.fit(others) if others else None
        if regression is not None and regression.covers(sample.n_steps, sample.guidance):
            predicted = regression.predict(sample.n_steps, sample.guidance)
            misses += np.subtract(predicted[2:], sample.ratios[2:]).tolist()
    return float(np.sqrt(np.mean(np.square(misses)))) if misses else None


def _scaled(value: float, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return 0.0 if high == low else 2.0 * (value - low) / (high - low) - 1.0
