"""Costs of CacheQuant's Dynamic Programming Schedule, summed up while ordinary full runs go on."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from autotune.evaluators.affine_quantizer import on_grid, search_grid
from autotune.spaces.cache_correction import PairMoments
from autotune.spaces.errors import EvaluatorError
from autotune.spaces.segment_costs import COST_KEYS, CostKey, SegmentCosts, SegmentNorm, SegmentSource, segment_table

Array = NDArray[np.float64]

HOST_BYTES = 2**30
"""A window that would take more than this is kept on the host, in float16."""

BITS = 8
"""Of an activation that a quantized layer reads."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A feature of an earlier call, and the grid that it would be rounded to."""

    feature: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor


class SegmentCostRecorder:
    """Fed with a feature of each network call of full runs, finds what it costs to reuse it up to any later call.

    A feature is one tensor or several, samples first and channels at `channel_axis`. Kept are the last longest - 1 of
    them, and per pair of calls so near five sums per channel, whatever the number of calls and samples.
    """

    def __init__(self, n_calls: int, longest: int, *, channel_axis: int = -1) -> None:
        """A recorder of runs of `n_calls`, for segments of at most `longest` calls."""
        if not 1 <= longest <= n_calls:
            raise EvaluatorError(f"segments must be 1 to n_calls = {n_calls} calls long at most; got {longest}")
        self._n_calls, self._longest, self._channel_axis = n_calls, longest, channel_axis
        self._changes: dict[CostKey, Array] = {
            key: np.zeros((n_calls, longest)) for key in COST_KEYS if key[0] != "correction-aware"
        }
        self._moments: dict[tuple[int, int], list[PairMoments]] = {}
        self._past: deque[tuple[_Kept, ...]] = deque(maxlen=max(1, longest))
        self._call = self._n_samples = 0

    def feed(self, feature: Sequence[torch.Tensor]) -> None:
        """Take the next call's feature, of the same samples in all calls of a run; the call after the last begins anew.

        Raises:
            EvaluatorError: the feature changes its shapes within a run.
        """
        now = tuple(tensor.detach() for tensor in feature)
        if self._call > 0 and [t.shape for t in now] != [kept.feature.shape for kept in self._past[-1]]:
            shapes = [tuple(tensor.shape) for tensor in now]
            raise EvaluatorError(f"a feature must keep its shapes within a run; got {shapes} in call {self._call}")
        self._past.append(self._stored(now))
        for gap in range(min(self._longest, self._call + 1)):
            self._add(self._call - gap, gap, self._past[-1 - gap], now)
        self._call += 1
        if self._call == self._n_calls:
            self._call, self._n_samples = 0, self._n_samples + len(now[0])
            self._past.clear()

    def costs(self) -> SegmentCosts:
        """The costs, averaged over the samples of all runs.

        Raises:
            EvaluatorError: no run has been fed, or the last one is not complete.
            ScheduleError: a feature was not finite.
        """
        if self._call > 0 or self._n_samples == 0:
            raise EvaluatorError(
                f"costs of segments need complete runs of {self._n_calls} calls; got {self._call} of the last; "
                "feed the rest"
            )
        plain = {key: segment_table(changes / self._n_samples) for key, changes in self._changes.items()}
        costs = SegmentCosts(plain, self._longest)
        corrected = np.zeros((self._n_calls, self._longest))
        for (i, gap), moments in self._moments.items():
            square = sum(pairs.count * max(0.0, pairs.error(pairs.fit())) for pairs in moments)
            corrected[i, gap] = np.sqrt(square / self._n_samples)
        return replace(costs, tables={**plain, ("correction-aware", "l2"): segment_table(corrected)})

    def _stored(self, now: Sequence[torch.Tensor]) -> tuple[_Kept, ...]:
        """What the window keeps of a feature: a copy, in half precision on the host if it is large, and its grid."""
        is_large = self._longest * sum(tensor.nbytes for tensor in now) > HOST_BYTES
        return tuple(
            _Kept(tensor.to("cpu", _half_of(tensor)) if is_large else tensor.clone(), *_grid_of(_precise(tensor)))
            for tensor in now
        )

    def _add(self, call: int, gap: int, before: Sequence[_Kept], now: Sequence[torch.Tensor]) -> None:
        pairs = [(_precise(x.feature.to(y.device)), _precise(y)) for x, y in zip(before, now, strict=True)]
        rounded = [(on_grid(x, k.scale, k.zero, BITS), y) for k, (x, y) in zip(before, pairs, strict=True)]
        sources: dict[SegmentSource, list[tuple[torch.Tensor, torch.Tensor]]]
        sources = {"full-precision": pairs, "fake-quantized": rounded}
        for source, tensors in sources.items():
            for norm, change in _changes(tensors).items():
                self._changes[source, norm][call, gap] += change
        moments = [_moments(x, y, self._channel_axis) for x, y in pairs]
        known = self._moments.get((call, gap))
        added = moments if known is None else [a + b for a, b in zip(known, moments, strict=True)]
        self._moments[call, gap] = added


def _half_of(tensor: torch.Tensor) -> torch.dtype:
    """float16, unless values are out of its range, or have no more digits than bfloat16."""
    is_wide = bool(tensor.abs().amax() > torch.finfo(torch.float16).max)
    return torch.bfloat16 if is_wide or tensor.dtype == torch.bfloat16 else torch.float16


def _precise(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _grid_of(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of the grid of activations, one for the whole tensor, as a quantization would have it."""
    flat = tensor.reshape(1, -1)
    scale, zero = search_grid(flat, flat.amin(dim=1), flat.amax(dim=1), BITS)
    return scale[0], zero[0]


def _changes(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> dict[SegmentNorm, float]:
    """By norm, the sum over the samples of the change from x to y, a pair of each tensor of a feature."""
    sums = sum(_sums(x.flatten(1), y.flatten(1)) for x, y in pairs)
    assert isinstance(sums, torch.Tensor)
    l1, square, xy, xx, yy, size = sums.cpu().numpy()
    tiny = np.finfo(np.float64).tiny
    cosine = np.where((xx == 0.0) & (yy == 0.0), 1.0, xy / np.maximum(np.sqrt(xx * yy), tiny))
    return {
        "l1": float(l1.sum()),
        "l2": float(np.sqrt(square).sum()),
        "cosine": float(np.maximum(0.0, 1.0 - cosine).sum()),
        "relative-l1": float((l1 / np.maximum(size, tiny)).sum()),
    }


def _sums(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """By sample, of |x - y|, its square, x y, x x, y y and |y|: float64 (6, n)."""
    apart = x - y
    parts = (apart.abs(), apart * apart, x * y, x * x, y * y, y.abs())
    return torch.stack([part.sum(dim=1, dtype=torch.float64) for part in parts])


def _moments(x: torch.Tensor, y: torch.Tensor, channel_axis: int) -> PairMoments:
    """The sums of pairs of elements, by channel."""
    axes = [axis for axis in range(x.ndim) if axis != channel_axis % x.ndim]
    sums = [part.sum(dim=axes, dtype=torch.float64).cpu().numpy() for part in (x, y, x * x, x * y, y * y)]
    return PairMoments(float(x.numel() // x.shape[channel_axis]), *sums)
