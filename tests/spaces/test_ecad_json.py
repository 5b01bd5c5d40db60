"""Files in ECAD's layout, generated from its description: step-major booleans, true for recompute."""

import copy
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autotune.spaces.cache_plan import cell_use
from autotune.spaces.ecad_json import parse_ecad
from autotune.spaces.errors import ScheduleError
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule, canonical_schedule

from .foreign_inventories import flux_inventory, of_leaves, pixart_inventory

DOUBLE, SINGLE = ("full_attn", "full_ff", "full_ff_context"), ("single_attn", "single_proj_mlp", "single_proj_out")
PIXART = ("attn1", "attn2", "ff")

Bits = NDArray[np.bool_]


def ecad_file(recompute: Bits, n_double: int, n_single: int, double: tuple[str, ...] = DOUBLE) -> dict[str, Any]:
    """The object of a file whose cells are those of a table (steps, cells) in the order of ECAD's flat vector."""
    blocks = [(str(i), double) for i in range(n_double)] + [(f"single_{i}", SINGLE) for i in range(n_single)]
    schedule = {}
    for t, row in enumerate(recompute):
        cells = iter(row.tolist())
        schedule[f"{t:03d}"] = {block: {c: next(cells) for c in components} for block, components in blocks}
    described: dict[str, Any] = {"num_blocks": n_double, "num_inference_steps": len(recompute), "name": "made up"}
    if n_single:
        described["num_single_blocks"] = n_single
    return {
        "cache_schedule": {**described, "attributes": {"num_steps_affected": 1}, "schedule": schedule},
        "config": {"height": 256, "width": 256, "guidance_scale": 5.0},
        "metrics": {"total_macs": 1.0, "latency": {"avg": 2.0}},
    }


def random_bits(n_steps: int, inventory: Inventory) -> Bits:
    return np.asarray(np.random.default_rng(0).random((n_steps, len(inventory.leaves))) < 0.4)


def test_a_file_for_flux_dev_is_read_within_a_second_and_cell_for_cell() -> None:
    inventory = flux_inventory()
    recompute = random_bits(20, inventory)
    text = json.dumps(ecad_file(recompute, 19, 38), indent=4)
    began = time.process_time()
    read = parse_ecad(text, inventory)
    assert time.process_time() - began < 1.0
    plan = of_leaves(~recompute, inventory)
    assert recompute.shape[1] == 171
    assert read.schedule == canonical_schedule(Schedule(n_steps=20, cache=plan), inventory)
    assert read.schedule.cache is not None
    live = cell_use(plan, inventory)
    table = read.schedule.cache.table
    assert np.array_equal(table == 0, live.runs), "true is recompute; what nobody reads is gone"
    assert np.array_equal(table[live.reads] != 0, np.ones(live.reads.sum(), bool))
    assert (read.height, read.width, read.guidance_scale, read.name) == (256, 256, 5.0, "made up")
    assert read.remarks == ()


def test_true_is_recompute_and_the_order_of_keys_does_not_matter() -> None:
    inventory = pixart_inventory(3)
    recompute = np.ones((4, 9), bool)
    recompute[2, 7] = recompute[3, 3] = False  # attn2 of block 2, attn1 of block 1
    data = ecad_file(recompute, 3, 0, PIXART)
    steps = data["cache_schedule"]["schedule"]
    data["cache_schedule"]["schedule"] = dict(reversed(steps.items()))
    steps["002"] = dict(reversed(steps["002"].items()))
    cache = parse_ecad(json.dumps(data), inventory).schedule.cache
    assert cache is not None
    reused = {(int(t), inventory.sites[i].name) for t, i in np.argwhere(cache.table)}
    assert reused == {(2, "transformer_blocks.2.attn2"), (3, "transformer_blocks.1.attn1")}


