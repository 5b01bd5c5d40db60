"""Inventories of the adapters, made without a model."""

from types import SimpleNamespace

from autotune.evaluators import flux_adapter, pixart_adapter
from autotune.spaces.inventory import Inventory


def flux_inventory(n_double: int = 19, n_single: int = 38) -> Inventory:
    blocks = SimpleNamespace(transformer_blocks=range(n_double), single_transformer_blocks=range(n_single))
    return Inventory(denoiser_class="FluxTransformer2DModel", sites=flux_adapter.list_sites(blocks))


def pixart_inventory(n_blocks: int = 28) -> Inventory:
    blocks = SimpleNamespace(transformer_blocks=range(n_blocks))
    return Inventory(denoiser_class="PixArtTransformer2DModel", sites=pixart_adapter.list_sites(blocks))
