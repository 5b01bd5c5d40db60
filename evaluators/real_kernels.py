"""Low-precision kernels in place of layers, by torchao: what a quantization does to speed on this device.

Their arithmetic is torchao's, not that of `quantized_layers`: weights of 8 bits are symmetric per output channel and
activations are scaled as they come, per token. So the speed is measured with these and the quality with those, and
neither figure stands for the other.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.apply import own_scheduler, remove
from autotune.evaluators.file_check import check_file
from autotune.evaluators.inventory import list_inventory
from autotune.evaluators.quantization_table import read_quantization
from autotune.evaluators.quantized_layers import KERNELS
from autotune.spaces.errors import ScheduleError, UsageError
from autotune.spaces.quantization import Quantization
from autotune.spaces.schedule_file import ScheduleFile, load_schedule_file

Kernel = Literal["int8", "float8"]

_CONFIGS: Mapping[Kernel, str] = MappingProxyType(
    {"int8": "Int8DynamicActivationInt8WeightConfig", "float8": "Float8DynamicActivationFloat8WeightConfig"}
)


def use_kernels(pipe: Any, source: str | Path | ScheduleFile, kernel: Kernel = "int8") -> tuple[str, ...]:
    """Give a pipeline real low-precision kernels in the layers that a schedule file quantizes to 8 bits, for good.

    `apply` then leaves the quantization out and puts the rest of the schedule on the pipeline: layers of fewer bits,
    and convolutions, compute as without one. The pipeline must be loaded anew to be without the kernels. `autotune
    bench --kernels` measures what they bring, and cost.

    Args:
        pipe: a diffusers pipeline, not yet compiled; a schedule that is applied is removed.
        source: path of a schedule file with a quantization, or its content.
        kernel: `int8` on any device, `float8` on a GPU that has it.

    Returns:
        Module paths of the layers that were changed.

    Raises:
        ScheduleError: the file can't be read, breaks a rule, or quantizes nothing.
        ScheduleMismatchError: it belongs to another model or sampler.
        UsageError: torchao is not installed, or has no such kernels for this device.
    """
    file = source if isinstance(source, ScheduleFile) else load_schedule_file(source)
    quantization = read_quantization(file.schedule, file.condition, file.tables)
    if quantization is None:
        raise ScheduleError("kernels need a schedule with a quantization; this one has none: see autotune quantize")
    check_file(pipe, file, list_inventory(pipe), own_scheduler(pipe), stacklevel=3)
    remove(pipe)
    return quantize_layers(pipe, quantization, kernel)


def quantize_layers(pipe: Any, quantization: Quantization, kernel: Kernel = "int8") -> tuple[str, ...]:
    """Put torchao's weights into the linear layers that a quantization gives 8 bits, for good; see `use_kernels`.

    Other layers stay as they are: convolutions, for which there is no kernel, and those of fewer bits.
    """
    if kernel not in get_args(Kernel):
        raise UsageError(f"kernel must be one of {', '.join(get_args(Kernel))}; got {kernel!r}")
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
    setattr(denoiser, KERNELS, kernel)
    return names
