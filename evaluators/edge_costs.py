"""Edge costs of a feature, measured while an ordinary full run goes on, for planners of cache schedules."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from autotune.spaces.cache_action import CacheAction, forecast_weights
from autotune.spaces.edge_costs import EdgeCosts
from autotune.spaces.errors import EvaluatorError

Array = NDArray[np.float64]
Indices = NDArray[np.int_]

CPU_VALUES, DEVICE_VALUES = 2**19, 2**24
"""Elements that are forecast at once: in float32, 2 MiB, which stay in a core's cache, and 64 MiB."""


class EdgeCostRecorder:
    """Fed with a feature of each network call of full runs, finds what it would have cost to approximate it.

    The error of a forecast is ||h - forecast||_1 / ||h||_1 over the elements of one sample, averaged over samples; an
    edge costs the sum of the errors of its calls (DPCache's path-aware cost, Cui et al. 2026, arXiv 2602.22654, made
    relative and with one refresh more). Positions of forecasts are numbers of calls.

    Kept are the last (order + 1) longest - 1 values of the feature, whatever the number of calls: 3 longest - 1 for
    forecasts of order 2. A call forecasts (longest - 1) longest^order values per kind, by matrix products.
    """

    def __init__(self, n_calls: int, longest: int, kinds: Sequence[CacheAction]) -> None:
        """A recorder of runs of `n_calls` for edges of these kinds, refreshes being at most `longest` apart."""
        if not 2 <= longest <= n_calls:
            raise EvaluatorError(
                f"refreshes must be 2 to n_calls = {n_calls} calls apart at most; got {longest}; with 1, no call is "
                "approximated"
            )
        self._n_calls, self._kinds = n_calls, tuple(kinds)
        self._forecasts = _Forecasts.of(longest, self._kinds)
        self._edge_errors = np.zeros((n_calls, longest + 1, longest + 1, longest, len(self._kinds)))
        self._pair_errors = np.zeros((n_calls, longest))
        self._past: torch.Tensor | None = None
        self._call = self._n_samples = 0

    def feed(self, feature: torch.Tensor) -> None:
        """Take the next call's feature (n, ...), of the same n samples in all calls of a run; nothing of it is kept.

        The call after the last one begins another run.

        Raises:
            EvaluatorError: the feature changes its shape, type or device within a run.
        """
        now = feature.detach().flatten(1)
        past = self._past
        if past is None or (past.shape[1:], past.dtype, past.device) != (now.shape, now.dtype, now.device):
            if self._call > 0:
                raise EvaluatorError(
                    f"a feature must keep its shape, type and device within a run; got {tuple(now.shape)} of "
                    f"{now.dtype} on {now.device} in call {self._call}; record another module, or one branch only"
                )
            self._past = past = now.new_empty((self._forecasts.reach, *now.shape))
        if self._call > 0:
            self._add(now, past)
        past[self._call % len(past)] = now
        self._call += 1
        if self._call == self._n_calls:
            self._call, self._n_samples = 0, self._n_samples + len(now)

    def edge_costs(self, amplification: Array | None = None) -> EdgeCosts:
        """The costs of all edges, averaged over the samples of all runs.

        Args:
            amplification: per call, what its error is multiplied by, float64 (n_calls,); by default 1.

        Raises:
            EvaluatorError: no run has been fed, or the last one is not complete.
            ScheduleError: a feature was not finite.
        """
        errors = self._mean(self._edge_errors)
        n, width = errors.shape[:2]
        table = np.full((n, width, width, width, len(self._kinds)), np.inf)
        j, d1, d2, gap = np.ogrid[:n, :width, :width, :width]
        if amplification is not None:
            calls = np.minimum(np.arange(n)[:, None] + np.arange(width - 1), n - 1)
            errors = errors * amplification[calls][:, None, None, :, None]
        table[:, :, :, 1:] = errors.cumsum(axis=3)
        known = np.where(d1 == 0, (j == 0) & (d2 == 0), np.where(d2 == 0, j == d1, j >= d1 + d2))
        table[~(known & (j + gap <= n))] = np.inf
        return EdgeCosts(self._kinds, table)

    def pairwise_errors(self) -> Array:
        """E[t, k], the error of reusing the value of call t in call t + k: float64 (n_calls, longest).

        SmoothCache's table (Liu et al. 2024, arXiv 2411.10510): ||h_t - h_{t+k}||_1 / ||h_{t+k}||_1. It is inf after
        the last call.

        Raises:
            EvaluatorError: no run has been fed, or the last one is not complete.
        """
        errors = self._mean(self._pair_errors)
        t, k = np.ogrid[: errors.shape[0], : errors.shape[1]]
        errors[t + k >= self._n_calls] = np.inf
        return errors

    def _mean(self, errors: Array) -> Array:
        if self._call > 0 or self._n_samples == 0:
            raise EvaluatorError(
                f"edge costs need complete runs of {self._n_calls} calls; got {self._call} of the last; feed the rest"
            )
        return errors / self._n_samples

    def _add(self, now: torch.Tensor, past: torch.Tensor) -> None:
        call, table = self._call, self._forecasts
        edges, pairs = table.edges_of(call), table.row_of_pair[:call]
        rows, positions = np.unique(np.concatenate([pairs, table.row[edges]]), return_inverse=True)
        slots = [(call - back) % len(past) for back in range(1, min(call, len(past)) + 1)]
        errors = _relative_errors(table.weights[rows, : len(slots)], past, slots, now)[positions.reshape(-1)]
        ages = np.arange(1, len(pairs) + 1)
        self._pair_errors[call - ages, ages] += errors[: len(pairs)]
        age, d1, d2, kind = table.edge[:, edges]
        self._edge_errors[call - age, d1, d2, age, kind] += errors[len(pairs) :]


