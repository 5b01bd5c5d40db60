"""Sites of a transformer that is one stack of blocks: leaves, each block, the stack, and what leaves the stack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.evaluators.span import Span
from autotune.spaces.inventory import BLOCK, FINAL, STACK, Relation, Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A leaf module: its path inside the block, its component, and the leaf of the same block that alone reads it.

    `norms` are paths of the norms that it reads, each scaled and shifted or as it is; no other code of the block does.
    """

    path: str
    component: str
    feeds: str | None = None
    norms: tuple[str, ...] = ()


def block_paths(denoiser: Any, *lists: str) -> list[str]:
    """Paths of the blocks in the denoiser's module lists of these names, one list after the other."""
    return [f"{name}.{i}" for name in lists for i in range(len(getattr(denoiser, name)))]


def block_sites(blocks: Mapping[str, Sequence[Leaf]]) -> tuple[Site, ...]:
    """The hidden state, the stack inside it, the blocks inside that, the leaves inside those, without MACs.

    Args:
        blocks: leaves by path of the block, both in execution order.
    """
    inside = Relation.INSIDE
    sites = [
        Site(name=FINAL, block=STACK, component=FINAL, macs=0),
        Site(name=STACK, block=STACK, component=STACK, macs=0, parent=0, relation=inside),
    ]
    for block, leaves in blocks.items():
        parent = len(sites)
        sites.append(Site(name=block, block=block, component=BLOCK, macs=0, parent=1, relation=inside))
        position = {leaf.path: parent + 1 + i for i, leaf in enumerate(leaves)}
        for leaf in leaves:
            sites.append(
                Site(
                    name=f"{block}.{leaf.path}",
                    block=block,
                    component=leaf.component,
                    macs=0,
                    parent=parent if leaf.feeds is None else position[leaf.feeds],
                    relation=inside if leaf.feeds is None else Relation.FEEDS,
                )
            )
    return tuple(sites)


def block_norms(blocks: Mapping[str, Sequence[Leaf]]) -> dict[str, tuple[str, ...]]:
    """Names of the leaves that read each norm, by its path."""
    readers: dict[str, tuple[str, ...]] = {}
    for block, leaves in blocks.items():
        for leaf in leaves:
            for norm in leaf.norms:
                path = f"{block}.{norm}"
                readers[path] = (*readers.get(path, ()), f"{block}.{leaf.path}")
    return readers


def block_spans(blocks: Sequence[str], streams: tuple[str, ...]) -> dict[str, Span]:
    """What the sites of `block_sites` cover that are not leaves; for `streams` see `Span`."""
    stack = tuple(blocks)
    spans = {
        FINAL: Span(modules=stack, streams=streams, residual=False),
        STACK: Span(modules=stack, streams=streams, residual=True),
    }
    return spans | {block: Span(modules=(block,), streams=streams, residual=True) for block in stack}
