"""Cache plans of the literature, as seeds for a search.

All masks are bool tables (n_calls, n_sites), True is reuse; row 0 is always computed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from autotune.search.refresh_sets import (
    StepMask,
    power_law_refreshes,
    smooth_cache_refreshes,
    step_mask_refreshes,
)
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.errors import ScheduleError
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule

Mask = NDArray[np.bool_]

WARM_UP = 2
"""Calls before T-GATE's self-attentions begin to be reused."""

STAGE = "stage"
"""The component name of a whole UNet stage."""


@dataclass(frozen=True, kw_only=True)
class CacheMask:
    """A labelled mask, and what its calls do with the branches of guidance."""

    label: str
    reuse: Mask
    guidance: tuple[GuidanceAction, ...] | None = None

    def schedule(self, n_steps: int) -> Schedule:
        """The mask as a schedule of the pipeline's own sampler."""
        return Schedule(n_steps=n_steps, cache=CachePlan.from_array(self.reuse), guidance=self.guidance)


def fora_mask(inventory: Inventory, n_calls: int, every: int) -> CacheMask:
    """Recompute all leaves in every `every`-th call (FORA, Selvaraju et al. 2024, arXiv 2407.01425).

    What holds the leaves computes, so that each call's own gates act on the stored values.
    """
    refreshed = np.arange(n_calls) % every == 0
    return CacheMask(label=f"FORA, every {every}", reuse=_rows(~refreshed, inventory, inventory.leaves))


def even_mask(inventory: Inventory, n_calls: int, n_refreshed: int) -> CacheMask:
    """Run the network in `n_refreshed` calls that are spread evenly from the first on."""
    refreshed = np.zeros(n_calls, bool)
    refreshed[np.floor(np.arange(n_refreshed) * n_calls / n_refreshed).astype(int)] = True
    return CacheMask(
        label=f"{n_refreshed} of {n_calls} calls refreshed", reuse=_rows(~refreshed, inventory, inventory.outermost)
    )


def early_mask(inventory: Inventory, n_calls: int, n_refreshed: int, power: float = 1.5) -> CacheMask:
    """Run the network in `n_refreshed` calls that lie denser at the beginning.

    The k-th lies at n_calls (k / n_refreshed)^power, after the uneven refreshes of DeepCache (Ma et al. 2024), or in
    the next free call.
    """
    refreshed = np.zeros(n_calls, bool)
    for position in np.floor(n_calls * (np.arange(n_refreshed) / n_refreshed) ** power).astype(int):
        free = np.flatnonzero(~refreshed[position:])
        refreshed[position + free[0] if len(free) else np.flatnonzero(~refreshed)[-1]] = True
    reuse = _rows(~refreshed, inventory, inventory.outermost)
    return CacheMask(label=f"{n_refreshed} of {n_calls} calls refreshed, dense early", reuse=reuse)


def gate_mask(inventory: Inventory, n_calls: int, gate: int) -> CacheMask:
    """Freeze the sites that see the text from call `gate` on; guidance goes on with both branches.

    These are the cross-attentions (`attn2`) where the model has some, else, in joint-attention models such as
    Flux, all attentions.
    """
    frozen = np.array([site.component in _text_components(inventory) for site in inventory.sites])
    reuse = (np.arange(n_calls) >= gate)[:, None] & frozen[None, :]
    return CacheMask(label=f"text attention frozen from call {gate}", reuse=_grounded(reuse))


def t_gate_mask(inventory: Inventory, n_calls: int, gate: int, self_attention_every: int = 1) -> CacheMask:
    """T-GATE (Zhang et al. 2024, arXiv 2404.02747): a frozen text attention and one branch from call `gate` on.

    What a call of one branch reads is the conditional branch's last value; T-GATE takes the mean of both branches'
    there, which no action stands for. Its second version besides computes the self-attentions (`attn1`) between the
    first two calls and the gate in every n-th call only. For models that guide in one batch.
    """
    frozen, calls = gate_mask(inventory, n_calls, gate), np.arange(n_calls)
    resting = (calls >= WARM_UP) & (calls < gate) & ((calls - WARM_UP) % self_attention_every != 0)
    own = np.array([site.component == "attn1" for site in inventory.sites])
    column = tuple(GuidanceAction.CONDITIONAL if call >= gate else GuidanceAction.BOTH for call in range(n_calls))
    label = f"T-GATE at {gate}" + f", self-attention every {self_attention_every}" * (self_attention_every > 1)
    return CacheMask(label=label, reuse=frozen.reuse | resting[:, None] & own, guidance=column)


def stage_mask(inventory: Inventory, n_calls: int, every: int, depth: int = 0) -> CacheMask:
    """Run only the outermost UNet stages between full calls (after DeepCache, Ma et al. 2024, arXiv 2312.00858).

    These are the first and the last `depth` + 1 sites of component `stage`; all between are reused.
    """
    reused = np.arange(n_calls) % every != 0
    reuse = _grounded(reused[:, None] & _inner_stages(inventory, depth))
    return CacheMask(label=f"inner stages, every {every}" + f", depth {depth}" * (depth > 0), reuse=reuse)


def power_law_stage_mask(
    inventory: Inventory, n_calls: int, n_refreshed: int, *, centre: float, power: float
) -> CacheMask:
    """Like `stage_mask`, with full calls where DeepCache's power law puts them (`power_law_refreshes`)."""
    reused = _all_but(power_law_refreshes(n_calls, n_refreshed, centre, power), n_calls)
    return CacheMask(
        label=f"inner stages, {n_calls - reused.sum()} of {n_calls} calls refreshed, power {power:g} around {centre:g}",
        reuse=reused[:, None] & _inner_stages(inventory),
    )