@dataclass(frozen=True)
class _Forecasts:
    """All forecasts of one call: those of edges, many of which are the same, and the reuses of single values.

    A call that is approximated lies `age` calls after the refresh, 1 <= age < longest; `edge` is int (4, n), of rows
    age, d1, d2 and kind, and `row` (n,) says which of the different `weights` (n_rows, reach) the edge has. Their
    columns stand for the values 1, 2, .. calls ago. `row_of_pair` (longest - 1,) are the rows that take one value.
    """

    edge: Indices
    row: Indices
    row_of_pair: Indices
    weights: Array

    @classmethod
    def of(cls, longest: int, kinds: Sequence[CacheAction]) -> "_Forecasts":
        reach = (max(kind.order for kind in kinds) + 1) * longest - 1
        befores = [(0, 0), *((d1, d2) for d1 in range(1, longest + 1) for d2 in range(longest + 1))]
        edge = [(age, *d, kind) for age in range(1, longest) for d in befores for kind in range(len(kinds))]
        weights = np.zeros((longest - 1 + len(edge), reach))
        weights[range(longest - 1), range(longest - 1)] = 1.0
        for row, (age, d1, d2, kind) in zip(weights[longest - 1 :], edge, strict=True):
            ago = [age, *([age + d1] if d1 else []), *([age + d1 + d2] if d2 else [])]
            values = forecast_weights(kinds[kind], [-back for back in ago], 0)
            for back, weight in zip(ago, values, strict=False):
                row[back - 1] = weight
        different, rows = np.unique(weights, axis=0, return_inverse=True)
        rows = rows.reshape(-1)
        return cls(np.array(edge).T, rows[longest - 1 :], rows[: longest - 1], different)

    @property
    def reach(self) -> int:
        """How many calls back values are read."""
        return int(self.weights.shape[1])

    def edges_of(self, call: int) -> Indices:
        """Indices of the edges that this call can lie on, and of some that lack an older refresh that there must be."""
        age, d1, d2, _ = self.edge
        return np.flatnonzero(age + d1 + d2 <= call)


def _relative_errors(weights: Array, past: torch.Tensor, slots: Sequence[int], now: torch.Tensor) -> Array:
    """Relative errors (n_rows,) of forecasts from the values in `slots` of `past`, summed over samples."""
    precision = torch.promote_types(now.dtype, torch.float32)
    matrix = torch.from_numpy(weights).to(now.device, precision)
    at_once = max(1, (CPU_VALUES if now.device.type == "cpu" else DEVICE_VALUES) // len(weights))
    total = np.zeros(len(weights))
    for sample in range(len(now)):
        errors, sizes = [], []
        for start in range(0, now.shape[1], at_once):
            here = slice(start, start + at_once)
            value = now[sample, here].to(precision)
            # Weights sum to 1. Differences lose little to rounding, even where matrix products are in TF32.
            apart = past[slots, sample, here].to(precision) - value
            errors.append((matrix @ apart).abs_().sum(dim=1))
            sizes.append(value.abs().sum())
        size = torch.stack(sizes).cpu().double().sum()
        error = torch.stack(errors).cpu().double().sum(dim=0)
        total += (error / size.clamp_min(torch.finfo(torch.float64).tiny)).numpy()
    return total
