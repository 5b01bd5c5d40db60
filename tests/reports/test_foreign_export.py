"""Schedules in the formats of other tools, and what is said of what they can't say."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autotune.reports.foreign_export import FOREIGN_EXPORTS, export_cache_dit, export_smoothcache, write_for
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.errors import ScheduleError, StorageError, UsageError
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.inventory import Inventory, Relation, Site
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.smoothcache_json import parse_smoothcache
from autotune.spaces.solver_step import SolverStep

BOTH, STORED = GuidanceAction.BOTH, GuidanceAction.STORED


def make_inventory(n_blocks: int = 4) -> Inventory:
    sites = tuple(
        Site(name=f"transformer_blocks.{i}.{leaf}", block=f"transformer_blocks.{i}", component=leaf, macs=100)
        for i in range(n_blocks)
        for leaf in ("attn1", "attn2", "ff")
    )
    return Inventory(denoiser_class="PixArtTransformer2DModel", sites=sites, total_macs=1200)


INVENTORY = make_inventory()
STEPS = np.repeat([[0], [1], [0], [1], [1]], 12, axis=1)
"""Whole steps: the second, fourth and fifth are reused."""


def schedule(table: np.ndarray, guidance: tuple[GuidanceAction, ...] | None = None) -> Schedule:
    return Schedule(n_steps=len(table), cache=CachePlan.from_array(table), guidance=guidance)


def test_cache_dit_gets_the_mask_of_whole_steps() -> None:
    """`load_configs` of cache-dit 1.5.3 reads these keys, and its runs compute just these steps (tried by hand)."""
    file = export_cache_dit(schedule(STEPS), INVENTORY)
    config = pytest.importorskip("yaml").safe_load(file.text)  # comes with huggingface_hub
    assert set(config) == {"cache_config"}
    assert config["cache_config"] == {
        "num_inference_steps": 5,
        "steps_computation_mask": [1, 0, 1, 0, 0],
        "steps_computation_policy": "static",
        "max_warmup_steps": 0,
        "Fn_compute_blocks": 1,
        "Bn_compute_blocks": 0,
    }
    assert len(file.lost) == 1, "no cell changes, but what is reused is another thing"
    assert "residual" in file.lost[0]
    assert f"# {file.lost[0]}\n" in file.text


def test_cache_dit_is_told_what_the_projection_loses() -> None:
    table = STEPS.copy()
    table[2, :3] = CacheAction.REUSE
    table[4, 5:7] = CacheAction.TAYLOR_1
    changes = export_cache_dit(schedule(table), INVENTORY).lost[0]
    assert changes.startswith("8.3% of the plan's cells change (3.3% are forecasts, which become reuses)")
    assert "2 of 5 are computed" in changes
    assert "from 35.0% to 40.0%" in changes


def test_smoothcache_is_read_back_as_it_was() -> None:
    table = np.tile([[0, 0, 0], [1, 0, 1], [0, 1, 1], [1, 1, 0]], 4)
    file = export_smoothcache(schedule(table), INVENTORY)
    assert json.loads(file.text) == {"attn1": [1, 0, 1, 0], "attn2": [1, 1, 0, 0], "ff": [1, 0, 0, 1]}
    assert file.lost == ()
    assert parse_smoothcache(file.text, INVENTORY).schedule == canonical_schedule(schedule(table), INVENTORY)
    table[1, 0] = 0
    (lost,) = export_smoothcache(schedule(table), INVENTORY).lost
    assert lost.startswith("2.1% of the plan's cells change, since the format decides for types of components")


def test_what_stands_on_a_span_is_told_as_lost() -> None:
    """A stack around all leaves: where it is read they are not called, which no other tool does."""
    inside = [replace(site, parent=12, relation=Relation.INSIDE) for site in INVENTORY.sites]
    stack = Site(name="stack", block="stack", component="stack", macs=1200)
    inventory = replace(INVENTORY, sites=(*inside, stack))
    table = np.zeros((5, 13), np.uint8)
    table[[1, 3], 12], table[4, 12] = CacheAction.REUSE, CacheAction.TAYLOR_1
    changes, other = export_smoothcache(schedule(table), inventory).lost
    assert changes.startswith("20.0% of the plan's cells change (20.0% are forecasts, which become reuses)")
    assert other.startswith("60.0% of the plan's cells are skipped with the block, the stack or the whole network")
    changes, other = export_cache_dit(schedule(table), inventory).lost
    assert changes.startswith("20.0% of the plan's cells change (20.0% are forecasts, which become reuses)")
    table[4, 12] = CacheAction.REUSE
    (other,) = export_smoothcache(schedule(table), inventory).lost
    assert other.startswith("60.0% of the plan's cells are skipped")


@pytest.mark.parametrize("form", FOREIGN_EXPORTS)
def test_columns_that_are_left_out_are_named(form: str, tmp_path: Path) -> None:
    step = SolverStep(view="data", domain="lambda", order=1)
    solved = Schedule(
        n_steps=2, time=(900.0, 400.0), solver=(step, step), compensation=(1.0, 1.1),
        cache=CachePlan.from_array(STEPS[:2]),
    )  # fmt: skip
    lost = write_for(form, solved, INVENTORY, tmp_path / "theirs")
    assert lost[-1].startswith("left out: time, solver, compensation; the pipeline's own way runs instead")
    assert (tmp_path / "theirs").read_text()


def test_guidance_is_kept_or_said(tmp_path: Path) -> None:
    guided = schedule(STEPS, (BOTH, STORED, BOTH, BOTH, BOTH))
    for form in ("cache-dit", "smoothcache"):
        assert write_for(form, guided, INVENTORY, tmp_path / form)[-1].startswith("left out: guidance;")
    assert write_for("diffusers", guided, INVENTORY, tmp_path / "diffusers") == ()
    assert "    None,\n    ((0, 1.0),),\n    None," in (tmp_path / "diffusers").read_text()
    assert write_for("diffusers", schedule(STEPS, (BOTH,) * 5), INVENTORY, tmp_path / "diffusers") == ()


@pytest.mark.parametrize("form", FOREIGN_EXPORTS)
def test_a_schedule_that_does_not_cache_is_refused(form: str, tmp_path: Path) -> None:
    for plain in (Schedule(n_steps=4), schedule(np.zeros((4, 12)))):
        with pytest.raises(ScheduleError, match=r"cache|nothing to export"):
            write_for(form, plain, INVENTORY, tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


def test_what_masks_cannot_say(tmp_path: Path) -> None:
    stage = Site(name="s", block="s", component="stage", macs=1)
    leaf = Site(name="s.a", block="s", component="attn1", macs=1, parent=0, relation=Relation.INSIDE)
    nested = Inventory(denoiser_class="UNet2DConditionModel", sites=(stage, leaf), total_macs=1)
    more_calls = Schedule(n_steps=4, cache=CachePlan.from_array(STEPS))
    for form in ("cache-dit", "smoothcache"):
        with pytest.raises(ScheduleError, match="has stages, which hold others"):
            write_for(form, schedule(STEPS[:, :2]), nested, tmp_path / "theirs")
        with pytest.raises(ScheduleError, match="5 calls in 4 steps"):
            write_for(form, more_calls, INVENTORY, tmp_path / "theirs")
    for form, plan, inventory in (("a", schedule(STEPS[:, :2]), nested), ("b", more_calls, INVENTORY)):
        assert write_for("diffusers", plan, inventory, tmp_path / form) == ()
        rows = re.findall(r'^    "([.A-Zd]+)",$', (tmp_path / form).read_text(), re.MULTILINE)
        assert len(rows) == 5


def test_errors_of_writing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="autotune or one of cache-dit, smoothcache, diffusers; got 'onnx'"):
        write_for("onnx", schedule(STEPS), INVENTORY, tmp_path / "x")
    with pytest.raises(StorageError, match="make the folder"):
        write_for("cache-dit", schedule(STEPS), INVENTORY, tmp_path / "no" / "x")
