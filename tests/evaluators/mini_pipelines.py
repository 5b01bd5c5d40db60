"""Runs of the reference models and what is asked about them."""

from typing import Any

import numpy as np
import torch

from autotune.evaluators.inventory import list_inventory
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan

HIDING = {"final": 0.1, "stack": 0.15, "block": 0.2, "stage": 0.25}


def run(pipe: Any, kwargs: dict[str, Any], **changes: Any) -> torch.Tensor:
    """Latents of a run with one fixed start."""
    latents = pipe(**{**kwargs, **changes}, generator=torch.Generator().manual_seed(7), return_dict=False)[0]
    assert isinstance(latents, torch.Tensor)
    return latents


def denoiser_of(pipe: Any) -> Any:
    return getattr(pipe, "transformer", None) or pipe.unet


def attributes(pipe: Any) -> list[list[str]]:
    """Names of all that is set on a pipeline, its scheduler and the modules of its denoiser."""
    return [sorted(vars(owner)) for owner in (pipe, pipe.scheduler, *denoiser_of(pipe).modules())]


def n_calls(pipe: Any, kwargs: dict[str, Any]) -> int:
    """Network calls of a run: PNDM calls its second step twice."""
    return int(kwargs["num_inference_steps"]) + (type(pipe.scheduler).__name__ == "PNDMScheduler")


def random_plan(pipe: Any, kwargs: dict[str, Any], seed: int, *, forecasts: bool = False) -> CachePlan:
    """Half of all cells reused, or forecast in some way; fewer of those that hide others."""
    inventory = list_inventory(pipe)
    rates = np.array([HIDING.get(s.component, 0.5) for s in inventory.sites])
    rng = np.random.default_rng(seed)
    reads = rng.random((n_calls(pipe, kwargs), len(inventory))) < rates
    return CachePlan.from_array(reads * rng.integers(1, len(CacheAction), reads.shape) if forecasts else reads)


def state(pipe: Any) -> Any:
    """All that applying a schedule could leave changed."""
    return attributes(pipe), dict(pipe.config), id(pipe.scheduler)
