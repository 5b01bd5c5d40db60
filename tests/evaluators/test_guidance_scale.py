"""The guidance scale of a run, measured where the pipeline does not say it."""

from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.applied_tables import AppliedTables
from autotune.evaluators.apply import _attach, remove
from autotune.evaluators.guidance_scale import measured_scale
from autotune.evaluators.inventory import list_inventory
from autotune.evaluators.measured_run import MeasuredRun
from autotune.spaces.cache_correction import OUTPUT, CacheCorrection, ChannelAffine
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.inventory import FINAL
from autotune.spaces.schedule import Schedule

from .mini_pipelines import run
from .random_pipelines import random_args


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_the_scale_is_found_again(scale: float, rescaled: bool) -> None:
    u, c = torch.randn(2, 3, 10, 16, generator=torch.Generator().manual_seed(0))
    combined = u + scale * (c - u)
    if rescaled:
        combined = combined * c.norm(dim=-1, keepdim=True) / combined.norm(dim=-1, keepdim=True)
    assert measured_scale(torch.cat([u, c]), combined, rescaled=rescaled) == pytest.approx(scale, rel=1e-4)
    assert measured_scale(c, c, rescaled=rescaled) == 1.0
    assert measured_scale(torch.cat([c, c]), c, rescaled=rescaled) is None


def test_tables_of_a_pipeline_that_rescales_are_refused_at_another_scale(random_pipes: dict[str, Any]) -> None:
    pipe, kwargs = random_pipes["qwen-image"], random_args("qwen-image")
    inventory, shapes = list_inventory(pipe), list[torch.Size]()
    hook = pipe.transformer.register_forward_hook(lambda module, args, output: shapes.append(output[0].shape))
    run(pipe, kwargs)
    hook.remove()
    table = np.zeros((4, len(inventory)))
    table[1::2, [i for i, site in enumerate(inventory.sites) if site.component == FINAL]] = 1
    line = ChannelAffine(np.ones(shapes[0][-1]), np.zeros(shapes[0][-1]))
    schedule = Schedule(n_steps=4, cache=CachePlan.from_array(table), cache_correction="a" * 64)
    tables = AppliedTables(cache_correction=CacheCorrection({(1, OUTPUT): (line,)}))
    measured = MeasuredRun(latent_shape=tuple(shapes[0]), guidance_scale=3.0, rescales=True)
    _attach(pipe, schedule, tables=tables, measured=measured)
    try:
        run(pipe, kwargs)
        for scale in (2.5, 1.0):
            with pytest.raises(ScheduleMismatchError, match=f"at guidance scale 3, this run has {scale:g}"):
                run(pipe, {**kwargs, "true_cfg_scale": scale})
        run(pipe, kwargs)
    finally:
        remove(pipe)
