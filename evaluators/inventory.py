"""The sites of a denoiser, and what each costs."""

import dataclasses
import inspect
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autotune.evaluators.adapters import Adapter, find_adapter
from autotune.spaces.errors import UnsupportedModelError
from autotune.spaces.inventory import Inventory


def list_inventory(pipe: Any) -> Inventory:
    """The inventory of a pipeline's denoiser without MACs, made from its module tree alone.

    Raises:
        UnsupportedModelError: no adapter fits the denoiser.
    """
    adapter = find_adapter(pipe)
    denoiser = getattr(pipe, adapter.denoiser_attr)
    try:
        sites = adapter.list_sites(denoiser)
        for site in sites:
            denoiser.get_submodule(site.name)
    except AttributeError as error:
        raise UnsupportedModelError(
            f"the modules of a {adapter.denoiser_class} must have their usual names; {error}; "
            f"this variant has no adapter"
        ) from error
    return Inventory(denoiser_class=adapter.denoiser_class, sites=sites)


def measure_inventory(pipe: Any, height: int, width: int, *, prompt_tokens: int | None = None) -> Inventory:
    """The inventory with the multiply-accumulates of one call for one image of one branch.

    They are counted on a weightless twin of the denoiser, so nothing is computed and no memory is needed. Products of
    matrices, attention and convolutions count; norms, activations and position codes do not.

    Args:
        pipe: a diffusers pipeline.
        height: picture height in pixels.
        width: picture width in pixels.
        prompt_tokens: length of the prompt embedding; by default what the pipeline pads to.

    Raises:
        UnsupportedModelError: no adapter fits the denoiser.
    """
    adapter = find_adapter(pipe)
    inventory = list_inventory(pipe)
    tokens = default_prompt_tokens(pipe) if prompt_tokens is None else prompt_tokens
    counts = _count_macs(adapter, pipe, adapter.latent_shape(pipe, height, width), tokens)
    sites = tuple(
        dataclasses.replace(site, macs=counts.get(f"{adapter.denoiser_class}.{site.name}", 0))
        for site in inventory.sites
    )
    return dataclasses.replace(inventory, sites=sites, total_macs=counts["Global"])


def default_prompt_tokens(pipe: Any) -> int:
    """Tokens that the pipeline pads a prompt to unless told otherwise; the most that it takes, if it does not pad."""
    parameter = inspect.signature(pipe.__call__).parameters.get("max_sequence_length")
    most = 2**31 if parameter is None or parameter.default is None else int(parameter.default)
    if hasattr(pipe, "tokenizer_3"):  # SD3 appends T5's tokens to CLIP's: zeros, if it was loaded without T5
        t5_most = most if pipe.tokenizer_3 is None else min(most, pipe.tokenizer_3.model_max_length)
        return int(pipe.tokenizer_max_length + t5_most)
    tokenizer = getattr(pipe, "tokenizer_2", None) or pipe.tokenizer
    return int(min(most, tokenizer.model_max_length))


def _count_macs(adapter: Adapter, pipe: Any, shape: tuple[int, ...], prompt_tokens: int) -> dict[str, int]:
    """Multiply-accumulates by module path; "Global" is the whole call."""
    denoiser = getattr(pipe, adapter.denoiser_attr)
    # The fused attention kernels of the CPU are unknown to the counter; the plain one is two products of matrices.
    with torch.no_grad(), torch.device("meta"), sdpa_kernel(SDPBackend.MATH):
        twin = type(denoiser).from_config(denoiser.config).eval()
        with FlopCounterMode(display=False) as counter:
            twin(**adapter.make_inputs(pipe, shape, prompt_tokens))
    return {name: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
