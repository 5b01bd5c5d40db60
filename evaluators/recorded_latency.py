"""Latency of schedules that a table does not hold."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression

from autotune.spaces.evaluation import Measurement
from autotune.spaces.inventory import Inventory
from autotune.spaces.latency_model import LatencyModel

Array = NDArray[np.float64]


class RecordedLatency:
    """Relative latency, affine in relative MACs and network calls, with the relative noise of the recorded timings.

    No coefficient is negative. Each row counts by the inverse of its latency, so that relative errors are fitted.
    """

    def __init__(self, measurements: Sequence[Measurement], n_calls: int) -> None:
        """Of recorded rows, and the network calls of the default run."""
        self._n_calls = n_calls
        inputs = np.array([self._inputs(m.relative_macs, m.network_calls) for m in measurements])
        timed = np.array([m.relative_latency for m in measurements])
        scaled = inputs / timed[:, None]
        fit = LinearRegression(positive=True, fit_intercept=False).fit(scaled, np.ones(len(timed)))
        self._coefficients = np.asarray(fit.coef_, np.float64)
        self._noise = timed / (inputs @ self._coefficients)
        self._baseline_ms = float(np.median([ms for m in measurements for ms in m.baseline_latency_ms]))
        spent = [m.wall_s / (m.n_prompts * np.median(m.latency_ms) / 1000.0) for m in measurements]
        self._overhead = float(np.median(spent))

    @property
    def noise(self) -> Array:
        """Recorded latencies over those of the fit."""
        return self._noise

    def timings_ms(self, relative_macs: float, network_calls: int, draws: Sequence[int]) -> tuple[float, ...]:
        """Milliseconds per image, one per draw, each with the noise of a recorded row."""
        ms = self._baseline_ms * float(self._inputs(relative_macs, network_calls) @ self._coefficients)
        return tuple(float(ms * self._noise[draw % len(self._noise)]) for draw in draws)

    def without_noise(self, inventory: Inventory, *, half: float) -> LatencyModel:
        """The fit for any schedule of the model; `half` is the share of a call's MACs with a dropped branch."""
        constant, macs, calls = (float(c) * self._baseline_ms for c in self._coefficients)
        mac_ms = macs / (self._n_calls * inventory.total_macs)
        return LatencyModel.of_macs(inventory, run_ms=constant, call_ms=calls / self._n_calls, mac_ms=mac_ms, half=half)

    @property
    def baseline_ms(self) -> float:
        """Median of all recorded timings of the default run, milliseconds per image."""
        return self._baseline_ms

    def wall_s(self, latency_ms: float, n_prompts: int) -> float:
        """Seconds that a measurement on so many prompts takes, at the recorded overhead."""
        return self._overhead * n_prompts * latency_ms / 1000.0

    def _inputs(self, relative_macs: float, network_calls: int) -> Array:
        return np.array([1.0, relative_macs, network_calls / self._n_calls])