def step_mask(inventory: Inventory, n_calls: int, preset: StepMask) -> CacheMask:
    """Run the network in the calls of a cache-dit preset (`step_mask_refreshes`)."""
    reused = _all_but(step_mask_refreshes(preset, n_calls), n_calls)
    return CacheMask(label=f"cache-dit, {preset}", reuse=_rows(reused, inventory, inventory.outermost))


def smooth_cache_mask(
    inventory: Inventory, errors: Mapping[str, NDArray[np.float64]], threshold: float, lookahead: int = 3
) -> CacheMask:
    """SmoothCache: all sites of one component share the refreshes that its errors call for.

    Args:
        inventory: its sites.
        errors: by component, the table of `smooth_cache_refreshes`, (n_calls, at least lookahead + 1), averaged over
            the component's sites. Components that are not in it are always recomputed.
        threshold: the greatest relative error of a reuse that is accepted.
        lookahead: how many calls in a row may reuse.

    Raises:
        ScheduleError: a component has no site, the tables differ in n_calls, or an argument breaks a rule.
    """
    sizes = {len(table) for table in errors.values()}
    unknown = set(errors) - {site.component for site in inventory.sites}
    if unknown or len(sizes) != 1:
        raise ScheduleError(
            f"SmoothCache needs errors of the components of {inventory.denoiser_class}, with the same number of calls; "
            f"got {sorted(sizes)} calls, and {sorted(unknown)} without a site"
        )
    reuse = np.zeros((sizes.pop(), len(inventory)), bool)
    for component, table in errors.items():
        reused = _all_but(smooth_cache_refreshes(table, threshold, lookahead), len(table))
        reuse[:, [site.component == component for site in inventory.sites]] = reused[:, None]
    return CacheMask(label=f"SmoothCache, errors up to {threshold:g}", reuse=reuse)


def smooth_cache_masks(inventory: Inventory, errors: Mapping[str, NDArray[np.float64]]) -> Iterator[CacheMask]:
    """SmoothCache's masks at the quartiles of the errors over its lookahead, the middle one first."""
    if errors:
        finite = np.concatenate([table[:, 1:][np.isfinite(table[:, 1:])] for table in errors.values()])
        for threshold in np.quantile(finite, (0.5, 0.25, 0.75)).tolist():
            yield smooth_cache_mask(inventory, errors, threshold)


def literature_masks(
    inventory: Inventory,
    n_calls: int,
    errors: Mapping[str, NDArray[np.float64]] = MappingProxyType({}),
    *,
    guided: bool = False,
) -> list[CacheMask]:
    """Masks of all kinds that the inventory has, the kinds taking turns, so that any beginning is a fair sample.

    `errors` are `EdgeCosts.leaf_errors`; without them there is no SmoothCache, and no T-GATE without `guided`.
    """
    kinds: list[Iterator[CacheMask]] = [
        (fora_mask(inventory, n_calls, n) for n in range(2, max(3, n_calls // 2 + 1))),
        (even_mask(inventory, n_calls, k) for k in _spread(2 * n_calls // 3, n_calls // 10)),
        (early_mask(inventory, n_calls, k) for k in _spread(2 * n_calls // 3, n_calls // 10)),
        (gate_mask(inventory, n_calls, m) for m in _spread(n_calls // 2, n_calls // 8)),
        (t_gate_mask(inventory, n_calls, m) for m in _spread(3 * n_calls // 4, n_calls // 4) if guided),
        smooth_cache_masks(inventory, errors),
        (step_mask(inventory, n_calls, preset) for preset in get_args(StepMask)),
    ]
    if sum(site.component == STAGE for site in inventory.sites) >= 3:
        kinds.insert(0, (stage_mask(inventory, n_calls, n) for n in range(2, max(3, n_calls // 2 + 1))))
        budgets = _spread(2 * n_calls // 3, n_calls // 10)
        law = (power_law_stage_mask(inventory, n_calls, k, centre=n_calls // 3, power=1.3) for k in budgets)
        kinds.insert(1, law)
    masks: dict[str, CacheMask] = {}  # budgets that round alike make one mask twice
    while kinds:
        for kind in list(kinds):
            mask = next(kind, None)
            if mask is None:
                kinds.remove(kind)
            elif mask.reuse.any():
                masks.setdefault(mask.label, mask)
    return list(masks.values())


def _text_components(inventory: Inventory) -> set[str]:
    components = {site.component for site in inventory.sites}
    return {"attn2"} if "attn2" in components else {name for name in components if "attn" in name}


def _spread(high: int, low: int) -> Sequence[int]:
    """From `high` down to `low`, in steps that give about eight values; all at least 1."""
    stride = max(1, (high - low) // 8)
    return range(max(1, high), max(0, low - 1), -stride)


def _inner_stages(inventory: Inventory, depth: int = 0) -> Mask:
    stages = [i for i, site in enumerate(inventory.sites) if site.component == STAGE]
    if not 0 <= 2 * depth < len(stages) - 2:
        raise ValueError(
            f"a stage mask of depth {depth} needs an inventory with {2 * max(0, depth) + 3} stages or more, and depths "
            f"are not negative; got {len(stages)} stages"
        )
    inner = np.zeros(len(inventory), bool)
    inner[stages[depth + 1 : len(stages) - depth - 1]] = True
    return inner


def _all_but(refreshed: Sequence[int], n_calls: int) -> Mask:
    reused = np.ones(n_calls, bool)
    reused[list(refreshed)] = False
    return reused


def _rows(reused: Mask, inventory: Inventory, sites: Sequence[int]) -> Mask:
    return _grounded(reused[:, None] & np.isin(np.arange(len(inventory)), sites)[None, :])


def _grounded(reuse: Mask) -> Mask:
    reuse[0] = False
    return reuse
