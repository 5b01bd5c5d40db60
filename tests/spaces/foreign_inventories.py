"""Inventories of the adapters, made without a model."""

from types import SimpleNamespace

import numpy as np

from autotune.evaluators import flux_adapter, pixart_adapter
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.inventory import Inventory


def flux_inventory(n_double: int = 19, n_single: int = 38) -> Inventory:
    blocks = SimpleNamespace(transformer_blocks=range(n_double), single_transformer_blocks=range(n_single))
    return Inventory(denoiser_class="FluxTransformer2DModel", sites=flux_adapter.list_sites(blocks))


def pixart_inventory(n_blocks: int = 28) -> Inventory:
    blocks = SimpleNamespace(transformer_blocks=range(n_blocks))
    return Inventory(denoiser_class="PixArtTransformer2DModel", sites=pixart_adapter.list_sites(blocks))


def of_leaves(actions: np.ndarray, inventory: Inventory) -> CachePlan:
    """The plan of a table (n_calls, n_leaves) of actions, or True for reuse; what holds the leaves computes."""
    table = np.zeros((len(actions), len(inventory)), np.uint8)
    table[:, list(inventory.leaves)] = actions
    return CachePlan.from_array(table)
