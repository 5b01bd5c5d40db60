"""Low-precision kernels in place of layers, by torchao: what a quantization does to speed on this device.

Their arithmetic is torchao's, not that of `quantized_layers`: weights of 8 bits are symmetric per output channel and
activations are scaled as they come, per token. So the speed is measured with these and the quality with those, and
neither figure stands for the other.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch

from autotune.evaluators.adapters import find_adapter
from autotune.spaces.errors import UsageError
from autotune.spaces.quantization import Quantization

Kernel = Literal["int8", "float8"]

_CONFIGS: Mapping[Kernel, str] = MappingProxyType(
    {"int8": "Int8DynamicActivationInt8WeightConfig", "float8": "Float8DynamicActivationFloat8WeightConfig"}
)


def use_kernels(pipe: Any, quantization: Quantization, kernel: Kernel = "int8") -> tuple[str, ...]:
    """Put torchao's weights into the linear layers that a quantization gives 8 bits; for good: load the pipeline anew.

    Other layers stay as they are: convolutions, for which there is no kernel, and those of fewer bits.

    Args:
        pipe: a diffusers pipeline, without a schedule applied, not yet compiled.
        quantization: names the layers.
        kernel: `int8` on any device, `float8` on a GPU that has it.

    Returns:
        Module paths of the layers that were changed.

    Raises:
        UsageError: torchao is not installed, or can't do this on this device.
    """
    try:
        from torchao import quantization as torchao
    except ImportError:
        raise UsageError(
            "low-precision kernels need torchao: install diffusion-autotune with its extra, "
            "pip install 'diffusion-autotune[kernels]'"
        ) from None
    denoiser = find_adapter(pipe).denoiser_of(pipe)
    names = tuple(
        name
        for name, layer in quantization.layers.items()
        if layer.weight_bits == 8 and isinstance(denoiser.get_submodule(name), torch.nn.Linear)
    )
    config = getattr(torchao, _CONFIGS[kernel])()
    try:
        torchao.quantize_(denoiser, torchao.FqnToConfig(dict.fromkeys(names, config)), filter_fn=None)
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        raise UsageError(f"torchao has no {kernel} kernels for this device: {error}; choose int8, or none") from error
    return names
