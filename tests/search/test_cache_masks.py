import re

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.evaluators.small_flux import small_flux_inventory
from autotune.search.cache_masks import (
    CacheMask,
    early_mask,
    even_mask,
    fora_mask,
    gate_mask,
    literature_masks,
    power_law_stage_mask,
    smooth_cache_mask,
    stage_mask,
    step_mask,
    t_gate_mask,
)
from autotune.spaces.errors import ScheduleError
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.inventory import Inventory, Relation, Site

FLUX = small_flux_inventory()
PIXART = Inventory(
    denoiser_class="PixArtTransformer2DModel",
    sites=tuple(
        Site(name=f"b{i}.{c}", block=f"b{i}", component=c, macs=1) for i in range(3) for c in ("attn1", "attn2", "ff")
    ),
    total_macs=10,
)


def unet_inventory() -> Inventory:
    """Four stages, each with two leaves inside."""
    sites: list[Site] = []
    for name in ("down_blocks.0", "down_blocks.1", "up_blocks.0", "up_blocks.1"):
        stage = len(sites)
        sites.append(Site(name=name, block=name, component="stage", macs=10))
        for leaf in ("attn1", "attn2"):
            sites.append(
                Site(name=f"{name}.{leaf}", block=name, component=leaf, macs=3, parent=stage, relation=Relation.INSIDE)
            )
    return Inventory(denoiser_class="UNet2DConditionModel", sites=tuple(sites), total_macs=45)


def refreshed_calls(mask: CacheMask, site: int) -> list[int]:
    return np.flatnonzero(~mask.reuse[:, site]).tolist()


@pytest.mark.parametrize("every", [2, 3, 7])
def test_fora_recomputes_every_nth_call(every: int) -> None:
    mask = fora_mask(FLUX, 20, every)
    assert [bool(row.all()) for row in ~mask.reuse] == [t % every == 0 for t in range(20)]
    assert all(row.all() or not row.any() for row in mask.reuse)


@pytest.mark.parametrize("n_refreshed", [1, 7, 13, 20])
def test_even_mask_spreads_its_refreshes(n_refreshed: int) -> None:
    refreshed = np.flatnonzero(~even_mask(FLUX, 20, n_refreshed).reuse.all(axis=1))
    assert len(refreshed) == n_refreshed
    assert refreshed[0] == 0
    gaps = np.diff([*refreshed, 20])
    assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize("n_refreshed", [1, 5, 10, 19, 20])
def test_early_mask_refreshes_denser_at_the_beginning(n_refreshed: int) -> None:
    refreshed = np.flatnonzero(~early_mask(FLUX, 20, n_refreshed).reuse.all(axis=1))
    assert len(refreshed) == n_refreshed
    assert refreshed[0] == 0
    if n_refreshed == 5:
        assert refreshed.tolist() == [0, 1, 5, 9, 14]


def test_gate_freezes_cross_attention_where_there_is_some() -> None:
    reuse = gate_mask(PIXART, 10, 4).reuse
    cross = [site.component == "attn2" for site in PIXART.sites]
    assert reuse[4:, cross].all()
    assert not reuse[:4].any()
    assert not reuse[:, np.logical_not(cross)].any()


def test_gate_freezes_all_attention_of_a_joint_attention_model() -> None:
    frozen = gate_mask(FLUX, 10, 4).reuse[4]
    assert frozen.tolist() == [site.component == "attn" for site in FLUX.sites]


@pytest.mark.parametrize("every", [1, 2])
def test_t_gate_runs_one_branch_with_frozen_cross_attention_from_the_gate_on(every: int) -> None:
    mask = t_gate_mask(PIXART, 10, 6, every)
    for i, site in enumerate(PIXART.sites):
        resting = [call for call in range(10) if mask.reuse[call, i]]
        expected = {"attn1": [3, 5] if every == 2 else [], "attn2": [6, 7, 8, 9], "ff": []}
        assert resting == expected[site.component]
    assert mask.schedule(10).guidance == (GuidanceAction.BOTH,) * 6 + (GuidanceAction.CONDITIONAL,) * 4


def test_t_gate_is_of_the_literature_where_a_branch_can_be_left_out() -> None:
    assert not any("T-GATE" in mask.label for mask in literature_masks(PIXART, 20))
    labels = [mask.label for mask in literature_masks(PIXART, 20, guided=True)]
    assert 3 <= sum("T-GATE" in label for label in labels) < len(labels)
    assert any("T-GATE" in label for label in labels[:6])


