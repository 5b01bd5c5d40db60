"""Runs of the reference models and what is asked about them."""

from typing import Any

import numpy as np
import torch

from autotune.evaluators.inventory import list_inventory
from autotune.spaces.cache_plan import CachePlan


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


def random_plan(pipe: Any, kwargs: dict[str, Any], seed: int) -> CachePlan:
    """Half of all cells reused; of UNet stages only a quarter, since they hide what is inside."""
    inventory = list_inventory(pipe)
    rates = np.array([0.25 if s.component == "stage" else 0.5 for s in inventory.sites])
    rng = np.random.default_rng(seed)
    return CachePlan.from_array(rng.random((n_calls(pipe, kwargs), len(inventory))) < rates)


def state(pipe: Any) -> Any:
    """All that applying a schedule could leave changed."""
    return attributes(pipe), dict(pipe.config), id(pipe.scheduler)
