"""What the runtime must know about a denoiser class: its sites, its guidance, and the inputs of one call."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from autotune.evaluators import (
    flux_adapter,
    pixart_adapter,
    qwen_image_adapter,
    sd3_adapter,
    unet_adapter,
    wan_adapter,
)
from autotune.evaluators.gate import uncompiled
from autotune.evaluators.policy import adapter as policy_adapter
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
    zeros of the right shapes, on the default device. `guidance` says how classifier-free guidance runs: as one `batch`
    [unconditional; conditional], in two `calls`, the conditional one first, or not, the scale being `embedded` in the
    network (FLUX can be asked for two calls besides); `guidance_argument` is what the pipeline's call names the scale.
    Values of the `copied` components may be changed in place by the code that receives them (FreeU, T2I adapters), so
    the runtime stores copies. `even_sigmas` is that of `noise.own_timesteps`, `ungated` that of `Inventory`: no gate
    scales what leaves return. `list_splits` names layers that read concatenated tensors, with the numbers of channels
    of each, `list_norms` norms of tokens (n, tokens, channels) whose result the leaves named with them alone read.
    """

    denoiser_class: str
    denoiser_attr: str
    guidance: Literal["batch", "calls", "embedded"]
    list_sites: Callable[[Any], tuple[Site, ...]]
    list_spans: Callable[[Any], Mapping[str, Span]]
    latent_shape: Callable[[Any, int, int], tuple[int, ...]]
    make_inputs: Callable[[Any, tuple[int, ...], int], dict[str, Any]]
    guidance_argument: str = "guidance_scale"
    copied: frozenset[str] = frozenset()
    even_sigmas: bool | None = None
    ungated: bool = False
    list_splits: Callable[[Any], Mapping[str, tuple[int, ...]]] = lambda denoiser: {}
    list_norms: Callable[[Any], Mapping[str, tuple[str, ...]]] = lambda denoiser: {}

    def denoiser_of(self, pipe: Any) -> Any:
        """The pipeline's denoiser, without what `torch.compile` has put around it."""
        return uncompiled(getattr(pipe, self.denoiser_attr))


ADAPTERS: Mapping[str, Adapter] = {
    adapter.denoiser_class: adapter
    for adapter in (
        Adapter(
            denoiser_class="FluxTransformer2DModel",
            denoiser_attr="transformer",
            guidance="embedded",
            list_sites=flux_adapter.list_sites,
            list_spans=flux_adapter.list_spans,
            list_norms=flux_adapter.list_norms,
            latent_shape=flux_adapter.latent_shape,
            make_inputs=flux_adapter.make_inputs,
            list_splits=flux_adapter.list_splits,
        ),
        Adapter(
            denoiser_class="PixArtTransformer2DModel",
            denoiser_attr="transformer",
            guidance="batch",
            list_sites=pixart_adapter.list_sites,
            list_spans=pixart_adapter.list_spans,
            list_norms=pixart_adapter.list_norms,
            latent_shape=pixart_adapter.latent_shape,
            make_inputs=pixart_adapter.make_inputs,
        ),
        Adapter(
            denoiser_class="UNet2DConditionModel",
            denoiser_attr="unet",
            guidance="batch",
            list_sites=unet_adapter.list_sites,
            list_spans=unet_adapter.list_spans,
            list_norms=unet_adapter.list_norms,
            latent_shape=unet_adapter.latent_shape,
            make_inputs=unet_adapter.make_inputs,
            list_splits=unet_adapter.list_splits,
            copied=frozenset({"stage", "resnet"}),
        ),
        Adapter(
            denoiser_class="SD3Transformer2DModel",
            denoiser_attr="transformer",
            guidance="batch",
            list_sites=sd3_adapter.list_sites,
            list_spans=sd3_adapter.list_spans,
            list_norms=sd3_adapter.list_norms,
            latent_shape=sd3_adapter.latent_shape,
            make_inputs=sd3_adapter.make_inputs,
            even_sigmas=False,
        ),
        Adapter(
            denoiser_class="QwenImageTransformer2DModel",
            denoiser_attr="transformer",
            guidance="calls",
            guidance_argument="true_cfg_scale",
            list_sites=qwen_image_adapter.list_sites,
            list_spans=qwen_image_adapter.list_spans,
            list_norms=qwen_image_adapter.list_norms,
            latent_shape=qwen_image_adapter.latent_shape,
            make_inputs=qwen_image_adapter.make_inputs,
            even_sigmas=True,
        ),
        Adapter(
            denoiser_class="WanTransformer3DModel",
            denoiser_attr="transformer",
            guidance="calls",
            list_sites=wan_adapter.list_sites,
            list_spans=wan_adapter.list_spans,
            list_norms=wan_adapter.list_norms,
            latent_shape=wan_adapter.latent_shape,
            make_inputs=wan_adapter.make_inputs,
            even_sigmas=False,
        ),
        Adapter(
            denoiser_class="PolicyTransformer",
            denoiser_attr="transformer",
            guidance="embedded",
            list_sites=policy_adapter.list_sites,
            list_spans=policy_adapter.list_spans,
            latent_shape=policy_adapter.latent_shape,
            make_inputs=policy_adapter.make_inputs,
            ungated=True,
        ),
    )
}
"""Known denoisers by class name."""


def find_adapter(pipe: Any) -> Adapter:
    """The adapter of a pipeline's denoiser.

    Raises:
        UnsupportedModelError: no adapter knows the denoiser's class, or the pipeline has none or uses two.
    """
    boundary = getattr(getattr(pipe, "config", None), "boundary_ratio", None)
    if boundary is not None:
        raise UnsupportedModelError(
            f"a schedule's cache is made for one denoiser; this {type(pipe).__name__} changes from transformer to "
            f"transformer_2 in the middle (boundary_ratio {boundary:g}); use a model with one transformer, such as Wan "
            f"2.1, or attach a schedule with the columns time and solver alone"
        )
    found = []
    for attr in ("transformer", "unet"):
        denoiser = getattr(pipe, attr, None)
        if denoiser is None:
            continue
        denoiser = uncompiled(denoiser)
        adapter = ADAPTERS.get(type(denoiser).__name__)
        if adapter is not None and adapter.denoiser_attr == attr:
            return adapter
        found.append(type(denoiser).__name__)
    raise UnsupportedModelError(
        f"a pipeline's denoiser must be one of {', '.join(sorted(ADAPTERS))}; "
        f"got {' and '.join(found) or 'none'} in {type(pipe).__name__}; load one of the supported pipelines"
    )
