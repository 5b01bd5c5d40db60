"""What the runtime must know about a denoiser class: its sites, its guidance, and the inputs of one call."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autotune.evaluators import flux_adapter, pixart_adapter, unet_adapter
from autotune.evaluators.span import Span
from autotune.spaces.errors import UnsupportedModelError
from autotune.spaces.inventory import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A family of denoisers.

    `denoiser_attr` is where the pipeline holds it. `list_sites` gives the sites without MACs, in execution order, a
    site before what is inside it; `list_spans` says, by name, what those cover that are not one module.
    `latent_shape(pipe, height, width)` is the shape of the first tensor that the denoiser receives for one image of one
    branch, sizes in pixels. `make_inputs(pipe, latent_shape, prompt_tokens)` are keyword arguments of one call with
    zeros of the right shapes, on the default device. `batched_guidance` says that classifier-free guidance runs as one
    batch [unconditional; conditional]. Values of the `copied` components may be changed in place by the code that
    receives them (FreeU, T2I adapters), so the runtime stores copies.
    """

    denoiser_class: str
    denoiser_attr: str
    batched_guidance: bool
    list_sites: Callable[[Any], tuple[Site, ...]]
    list_spans: Callable[[Any], Mapping[str, Span]]
    latent_shape: Callable[[Any, int, int], tuple[int, ...]]
    make_inputs: Callable[[Any, tuple[int, ...], int], dict[str, Any]]
    copied: frozenset[str] = frozenset()


ADAPTERS: Mapping[str, Adapter] = {
    adapter.denoiser_class: adapter
    for adapter in (
        Adapter(
            denoiser_class="FluxTransformer2DModel",
            denoiser_attr="transformer",
            batched_guidance=False,
            list_sites=flux_adapter.list_sites,
            list_spans=flux_adapter.list_spans,
            latent_shape=flux_adapter.latent_shape,
            make_inputs=flux_adapter.make_inputs,
        ),
        Adapter(
            denoiser_class="PixArtTransformer2DModel",
            denoiser_attr="transformer",
            batched_guidance=True,
            list_sites=pixart_adapter.list_sites,
            list_spans=pixart_adapter.list_spans,
            latent_shape=pixart_adapter.latent_shape,
            make_inputs=pixart_adapter.make_inputs,
        ),
        Adapter(
            denoiser_class="UNet2DConditionModel",
            denoiser_attr="unet",
            batched_guidance=True,
            list_sites=unet_adapter.list_sites,
            list_spans=unet_adapter.list_spans,
            latent_shape=unet_adapter.latent_shape,
            make_inputs=unet_adapter.make_inputs,
            copied=frozenset({"stage", "resnet"}),
        ),
    )
}
"""Known denoisers by class name."""


def find_adapter(pipe: Any) -> Adapter:
    """The adapter of a pipeline's denoiser.

    Raises:
        UnsupportedModelError: no adapter knows the denoiser's class, or the pipeline has none.
    """
    found = []
    for attr in ("transformer", "unet"):
        denoiser = getattr(pipe, attr, None)
        if denoiser is None:
            continue
        adapter = ADAPTERS.get(type(denoiser).__name__)
        if adapter is not None and adapter.denoiser_attr == attr:
            return adapter
        found.append(type(denoiser).__name__)
    raise UnsupportedModelError(
        f"a pipeline's denoiser must be one of {', '.join(sorted(ADAPTERS))}; "
        f"got {' and '.join(found) or 'none'} in {type(pipe).__name__}; load one of the supported pipelines"
    )
