"""torchao's kernels in the layers that a quantization names."""

import sys

import pytest
import torch

from autotune.evaluators.load import load_model
from autotune.evaluators.quantized_layers import layers_of
from autotune.evaluators.real_kernels import quantize_layers
from autotune.spaces.errors import UsageError
from autotune.spaces.quantization import Grid, LayerQuantization, Quantization


def eight_bits(denoiser: torch.nn.Module) -> Quantization:
    layers = {}
    for name, module in layers_of(denoiser):
        n_out, n_in = module.get_parameter("weight").shape[:2]
        grid = Grid(torch.ones(1, n_out).double().numpy(), torch.zeros(1, n_out).double().numpy())
        one = Grid(torch.ones(1, 1).double().numpy(), torch.zeros(1, 1).double().numpy())
        bits = 4 if name == "proj_out" else 8
        layers[name] = LayerQuantization(
            weight_bits=bits, activation_bits=8, parts=(n_in,), weight=grid, activation=one
        )
    return Quantization(layers)


def test_linear_layers_of_8_bits_compute_in_int8_and_come_close() -> None:
    pytest.importorskip("torchao")
    pipe = load_model("mini-flux", device="cpu").pipe
    module = pipe.transformer.get_submodule("transformer_blocks.0.attn.to_q")
    x = torch.randn(3, 7, module.in_features, generator=torch.Generator().manual_seed(0))
    exact, n_bytes = module(x), module.weight.element_size()
    changed = quantize_layers(pipe, eight_bits(pipe.transformer))
    assert "proj_out" not in changed
    assert "transformer_blocks.0.attn.to_q" in changed
    assert type(module.weight).__name__ != "Parameter"
    assert n_bytes == 4
    error = (module(x) - exact).norm() / exact.norm()
    assert 1e-4 < error < 0.02


def test_without_torchao_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    pipe = load_model("mini-flux", device="cpu").pipe
    with pytest.raises(UsageError, match=r"pip install 'diffusion-autotune\[kernels\]'"):
        quantize_layers(pipe, eight_bits(pipe.transformer))
