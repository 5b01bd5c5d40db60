"""What ECAD's published runs start from (Aggarwal et al. 2025, arXiv 2506.15682): its initial populations."""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from autotune.search.cache_masks import fora_mask, t_gate_mask
from autotune.search.searcher import SearchContext
from autotune.search.seed_queue import in_turns
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule

Mask = NDArray[np.bool_]

SELF, CROSS, FEED_FORWARD = "attn1", "attn2", "ff"


def published_seeds(context: SearchContext) -> Iterator[tuple[str, Schedule]]:
    """Label and schedule of each seed.

    Models with joint attention (FLUX): FORA, every second to every seventh call. With cross-attention (PixArt): all
    leaves, or the attentions alone, refreshed in every n-th call; T-GATE; single components reused in evenly spread
    blocks of evenly spread calls. The published counts of calls and blocks, of 20 and 28, are scaled to the model's. Of
    the last two kinds the paper names ranges, not members: every other member is taken in turn.
    """
    inventory, n = context.inventory, context.n_calls
    masks = _with_cross_attention(inventory, n) if has_cross_attention(inventory) else _fora(inventory, n, range(2, 8))
    for label, reuse in masks:
        yield label, Schedule(n_steps=context.condition.n_steps, cache=CachePlan.from_array(reuse))


def has_cross_attention(inventory: Inventory) -> bool:
    """Whether the model is of PixArt's kind, not of FLUX's."""
    return any(site.component == CROSS for site in inventory.sites)


def _fora(inventory: Inventory, n_calls: int, every_nth: Sequence[int]) -> Iterator[tuple[str, Mask]]:
    for every in every_nth:
        yield f"FORA, every {every}", fora_mask(inventory, n_calls, every).reuse


def _with_cross_attention(inventory: Inventory, n_calls: int) -> Iterator[tuple[str, Mask]]:
    every_nth = (2, 3, 4, 5, 7, 10, 20)
    yield from _fora(inventory, n_calls, every_nth)
    off = {every: np.arange(n_calls) % every != 0 for every in every_nth}
    for every in every_nth:
        if every != 3:
            yield f"attentions, every {every}", off[every][:, None] & _of(inventory, (SELF, CROSS))
    gates = product(range(10, 21, 2), range(1, 12, 2))
    spread = product((SELF, CROSS, FEED_FORWARD), (3, 11, 19, 27), (3, 11, 19))
    yield from in_turns(
        (_gated(inventory, n_calls, round(gate * n_calls / 20), every) for gate, every in gates),
        (_spread(inventory, n_calls, part, blocks / 28, calls / 20) for part, blocks, calls in spread),
    )


def _gated(inventory: Inventory, n_calls: int, gate: int, every: int) -> tuple[str, Mask]:
    """Self-attention in every n-th call between warm-up and gate; cross-attention up to the gate only.

    As ECAD has it, both branches go on.
    """
    reuse = t_gate_mask(inventory, n_calls, max(1, gate), every).reuse
    return f"T-GATE at {gate}, self-attention every {every}", reuse


def _spread(inventory: Inventory, n_calls: int, component: str, blocks: float, calls: float) -> tuple[str, Mask]:
    """One component reused in these shares of its sites and of the calls."""
    mine = np.flatnonzero(_of(inventory, (component,))[0])
    reuse = np.zeros((n_calls, len(inventory)), bool)
    reuse[np.ix_(_evenly(n_calls - 1, calls) + 1, mine[_evenly(len(mine), blocks)])] = True
    return f"{component} reused in {blocks:.0%} of blocks, {calls:.0%} of calls", reuse


def _evenly(n: int, share: float) -> NDArray[np.int_]:
    return np.unique(np.linspace(0, n - 1, max(1, round(share * n))).round().astype(int))


def _of(inventory: Inventory, components: Sequence[str]) -> Mask:
    """Sites of these components: bool (1, n_sites)."""
    return np.array([[site.component in components for site in inventory.sites]])
