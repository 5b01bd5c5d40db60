"""Residual branches, the units of which block-wise caches decide one by one."""

from dataclasses import dataclass

from autotune.spaces.inventory import Inventory, Relation


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUnit:
    """One residual branch: the leaf whose value the block adds, and the leaves that feed nothing but it.

    `name` is that leaf's; `sites` are columns of the inventory, its own first. `layer` counts blocks in execution
    order. `feed_forward` says that the branch works token by token: it is no attention.
    """

    name: str
    sites: tuple[int, ...]
    layer: int
    feed_forward: bool


def cache_units(inventory: Inventory) -> tuple[CacheUnit, ...]:
    """The units of an inventory in execution order; each leaf belongs to one."""
    sites = inventory.sites
    fed: dict[int, list[int]] = {}
    for leaf in inventory.leaves:
        consumer = leaf
        while sites[consumer].relation is Relation.FEEDS and (parent := sites[consumer].parent) is not None:
            consumer = parent
        fed.setdefault(consumer, []).append(leaf)
    layers = {block: i for i, block in enumerate(dict.fromkeys(sites[leaf].block for leaf in inventory.leaves))}
    return tuple(
        CacheUnit(
            name=sites[own].name,
            sites=(own, *(leaf for leaf in fed[own] if leaf != own)),
            layer=layers[sites[own].block],
            feed_forward="attn" not in sites[own].component,
        )
        for own in sorted(fed)
    )