def test_a_deeper_stage_mask_leaves_more_stages_running() -> None:
    sites = tuple(Site(name=f"s{i}", block=f"s{i}", component="stage", macs=1) for i in range(7))
    unet = Inventory(denoiser_class="UNet2DConditionModel", sites=sites, total_macs=7)
    assert np.flatnonzero(stage_mask(unet, 4, 2, depth=1).reuse[1]).tolist() == [2, 3, 4]
    assert stage_mask(unet, 4, 2, depth=1).label == "inner stages, every 2, depth 1"
    with pytest.raises(ValueError, match="depth 3 needs an inventory with 9 stages or more"):
        stage_mask(unet, 4, 2, depth=3)


def test_stage_mask_keeps_the_outermost_stages_running() -> None:
    unet = unet_inventory()
    reused = {unet.sites[i].name for i in np.flatnonzero(stage_mask(unet, 10, 2).reuse[1])}
    assert reused == {"down_blocks.1", "up_blocks.0"}
    assert not stage_mask(unet, 10, 2).reuse[::2].any()
    with pytest.raises(ValueError, match="3 stages or more"):
        stage_mask(FLUX, 10, 2)


def test_power_law_stage_mask_refreshes_the_inner_stages_only() -> None:
    unet = unet_inventory()
    mask = power_law_stage_mask(unet, 10, 4, centre=4, power=2.0)
    assert mask.label == "inner stages, 4 of 10 calls refreshed, power 2 around 4"
    for i, site in enumerate(unet.sites):
        inner = site.name in ("down_blocks.1", "up_blocks.0")
        assert refreshed_calls(mask, i) == ([0, 3, 4, 6] if inner else list(range(10)))
    with pytest.raises(ValueError, match="3 stages or more"):
        power_law_stage_mask(FLUX, 10, 4, centre=4, power=2.0)


def test_step_mask_recomputes_whole_calls() -> None:
    mask = step_mask(FLUX, 28, "ultra")
    assert all(refreshed_calls(mask, i) == [0, 1, 2, 3, 6, 12, 19, 27] for i in range(len(FLUX)))


def test_smooth_cache_mask_has_refreshes_for_each_component() -> None:
    errors = {"attn1": np.full((6, 4), 0.3), "ff": np.tile([0.0, 0.1, 0.3, 0.5], (6, 1))}
    mask = smooth_cache_mask(PIXART, errors, 0.3)
    refreshed = {"attn1": [0, 4], "attn2": [0, 1, 2, 3, 4, 5], "ff": [0, 3]}
    for i, site in enumerate(PIXART.sites):
        assert refreshed_calls(mask, i) == refreshed[site.component]
    assert set(refreshed_calls(smooth_cache_mask(PIXART, errors, 0.3, lookahead=1), 0)) == {0, 2, 4}


@pytest.mark.parametrize("errors", [{}, {"attn": np.ones((6, 4))}, {"attn1": np.ones((6, 4)), "ff": np.ones((5, 4))}])
def test_smooth_cache_needs_tables_that_fit(errors: dict[str, NDArray[np.float64]]) -> None:
    with pytest.raises(ScheduleError, match="errors of the components of PixArtTransformer2DModel"):
        smooth_cache_mask(PIXART, errors, 0.3)


@pytest.mark.parametrize("inventory", [FLUX, PIXART, unet_inventory()])
@pytest.mark.parametrize("n_calls", [1, 2, 3, 4, 20, 50])
def test_literature_masks_are_grounded_and_of_all_kinds(inventory: Inventory, n_calls: int) -> None:
    masks = literature_masks(inventory, n_calls)
    assert all(mask.reuse.shape == (n_calls, len(inventory)) for mask in masks)
    assert not any(mask.reuse[0].any() for mask in masks)
    assert all(mask.reuse.any() for mask in masks)
    if n_calls >= 20:
        n_kinds = 7 if inventory.denoiser_class.startswith("UNet") else 5
        assert len({re.sub(r"\d+", "", mask.label) for mask in masks[:n_kinds]}) == n_kinds
    assert len({mask.label for mask in masks}) == len(masks)


def test_measured_errors_add_smoothcache_at_three_thresholds() -> None:
    rng = np.random.default_rng(0)
    ages = np.arange(4)[None, :] * rng.random((20, 1))
    errors = {name: np.where(np.arange(20)[:, None] + np.arange(4) < 20, ages, np.inf) for name in ("attn1", "ff")}
    masks = [mask for mask in literature_masks(PIXART, 20, errors) if mask.label.startswith("SmoothCache")]
    shares = [mask.reuse.mean() for mask in masks]
    assert shares[1] < shares[0] < shares[2]
    assert [mask.label for mask in literature_masks(PIXART, 20, errors)].index(masks[0].label) < 6
