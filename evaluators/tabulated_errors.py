"""What approximating network calls costs in the tabulated evaluator, by formula."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from autotune.spaces.branch_tables import METRICS, BranchTables
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan, cell_use
from autotune.spaces.cache_policy import CachePolicy
from autotune.spaces.cache_unit import cache_units
from autotune.spaces.edge_costs import EdgeCosts
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.inventory import Inventory
from autotune.spaces.policy_calibration import PolicyCalibration
from autotune.spaces.segment_costs import COST_KEYS, SegmentCosts, segment_table

LONGEST = 8
"""Greatest distance between refreshes that `reuse_costs` knows."""

KINDS = (CacheAction.REUSE, CacheAction.TAYLOR_1, CacheAction.TAYLOR_2)

FAILURES_PER_DEVIATION = 12.0
"""Share of episodes that fail per unit of deviation."""

Array = NDArray[np.float64]


def reuse_error(plan: CachePlan, inventory: Inventory) -> float:
    """Error of reuse, from site weight x step weight x gap^1.3 of every reused cell that matters.

    A forecast of order 1 has half the error at a gap of one call and grows as gap^1.8, one of order 2 a third, gap^2.3.
    """
    use = cell_use(plan, inventory)
    steps = np.arange(plan.n_calls)
    last = np.maximum.accumulate(np.where(plan.table == CacheAction.RECOMPUTE, steps[:, None], 0), axis=0)
    gap = (steps[:, None] - last) * (20.0 / plan.n_calls)
    errors = np.where(use.reads, _reuse_error(np.asarray(gap, float), use.order), 0.0)
    cells = errors * _step_weights(plan.n_calls)[:, None] * _site_weights(inventory)
    # Errors of one call add up coherently, those of different calls half so.
    per_call = cells.sum(axis=1)
    return float(0.5 * per_call.sum() + 0.5 * np.sqrt((per_call**2).sum()))


def _reuse_error(gap: Array | np.float64, order: NDArray[np.int_]) -> Array:
    return np.asarray(gap ** (1.3 + 0.5 * order) / (1.0 + order))


def _site_weights(inventory: Inventory) -> Array:
    depth = np.linspace(-1.0, 1.0, len(inventory))
    scale = {"attn": 1.0, "attn1": 1.0, "attn2": 0.3, "ff": 1.4, "ff_context": 0.2, "proj_mlp": 0.5}
    kind = np.array([scale.get(site.component, 1.2) for site in inventory.sites])
    weights = kind * (0.3 + depth**2)
    return np.asarray(weights / weights.sum())


def _step_weights(n_calls: int) -> Array:
    position = np.linspace(0.0, 1.0, n_calls)
    weights = 0.2 + 1.5 * np.exp(-8.0 * position) + 0.8 * position**4
    return np.asarray(0.25 * weights / weights.sum())


def reuse_costs(n_calls: int) -> EdgeCosts:
    """The errors of `reuse_error` for one site of weight 1, as a planner reads them."""
    width = LONGEST + 1
    j, d1, d2, gap = np.ogrid[:n_calls, :width, :width, :width]
    n_values = 1 + (d1 > 0) + (d2 > 0)
    weights = _step_weights(n_calls)
    table = np.zeros((n_calls, width, width, width, len(KINDS)))
    for i, kind in enumerate(KINDS):
        order = np.minimum(kind.order, n_values - 1)
        for k in range(1, LONGEST):
            error = _reuse_error(np.float64(k * 20.0 / n_calls), order)
            table[..., i] += (gap > k) * weights[np.minimum(j + k, n_calls - 1)] * error
    ratios = (1.0, *np.linspace(1.05, 0.95, n_calls - 1).tolist())
    return EdgeCosts(KINDS, table, PolicyCalibration(ratios=ratios, polynomial=(1.0, 0.0)))


def segment_changes(n_calls: int) -> SegmentCosts:
    """The errors of `reuse_error` for one site of weight 1, under every key."""
    longest = min(LONGEST, n_calls)
    call, gap = np.ogrid[:n_calls, :longest]
    errors = np.array([0.0, *(_reuse_error(np.float64(k * 20.0 / n_calls), np.array(0)) for k in range(1, longest))])
    table = segment_table(_step_weights(n_calls)[np.minimum(call + gap, n_calls - 1)] * errors)
    return SegmentCosts(dict.fromkeys(COST_KEYS, table), longest)


def branch_changes(inventory: Inventory, n_calls: int) -> BranchTables:
    """Branches that turn a little in each call, more where the step and the site have more weight in `reuse_error`.

    The deeper a unit, the more unevenly it turns, so that refreshes of units differ.
    """
    units = cache_units(inventory)
    sites, steps = _site_weights(inventory)[[unit.sites[0] for unit in units]], _step_weights(n_calls)
    turns = (steps / steps.mean()) ** np.linspace(0.0, 2.0, len(units))[:, None] * (sites / sites.mean())[:, None]
    turned = np.cumsum(turns, axis=1) / n_calls
    angles = np.abs(turned[:, :, None] - turned[:, None])
    chords = 2.0 * np.sin(np.minimum(angles, np.pi) / 2.0)
    mean = {"cosine": np.cos(angles), "l1": chords, "mse": chords**2, "l2": chords, "wasserstein": chords}
    return BranchTables(
        units=tuple(unit.name for unit in units),
        mean={metric: mean[metric] for metric in METRICS},
        spread={metric: np.zeros_like(angles) for metric in METRICS},
        n_samples=1,
    )


def policy_effect(policy: CachePolicy) -> tuple[float, float]:
    """Share of the calls that a policy skips, and the error: both grow with its threshold, or its interval."""
    strength = policy.threshold or 1.0 - 1.0 / policy.interval
    share = 0.8 * (1.0 - float(np.exp(-strength))) * (1.0 - 0.1 / policy.max_skips)
    return share, 0.3 * share**1.5 / policy.order


def image_quality(deviation: Array) -> dict[str, tuple[float, ...]]:
    """The metrics of images with these deviations."""
    return {
        "deviation": tuple(deviation.tolist()),
        "psnr": tuple((12.0 - 18.0 * np.log10(deviation)).tolist()),
        "ssim": tuple((1.0 / (1.0 + deviation)).tolist()),
        "alignment": tuple((0.9 / (1.0 + deviation**2)).tolist()),
    }


def episode_quality(deviation: float, factors: Array) -> dict[str, tuple[float, ...]]:
    """What a policy's schedule of some deviation does in episodes of these factors, 0.8 to 1.2, one per episode.

    It fails in the share `FAILURES_PER_DEVIATION * deviation` of all episodes, those of the largest factors.
    """
    hardness = (factors - 0.8) / 0.4  # uniform in [0, 1]
    success = hardness <= 1.0 - FAILURES_PER_DEVIATION * deviation
    return {"success": tuple(map(float, success)), "action-error": tuple((deviation * factors).tolist())}


def prompt_factors(fidelity: Fidelity) -> Array:
    """One factor around 1 per prompt and seed."""
    pairs = zip(fidelity.prompts, fidelity.seeds, strict=True)
    return np.array([1.0 + 0.2 * float(unit_noise(f"{prompt}/{seed}", 1)[0]) for prompt, seed in pairs])


def unit_noise(name: str, n: int) -> Array:
    """`n` numbers in [-1, 1] that depend on the name alone."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big")).uniform(-1.0, 1.0, n)
