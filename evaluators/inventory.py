"""The sites of a denoiser, and what each costs."""

import dataclasses
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autotune.evaluators.adapters import Adapter, find_adapter
from autotune.spaces.errors import UnsupportedModelError
from autotune.spaces.inventory import Inventory, Site

_ATTENTION = ("bmm", "baddbmm")
"""Operations that only attention's products of activations are made of, on the plain kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MacSplit:
    """Multiply-accumulates of one call for one image of one branch: products with weights, and those of attention.

    Published counts often leave attention's products out, as ECAD's do, and some count a multiply-accumulate as two;
    `Inventory.total_macs` is the sum of both.
    """

    layers: int
    attention: int


def list_inventory(pipe: Any) -> Inventory:
    """The inventory of a pipeline's denoiser without MACs, made from its module tree alone.

    Raises:
        UnsupportedModelError: no adapter fits the denoiser.
    """
    adapter = find_adapter(pipe)
    denoiser = adapter.denoiser_of(pipe)
    try:
        sites, spans = adapter.list_sites(denoiser), adapter.list_spans(denoiser)
        for site in sites:
            for path in spans[site.name].modules if site.name in spans else (site.name,):
                denoiser.get_submodule(path)
    except AttributeError as error:
        raise UnsupportedModelError(
            f"the modules of a {adapter.denoiser_class} must have their usual names; {error}; "
            f"this variant has no adapter"
        ) from error
    return Inventory(denoiser_class=adapter.denoiser_class, sites=sites, ungated=adapter.ungated)


def measure_inventory(pipe: Any, height: int, width: int, *, prompt_tokens: int | None = None) -> Inventory:
    """The inventory with the multiply-accumulates of one call for one image of one branch.

    They are counted on a weightless twin of the denoiser, so nothing is computed and no memory is needed. Products of
    matrices, attention and convolutions count; norms, activations and position codes do not. Published totals often
    leave attention out: `split_macs` gives both parts.

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
    spans = adapter.list_spans(adapter.denoiser_of(pipe))

    def macs(site: Site) -> int:
        paths = spans[site.name].modules if site.name in spans else (site.name,)
        return sum(counts.get(f"{adapter.denoiser_class}.{path}", 0) for path in paths)

    sites = tuple(dataclasses.replace(site, macs=macs(site)) for site in inventory.sites)
    return dataclasses.replace(inventory, sites=sites, total_macs=counts["Global"])


def measure_layers(pipe: Any, height: int, width: int) -> dict[str, int]:
    """Multiply-accumulates of each module of the denoiser, by path, as `measure_inventory` counts them."""
    adapter = find_adapter(pipe)
    counts = _count_macs(adapter, pipe, adapter.latent_shape(pipe, height, width), default_prompt_tokens(pipe))
    prefix = f"{adapter.denoiser_class}."
    return {name.removeprefix(prefix): n for name, n in counts.items() if name.startswith(prefix)}


def split_macs(pipe: Any, height: int, width: int, *, prompt_tokens: int | None = None) -> MacSplit:
    """What the total of `measure_inventory`, which has the same arguments and errors, is made of."""
    adapter = find_adapter(pipe)
    tokens = default_prompt_tokens(pipe) if prompt_tokens is None else prompt_tokens
    flops = _count_flops(adapter, pipe, adapter.latent_shape(pipe, height, width), tokens)["Global"]
    attention = sum(n for name, n in flops.items() if name in _ATTENTION) // 2
    return MacSplit(layers=sum(flops.values()) // 2 - attention, attention=attention)


def default_prompt_tokens(pipe: Any) -> int:
    """Tokens that the pipeline pads a prompt to unless told otherwise; the most that it takes, if it does not pad.

    0 for a pipeline without prompts.
    """
    if not any(name.startswith("tokenizer") for name in pipe.components):
        return 0
    parameter = inspect.signature(pipe.__call__).parameters.get("max_sequence_length")
    most = 2**31 if parameter is None or parameter.default is None else int(parameter.default)
    if hasattr(pipe, "tokenizer_3"):  # SD3 appends T5's tokens to CLIP's: zeros, if it was loaded without T5
        t5_most = most if pipe.tokenizer_3 is None else min(most, pipe.tokenizer_3.model_max_length)
        return int(pipe.tokenizer_max_length + t5_most)
    tokenizer = getattr(pipe, "tokenizer_2", None) or pipe.tokenizer
    return int(min(most, tokenizer.model_max_length))


def _count_macs(adapter: Adapter, pipe: Any, shape: tuple[int, ...], prompt_tokens: int) -> dict[str, int]:
    flops = _count_flops(adapter, pipe, shape, prompt_tokens)
    return {name: sum(by_operation.values()) // 2 for name, by_operation in flops.items()}


def _count_flops(adapter: Adapter, pipe: Any, shape: tuple[int, ...], prompt_tokens: int) -> dict[str, dict[str, int]]:
    """Floating-point operations, two per multiply-accumulate, by module path ("Global" is the call) and operation."""
    denoiser = adapter.denoiser_of(pipe)
    # The fused attention kernels of the CPU are unknown to the counter; the plain one is two products of matrices.
    with torch.no_grad(), torch.device("meta"), sdpa_kernel(SDPBackend.MATH):
        twin = type(denoiser).from_config(denoiser.config).eval()
        with FlopCounterMode(display=False) as counter:
            twin(**adapter.make_inputs(pipe, shape, prompt_tokens))
    counts: dict[str, dict[Any, int]] = counter.get_flop_counts()
    return {name: {op.__name__: n for op, n in by_operation.items()} for name, by_operation in counts.items()}
