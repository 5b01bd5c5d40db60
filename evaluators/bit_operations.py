"""Bit operations: multiply-accumulates, each times the bits of both of its factors.

They tell what a quantization and a cache save together, on hardware that is as much faster as its numbers are shorter,
and are what CacheQuant (Liu et al. 2025, arXiv 2503.01323) and others publish ("BOPs"). No clock has measured them.
"""

from dataclasses import replace
from functools import cached_property
from typing import Any

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.inventory import measure_layers
from autotune.spaces.inventory import Inventory, Site
from autotune.spaces.quantization import Quantization


class BitOperations:
    """Counts for the denoiser of one pipeline, at one size of pictures."""

    def __init__(self, pipe: Any, inventory: Inventory, height: int, width: int) -> None:
        self._pipe, self._inventory, self._size = pipe, inventory, (height, width)
        adapter = find_adapter(pipe)
        denoiser = adapter.denoiser_of(pipe)
        self._spans = adapter.list_spans(denoiser)
        self._square: int = (8 * next(denoiser.parameters()).element_size()) ** 2
        self.plain = self.inventory(None)
        """The inventory without a quantization."""

    def inventory(self, quantization: Quantization | None) -> Inventory:
        """The model's inventory, with bit operations for multiply-accumulates.

        Products of layers that `quantization` names count with its bits. All others, such as attention's, and those of
        grouped convolutions, count with the bits of the weights' type.
        """
        layers = {} if quantization is None else quantization.layers
        saved = {
            name: self._macs.get(name, 0) * (self._square - layer.weight_bits * layer.activation_bits)
            for name, layer in layers.items()
        }

        def left(macs: int, paths: tuple[str, ...]) -> int:
            inside = tuple(f"{path}." for path in paths)
            return macs * self._square - sum(n for name, n in saved.items() if name in paths or name.startswith(inside))

        def weighed(site: Site) -> Site:
            paths = self._spans[site.name].modules if site.name in self._spans else (site.name,)
            return replace(site, macs=left(site.macs, tuple(paths)))

        sites = tuple(weighed(site) for site in self._inventory.sites)
        total = self._inventory.total_macs * self._square - sum(saved.values())
        return replace(self._inventory, sites=sites, total_macs=total)

    @cached_property
    def _macs(self) -> dict[str, int]:
        return measure_layers(self._pipe, *self._size)
