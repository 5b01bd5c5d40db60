"""Layers that compute with values on a grid, as a quantization says: what low precision does to quality, on any device.

The arithmetic stays in floating point ("fake quantization"), so nothing gets faster. A layer's codes are kept beside
its weights, a byte each, and made into weights for the length of a call; the network itself is not copied.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from autotune.evaluators.affine_quantizer import to_codes
from autotune.evaluators.gate import override_call, uncompiled
from autotune.evaluators.override import Overrides
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.quantization import Grid, LayerQuantization, Quantization

LAYERS = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
"""What can be quantized."""

KERNELS = "_autotune_kernels"
"""Attribute of a denoiser whose layers compute with real low-precision kernels, which has their name."""


def layers_of(denoiser: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Layers that can be quantized, by module path; convolutions in groups stay as they are."""
    for name, module in denoiser.named_modules():
        if isinstance(module, LAYERS) and getattr(module, "groups", 1) == 1:
            yield name, module


def weight_bytes(denoiser: torch.nn.Module, quantization: Quantization | None = None) -> int:
    """Bytes of all parameters, those of quantized layers as packed codes with their grids."""
    layers = {} if quantization is None else quantization.layers
    packed = {f"{name}.weight": layer for name, layer in layers.items()}
    return sum(
        packed[name].weight_bytes(weight.numel()) if name in packed else weight.numel() * weight.element_size()
        for name, weight in denoiser.named_parameters()
    )


def channel_axis(layer: torch.nn.Module) -> int:
    """The axis of the channels of what a layer reads and returns."""
    return -1 if isinstance(layer, torch.nn.Linear) else 1


class QuantizationRuntime:
    """Executes a quantization on one denoiser, in the network calls between `enter` and `leave`."""

    def __init__(self, quantization: Quantization) -> None:
        self._quantization = quantization
        self.codes: dict[str, LayerCodes] = {}
        self.row: int | None = None
        """The network call that goes on; None outside of one."""

    def install(self, denoiser: torch.nn.Module, overrides: Overrides) -> None:
        """Replace the calls of the layers.

        Raises:
            ScheduleMismatchError: a layer is not there, is another, or has no weights in memory.
        """
        for name, layer in self._quantization.layers.items():
            module = _module(denoiser, name)
            self.codes[name] = codes = LayerCodes(name, module, layer)
            override_call(module, overrides, lambda original, c=codes: self._call_of(c, original))  # type: ignore[misc]

    def enter(self, row: int) -> None:
        """Begin a network call of this row."""
        self.row = row

    def leave(self) -> None:
        """End it."""
        self.row = None

    def _call_of(self, codes: "LayerCodes", original: Callable[..., Any]) -> Callable[..., Any]:
        def quantized(values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.row is None:
                return original(values, *args, **kwargs)
            return codes.run(self.row, original, values, *args, **kwargs)

        return quantized


class LayerCodes:
    """The weights of one layer as codes, and its call with them."""

    def __init__(self, name: str, module: torch.nn.Module, layer: LayerQuantization) -> None:
        self.module, self._layer = module, layer
        weight = module.get_parameter("weight").detach()
        if weight.is_meta:
            raise ScheduleMismatchError(
                f"a quantization needs the weights in memory; those of {name} are offloaded: load the pipeline whole"
            )
        if sum(layer.parts) != weight.shape[1] or layer.weight.scale.shape[1] != weight.shape[0]:
            raise ScheduleMismatchError(
                f"a quantization fits one model; it has {sum(layer.parts)} and {layer.weight.scale.shape[1]} channels "
                f"for {name}, which has {weight.shape[1]} and {weight.shape[0]}: quantize the schedule for this model"
            )
        self._axis = channel_axis(module)
        self._scales = _per_part(layer.weight, weight)
        parts = zip(torch.split(weight, list(layer.parts), dim=1), *self._scales, strict=True)
        self._codes = [to_codes(part.float(), s, z, layer.weight_bits).to(torch.uint8) for part, s, z in parts]
        self._bias: torch.Tensor | None = None
        """What the layer adds, with its shift; None without one."""
        if layer.gain is not None:
            self._scales[0][0].mul_(along(0, layer.gain, self._scales[0][0]))
        if layer.shift is not None:
            shift, own = torch.as_tensor(layer.shift).to(weight), module._parameters.get("bias")
            self._bias = shift if own is None else own.detach() + shift
        self._activation = [layer.activation.scale.tolist(), layer.activation.zero.tolist()]

    def run(
        self, row: int, original: Callable[..., Any], values: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """The layer's output in network call `row`, from values and weights on their grids, corrected."""
        output: torch.Tensor = self._with_codes(original, self._on_grid(row, values), *args, **kwargs)
        return output

    def _on_grid(self, row: int, values: torch.Tensor) -> torch.Tensor:
        """What the layer reads, each part on its grid."""
        row = min(row, self._layer.n_calls - 1)  # a policy may compute a last call that no fit has seen
        largest = 2**self._layer.activation_bits - 1
        grids = zip(*(rows[row] for rows in self._activation), strict=True)
        parts = torch.split(values, list(self._layer.parts), dim=self._axis)
        made = [
            torch.fake_quantize_per_tensor_affine(part, scale, int(zero), 0, largest)
            for part, (scale, zero) in zip(parts, grids, strict=True)
        ]
        return made[0] if len(made) == 1 else torch.cat(made, dim=self._axis)

    def _with_codes(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the layer with the weights that the codes stand for, and with gain and shift where it has them."""
        parameters = self.module._parameters
        own, own_bias = parameters["weight"], parameters.get("bias")
        assert own is not None
        if self._codes[0].device != own.device:  # the pipeline was moved since
            self._move(own.device)
        parts = [(codes - z).mul_(s) for codes, s, z in zip(self._codes, *self._scales, strict=True)]
        weight = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        parameters["weight"] = weight.to(own.dtype)  # type: ignore[assignment]
        if self._bias is not None:
            parameters["bias"] = self._bias.to(own.dtype)  # type: ignore[assignment]
        try:
            return original(*args, **kwargs)
        finally:
            parameters["weight"], parameters["bias"] = own, own_bias

    def _move(self, device: torch.device) -> None:
        self._codes = [codes.to(device) for codes in self._codes]
        self._scales = tuple([part.to(device) for part in parts] for parts in self._scales)  # type: ignore[assignment]
        self._bias = None if self._bias is None else self._bias.to(device)


def along(axis: int, values: Any, like: torch.Tensor) -> torch.Tensor:
    """Numbers per channel, of the type and on the device of a tensor, to broadcast along one of its axes."""
    shape = (-1, *(1,) * (like.ndim - 1 - axis % like.ndim))
    return torch.as_tensor(values).to(like.device, like.dtype).reshape(shape)


def _per_part(grid: Grid, weight: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Scales and zero points of each part, to broadcast along the output channels."""
    scale, zero = (
        [along(0, part, weight.float()) for part in torch.as_tensor(values)] for values in (grid.scale, grid.zero)
    )
    return scale, zero


def _module(denoiser: torch.nn.Module, name: str) -> torch.nn.Module:
    try:
        module = uncompiled(denoiser.get_submodule(name))
    except AttributeError:
        module = None
    if not isinstance(module, LAYERS):
        raise ScheduleMismatchError(
            f"a quantization names layers of one model; {name} is no linear layer or convolution here: apply the "
            "schedule before adapters such as LoRA are added, or quantize it for this model"
        )
    return module
