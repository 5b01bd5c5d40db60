"""Grids for the weights and activations of a network's layers, found in runs of one schedule."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.affine_quantizer import on_grid, search_grid
from autotune.evaluators.applied_tables import AppliedTables
from autotune.evaluators.quantization_recording import LossRecorder, RangeRecorder
from autotune.evaluators.quantized_layers import along, layers_of
from autotune.evaluators.table_fit import Run
from autotune.spaces.bit_allocation import allocate
from autotune.spaces.cache_correction import PairMoments
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.inventory import Inventory
from autotune.spaces.quantization import Grid, LayerQuantization, Quantization
from autotune.spaces.schedule import Schedule

LOW, HIGH = 4, 8
"""What weights in blocks may have; all others, first and last layers among them, and activations have 8 bits."""


class LayerGrids:
    """Grids of one pipeline's layers under one schedule.

    `layers` are all that can be quantized, by module path, and `inner` the names of those in blocks. `weight_grids`,
    by layer and bits, are those of weights, which no schedule changes: others of the pipeline may share them.
    """

    def __init__(
        self,
        pipe: Any,
        base: Schedule,
        inventory: Inventory,
        run: Run,
        weight_grids: dict[tuple[str, int], Grid] | None = None,
    ) -> None:
        adapter = find_adapter(pipe)
        self._pipe, self._base, self._run = pipe, base, run
        denoiser = adapter.denoiser_of(pipe)
        self.layers = dict(layers_of(denoiser))
        splits = adapter.list_splits(denoiser)
        width = {name: int(layer.get_parameter("weight").shape[1]) for name, layer in self.layers.items()}
        self._parts = {name: splits.get(name, (n,)) for name, n in width.items()}
        blocks = tuple(f"{site.block}." for site in inventory.sites)
        self.inner = [name for name in self.layers if name.startswith(blocks)]
        self._activation: Mapping[str, Grid] = {}
        self.weight_grids = {} if weight_grids is None else weight_grids

    def record_ranges(self, some: Iterable[Fidelity]) -> None:
        """Find the grids of activations, in runs of the schedule as it is."""
        layers = {name: (self.layers[name], parts) for name, parts in self._parts.items()}
        recorder = RangeRecorder(self._pipe, layers, unclipped=set(layers).difference(self.inner))
        for batch in some:
            self._run(self._base, batch, recorder, AppliedTables(quantization=Quantization({})))
        self._activation = recorder.grids(HIGH)

    def uniform(self, bits: int) -> Quantization:
        """Weights in blocks with so many bits."""
        return self._of(dict.fromkeys(self.inner, bits))

    def mixed(self, mean_bits: float, sensitivities: Mapping[str, float]) -> Quantization:
        """The bits of each layer in blocks that sum to a mean, with the least sum of sensitivities to `LOW` bits.

        What `HIGH` bits do is some hundred times less, and is left out.
        """
        names = [name for name in self.inner if name in self._activation and name in sensitivities]
        n_weights = np.array([self.layers[name].get_parameter("weight").numel() for name in names])
        sizes = n_weights[:, None] * np.array([LOW, HIGH])
        costs = np.array([[sensitivities[name], 0.0] for name in names])
        options = allocate(costs, sizes, int(mean_bits * n_weights.sum()))
        return self._of({name: (LOW, HIGH)[option] for name, option in zip(names, options, strict=True)})

    def pairs(self, made: Quantization, some: Iterable[Fidelity]) -> Mapping[str, PairMoments]:
        """What quantized layers return beside what they would, in runs of a quantization."""
        recorder = LossRecorder(self._pipe, made)
        for batch in some:
            self._run(self._base, batch, recorder, AppliedTables(quantization=made))
        return recorder.moments

    def on_grid(self, name: str, bits: int) -> torch.Tensor:
        """A layer's weights as so many bits stand for them."""
        own, grid = self.layers[name].get_parameter("weight").detach(), self._weight_grid(name, bits)
        parts = torch.split(own.float(), list(self._parts[name]), dim=1)
        grids = zip(*(torch.as_tensor(values) for values in (grid.scale, grid.zero)), strict=True)
        coded = [on_grid(p, along(0, s, p), along(0, z, p), bits) for p, (s, z) in zip(parts, grids, strict=True)]
        return torch.cat(coded, dim=1).to(own.dtype)

    def _of(self, bits: Mapping[str, int]) -> Quantization:
        return Quantization({name: self._layer(name, bits.get(name, HIGH)) for name in sorted(self._activation)})

    def _layer(self, name: str, bits: int) -> LayerQuantization:
        return LayerQuantization(
            weight_bits=bits,
            activation_bits=HIGH,
            parts=self._parts[name],
            weight=self._weight_grid(name, bits),
            activation=self._activation[name],
        )

    def _weight_grid(self, name: str, bits: int) -> Grid:
        key = (name, bits)
        if key not in self.weight_grids:
            weight = self.layers[name].get_parameter("weight").detach().float()
            rows = [part.flatten(1) for part in torch.split(weight, list(self._parts[name]), dim=1)]
            found = [search_grid(row, row.amin(dim=1), row.amax(dim=1), bits) for row in rows]
            scale, zero = (torch.stack(values).double().cpu().numpy() for values in zip(*found, strict=True))
            self.weight_grids[key] = Grid(scale, zero)
        return self.weight_grids[key]
