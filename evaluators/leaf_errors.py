"""How much the outputs of leaf modules change from call to call: SmoothCache's errors, recorded while a run goes on."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autotune.evaluators.branch_store import tensors_of
from autotune.spaces.errors import EvaluatorError

MAX_VALUES = 4096
"""Elements of a leaf's output that are looked at, per sample, evenly spread."""

THINNING = 2
"""Version of how they are chosen."""


class LeafErrorRecorder:
    """Fed with the outputs of leaves in each network call of full runs; keeps the last few, thinned, and sums.

    The error of reusing the value of call t in call t + k is ||y_t - y_{t+k}||_1 / ||y_{t+k}||_1 over the elements of a
    sample, averaged over samples, runs, guidance branches and the leaves of one component (SmoothCache, Liu et al.
    2024, arXiv 2411.10510).
    """

    def __init__(self, n_calls: int, longest: int, components: Mapping[str, str]) -> None:
        """A recorder of gaps up to `longest`, for leaves of these names and components."""
        self._n_calls, self._longest, self._components = n_calls, longest, dict(components)
        self._sums = {name: np.zeros((n_calls, longest + 1)) for name in self._components.values()}
        self._counts = {name: np.zeros((n_calls, longest + 1)) for name in self._components.values()}
        self._past: dict[tuple[str, int], list[tuple[int, torch.Tensor]]] = {}
        self._ordinal: dict[str, int] = {}
        self._call = 0

    @property
    def leaves(self) -> tuple[str, ...]:
        """Names of the leaves."""
        return tuple(self._components)

    def feed(self, leaf: str, value: Any) -> None:
        """Take what a leaf returned; guidance in two calls feeds it twice before `advance`."""
        ordinal = self._ordinal.get(leaf, 0)
        self._ordinal[leaf] = ordinal + 1
        now = torch.cat([thinned_samples(tensor) for tensor in tensors_of(value)], dim=1)
        past, component = self._past.setdefault((leaf, ordinal), []), self._components[leaf]
        size = now.abs().sum(dim=1).clamp_min(torch.finfo(now.dtype).tiny)
        for call, before in past:
            if before.shape == now.shape:
                gap = self._call - call
                self._sums[component][call, gap] += float(((before - now).abs().sum(dim=1) / size).mean())
                self._counts[component][call, gap] += 1.0
        past.insert(0, (self._call, now))
        del past[self._longest :]

    def advance(self) -> None:
        """Go to the next call; the one after the last begins another run."""
        self._ordinal.clear()
        self._call += 1
        if self._call == self._n_calls:
            self._call = 0
            self._past.clear()

    def errors(self) -> dict[str, NDArray[np.float64]]:
        """By component, E (n_calls, longest + 1), 0 at a gap of 0; inf after the last call.

        Raises:
            EvaluatorError: no run has been fed, or the last one is not complete.
        """
        if self._call or not all(count.any() for count in self._counts.values()):
            raise EvaluatorError(
                f"errors of leaves need complete runs of {self._n_calls} calls; got {self._call} of the last; "
                "feed the rest"
            )
        tables = {}
        for component, total in self._sums.items():
            count = self._counts[component]
            tables[component] = np.where(count > 0.0, total / np.maximum(count, 1.0), np.inf)
            tables[component][:, 0] = 0.0
        return tables


def thinned_samples(tensor: torch.Tensor) -> torch.Tensor:
    """Some elements of each sample, in float32 at least: (n, at most about `MAX_VALUES`).

    Their distance has no divisor in common with any dimension, so that all channels, rows and columns are seen.
    """
    flat = tensor.detach().flatten(1)
    size = flat.shape[1]
    stride = max(1, size // MAX_VALUES)
    while math.gcd(stride, size) > 1:
        stride += 1
    some = flat[:, ::stride]
    return some.to(torch.promote_types(some.dtype, torch.float32), copy=True)
