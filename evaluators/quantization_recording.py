"""Watching a network's layers: what they read, call by call, and what quantization does to what they return."""

import contextlib
import functools
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from autotune.evaluators.affine_quantizer import grid_of, search_grid
from autotune.evaluators.apply import cache_runtime_of, quantization_runtime_of
from autotune.evaluators.quantized_layers import LayerCodes, QuantizationRuntime, along, channel_axis
from autotune.evaluators.step_hook import hooked
from autotune.evaluators.table_fit import pair_moments
from autotune.evaluators.value_histogram import Histogram
from autotune.spaces.cache_correction import PairMoments
from autotune.spaces.quantization import Grid, Quantization

HEADROOM = 1.3
"""How much wider than what was seen the range of a layer is of which nothing is to be cut off.

Grids of 12 prompts, of other prompts: with it on these layers alone W8A8 deviates from the converged run by .117 on
mini-sd and .075 on mini-pixart, in 20 steps. On all layers it would be .144, by coarser steps, and .067. Of 6 prompts,
on mini-pixart: .083, and .099 with it on the layer alone that reads the sample.
"""

MAX_ROWS = 4096
"""Tokens or pixels of an output that are compared in one call of a batch, evenly spread."""


class RangeRecorder:
    """Collects what layers read; to be used as a `Watcher` of runs with a quantization, which may name no layer.

    Kept is a histogram of each part of each layer's input in each call, 16 KB or less however many prompts there are:
    some 0.4 GB of FLUX's 500 layers in 50 calls.
    """

    def __init__(
        self, pipe: Any, layers: Mapping[str, tuple[torch.nn.Module, tuple[int, ...]]], unclipped: Container[str] = ()
    ) -> None:
        """A recorder of layers by name, each with the numbers of channels of its parts.

        Of what `unclipped` layers read nothing is cut off. Those that read the sample must be among them:
        a pixel beyond its grid counts as less noise than there is, too little is removed, and it grows with every step
        (2 of 32 runs of mini-pixart ended 2.4 and 5.5 times as far from the converged run as that is from 0).
        """
        self._pipe, self._layers, self._unclipped = pipe, layers, unclipped
        self._seen: dict[str, dict[int, list[Histogram]]] = defaultdict(dict)
        self._n_calls = 0

    @contextlib.contextmanager
    def watching(self, scheduler: Any) -> Iterator[None]:
        """Record while the block lasts."""
        runtime = quantization_runtime_of(self._pipe)
        assert runtime is not None

        def note(name: str, parts: tuple[int, ...], module: Any, args: tuple[torch.Tensor, ...]) -> None:
            if runtime.row is not None and not _is_skipped(self._pipe, name):
                self._note(name, runtime.row, torch.split(args[0].detach(), list(parts), dim=channel_axis(module)))

        handles = [
            module.register_forward_pre_hook(functools.partial(note, name, parts))
            for name, (module, parts) in self._layers.items()
        ]
        with hooked(handles):
            yield

    def grids(self, bits: int) -> dict[str, Grid]:
        """Scales and zero points (n_calls, n_parts) of each layer that has run.

        A call in which a layer did not run has those of the one before, or of the first in which it did.
        """
        return {name: self._grid(rows, bits, name in self._unclipped) for name, rows in self._seen.items()}

    def _grid(self, rows: Mapping[int, list[Histogram]], bits: int, unclipped: bool) -> Grid:
        calls = sorted(rows)
        n_parts = len(rows[calls[0]])
        scale, zero = np.empty((2, self._n_calls, n_parts))
        nearest = np.maximum(np.searchsorted(calls, np.arange(self._n_calls), side="right") - 1, 0)
        for part in range(n_parts):
            seen = [rows[call][part] for call in calls]
            values, counts = (pad_sequence([getattr(h, name) for h in seen], True) for name in ("centres", "counts"))
            low, high = (values.new_tensor([getattr(h, name) for h in seen]) for name in ("low", "high"))
            if unclipped:
                found = grid_of(HEADROOM * low, HEADROOM * high, bits)
            else:
                found = search_grid(values, low, high, bits, counts)
            scale[:, part], zero[:, part] = (made.double().cpu().numpy()[nearest] for made in found)
        return Grid(scale, zero)

    def _note(self, name: str, row: int, parts: Sequence[torch.Tensor]) -> None:
        self._n_calls = max(self._n_calls, row + 1)
        seen = [Histogram.of(part) for part in parts]
        before = self._seen[name].get(row)
        if before is not None:
            seen = [one + other for one, other in zip(before, seen, strict=True)]
        self._seen[name][row] = seen


class LossRecorder:
    """Compares what quantized layers return with what they would from the same input; a `Watcher` of quantized runs.

    `moments` are those of pairs (quantized, true) without the bias, by layer, of the first part alone where there are
    several.
    """

    def __init__(self, pipe: Any, quantization: Quantization) -> None:
        """A recorder of the layers of a quantization."""
        self.moments: dict[str, PairMoments] = {}
        self._pipe, self._quantization = pipe, quantization

    @contextlib.contextmanager
    def watching(self, scheduler: Any) -> Iterator[None]:
        """Record while the block lasts."""
        runtime = quantization_runtime_of(self._pipe)
        assert runtime is not None
        handles = []
        for name, codes in runtime.codes.items():
            note = functools.partial(self._note, runtime, name, codes)
            handles.append(codes.module.register_forward_pre_hook(note))
        with hooked(handles):
            yield

    def _note(
        self,
        runtime: QuantizationRuntime,
        name: str,
        codes: LayerCodes,
        module: Any,
        args: tuple[torch.Tensor, ...],
    ) -> None:
        row = runtime.row
        if row is None or _is_skipped(self._pipe, name):
            return
        layer, values, axis = self._quantization.layers[name], args[0], channel_axis(module)
        if len(layer.parts) > 1:
            values = values.clone()
            values.narrow(axis, layer.parts[0], sum(layer.parts[1:])).zero_()  # which has a code of its own
        forward = functools.partial(type(module).forward, module)
        true = forward(values)
        bias = 0.0 if module.bias is None else along(axis, module.bias.detach(), true)
        true = _rows(true - bias, axis)
        pairs = pair_moments(_rows(codes.run(row, forward, values) - bias, axis), true)
        before = self.moments.get(name)
        self.moments[name] = pairs if before is None else before + pairs


def _is_skipped(pipe: Any, layer: str) -> bool:
    """Whether a cache stands in front of this layer and will not run it: what it is called with is nothing then."""
    cache = cache_runtime_of(pipe)
    return cache is not None and cache.skips(layer)


def _rows(output: torch.Tensor, axis: int) -> torch.Tensor:
    """Some tokens or pixels of an output: (n, channels)."""
    rows = output.movedim(axis, -1).flatten(0, -2)
    return rows[:: -(-len(rows) // MAX_ROWS)]