def test_reuse_of_nothing_is_a_recompute() -> None:
    """The first step of a file may say reuse: nothing is stored, so it computes, and so says the schedule."""
    inventory = pixart_inventory(2)
    said = np.zeros((3, 6), bool)
    meant = said.copy()
    meant[0] = True
    read = [parse_ecad(json.dumps(ecad_file(bits, 2, 0, PIXART)), inventory).schedule for bits in (said, meant)]
    assert read[0] == read[1]


def test_what_is_not_carried_is_said() -> None:
    data = ecad_file(np.ones((2, 6), bool), 2, 0, PIXART)
    data["config"] |= {"transformer_weights": "some/fine-tune", "pipeline": {"name": "P", "kwargs": {"a": 1}}}
    remarks = " ".join(parse_ecad(json.dumps(data), pixart_inventory(2)).remarks)
    assert "some/fine-tune" in remarks
    assert "{'a': 1}" in remarks


Change = Callable[[dict[str, Any]], object]

BAD: dict[str, tuple[Change, str]] = {
    "top": (lambda d: d.update(extra=1), "extra is not a known key"),
    "no schedule": (lambda d: d.pop("cache_schedule"), "cache_schedule is missing"),
    "key": (lambda d: d["cache_schedule"].update(period=3), "cache_schedule.period is not a known key"),
    "config": (lambda d: d["config"].update(scheduler="x"), "config.scheduler is not a known key"),
    "size": (lambda d: d["config"].update(height=0), "config.height must be a positive"),
    "guidance": (lambda d: d["config"].update(guidance_scale="5"), "config.guidance_scale must be a number"),
    "steps": (lambda d: d["cache_schedule"].update(num_inference_steps=5), r"schedule\.004 is missing"),
    "step": (lambda d: d["cache_schedule"]["schedule"].update({"004": {}}), r"004 is not a known key"),
    "no step": (lambda d: d["cache_schedule"]["schedule"].pop("002"), r"cache_schedule\.schedule\.002 is missing"),
    "block": (lambda d: step(d).update({"2": {}}), r"schedule\.001\.2 is not a known key"),
    "no block": (lambda d: step(d).pop("single_0"), r"schedule\.001\.single_0 is missing"),
    "cell": (lambda d: step(d)["0"].update(attn1=True), r"001\.0\.attn1 is not a known key"),
    "no cell": (lambda d: step(d)["1"].pop("full_ff"), r"schedule\.001\.1\.full_ff is missing"),
    "number": (lambda d: step(d)["0"].update(full_ff=1), r"001\.0\.full_ff must be true .recompute. or false"),
    "custom": (lambda d: step(d)["0"].update(custom_compute_attn={"name": "tgate"}), "custom_compute_attn asks for"),
    "blocks": (lambda d: d["cache_schedule"].update(num_blocks=19), "num_blocks must be the model's number.*2; got 19"),
    "singles": (lambda d: d["cache_schedule"].pop("num_single_blocks"), "num_single_blocks must be a whole number"),
}


def step(data: dict[str, Any]) -> dict[str, Any]:
    blocks: dict[str, Any] = data["cache_schedule"]["schedule"]["001"]
    return blocks


GOOD = ecad_file(np.ones((4, 9), bool), 2, 1)


@pytest.mark.parametrize("name", BAD)
def test_an_error_names_the_field(name: str) -> None:
    spoil, said = BAD[name]
    data = copy.deepcopy(GOOD)
    spoil(data)
    parse_ecad(json.dumps(GOOD), flux_inventory(2, 1))
    with pytest.raises(ScheduleError, match=said):
        parse_ecad(json.dumps(data), flux_inventory(2, 1))


def test_text_that_is_no_file_of_ecad() -> None:
    inventory = flux_inventory(2, 1)
    for text, said in (("[]", "must be an object"), ("{", "not valid JSON"), ('{"a": 1, "a": 2}', "stands twice")):
        with pytest.raises(ScheduleError, match=said):
            parse_ecad(text, inventory)
    with pytest.raises(ScheduleError, match="UNet2DConditionModel"):
        parse_ecad(json.dumps(GOOD), Inventory(denoiser_class="UNet2DConditionModel", sites=inventory.sites))
