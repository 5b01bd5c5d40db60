"""Quantized layers of a real UNet: against the definition in float64, in a call and outside of it."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.applied_tables import AppliedTables
from autotune.evaluators.apply import attach, quantization_runtime_of, remove
from autotune.evaluators.load import LoadedModel, load_model
from autotune.evaluators.quantization_recording import LossRecorder
from autotune.evaluators.quantized_layers import LayerCodes, QuantizationRuntime
from autotune.evaluators.unet_adapter import list_splits
from autotune.spaces.errors import ScheduleError, ScheduleMismatchError
from autotune.spaces.quantization import Grid, LayerQuantization, Quantization
from autotune.spaces.schedule import Schedule

from .conftest import call_args

SPLIT = "up_blocks.1.resnets.1.conv1"
PLAIN = "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2"
N_CALLS = 3


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model("mini-sd", device="cpu")


def some_layer(
    weight: torch.Tensor, parts: tuple[int, ...], *, bits: int = 4, corrected: bool = False
) -> LayerQuantization:
    rng = np.random.default_rng(0)
    n_out = weight.shape[0]
    spread = float(weight.abs().max())
    return LayerQuantization(
        weight_bits=bits,
        activation_bits=8,
        parts=parts,
        weight=Grid(
            rng.uniform(1.0, 2.0, (len(parts), n_out)) * spread / 2**bits,
            rng.integers(0, 2**bits, (len(parts), n_out)).astype(float),
        ),
        activation=Grid(rng.uniform(0.02, 0.05, (N_CALLS, len(parts))), np.full((N_CALLS, len(parts)), 120.0)),
        gain=rng.uniform(0.5, 2.0, n_out) if corrected else None,
        shift=rng.normal(size=n_out) if corrected else None,
    )


Array = NDArray[np.float64]


def on_grid(x: Array, scale: Array, zero: Array, bits: int) -> Array:
    return scale * (np.clip(np.round(x / scale) + zero, 0, 2**bits - 1) - zero)


def by_definition(module: torch.nn.Module, layer: LayerQuantization, call: int, values: torch.Tensor) -> torch.Tensor:
    """Part by part in float64: W x, the first times the gain, then shift and bias."""
    weight = module.get_parameter("weight").detach().double().numpy()
    axis = 1 if weight.ndim == 4 else values.ndim - 1
    total, first = torch.zeros((), dtype=torch.float64), 0
    for k, n in enumerate(layer.parts):
        span = slice(first, first + n)
        shape = (-1, *(1,) * (weight.ndim - 1))
        w = on_grid(
            weight[:, span],
            layer.weight.scale[k].reshape(shape),
            layer.weight.zero[k].reshape(shape),
            layer.weight_bits,
        )
        x = on_grid(
            np.take(values.double().numpy(), range(first, first + n), axis),
            layer.activation.scale[call, k], layer.activation.zero[call, k], layer.activation_bits,
        )  # fmt: skip
        if k == 0 and layer.gain is not None:
            w = w * layer.gain.reshape(shape)
        x_there, w_there = torch.tensor(x), torch.tensor(w)
        if isinstance(module, torch.nn.Conv2d):
            total = total + torch.nn.functional.conv2d(x_there, w_there, padding=module.padding)
        else:
            total = total + x_there @ w_there.T
        first += n
    bias = module.get_parameter("bias").detach().double()
    bias = bias if layer.shift is None else bias + torch.tensor(layer.shift)
    return total + (bias[:, None, None] if weight.ndim == 4 else bias)


@pytest.mark.parametrize("name", [SPLIT, PLAIN])
@pytest.mark.parametrize("corrected", [False, True])
def test_a_layer_computes_what_its_grids_say(model: LoadedModel, name: str, corrected: bool) -> None:
    module = model.pipe.unet.get_submodule(name)
    weight = module.weight.detach().clone()
    parts = list_splits(model.pipe.unet).get(name, (weight.shape[1],))
    assert len(parts) == (2 if name == SPLIT else 1)
    layer = some_layer(weight, parts, corrected=corrected)
    shape = (2, weight.shape[1], 8, 8) if weight.ndim == 4 else (2, 5, weight.shape[1])
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    plain = module(values)
    schedule = Schedule(n_steps=N_CALLS)
    attach(model.pipe, schedule, tables=AppliedTables(quantization=Quantization({name: layer})))
    runtime = quantization_runtime_of(model.pipe)
    assert runtime is not None
    try:
        assert torch.equal(module(values), plain)  # outside a network call nothing is quantized
        for call in range(N_CALLS):
            runtime.enter(call)
            made = module(values)
            expected = by_definition(module, layer, call, values)
            error = (made - expected).norm() / expected.norm()
            # A few activations lie on the edge between two codes, where float32 and float64 may differ.
            assert error < 1e-3, (call, error)
            assert torch.equal(module.weight, weight)
        runtime.leave()
        assert torch.equal(module(values), plain)
    finally:
        remove(model.pipe)
    assert "forward" not in vars(module)
    assert torch.equal(module(values), plain)


def test_a_quantization_of_another_model_is_refused_and_leaves_the_pipeline_alone(model: LoadedModel) -> None:
    module = model.pipe.unet.get_submodule(PLAIN)
    layer = some_layer(module.weight, (module.weight.shape[1],))
    schedule = Schedule(n_steps=N_CALLS)
    for layers, message in (
        ({PLAIN: layer, "nowhere.to_q": layer}, "nowhere.to_q is no linear layer or convolution here"),
        ({PLAIN: layer, SPLIT: layer}, f"channels for {SPLIT}"),
    ):
        with pytest.raises(ScheduleMismatchError, match=message):
            attach(model.pipe, schedule, tables=AppliedTables(quantization=Quantization(layers)))
        assert "forward" not in vars(module)
    with pytest.raises(ScheduleError, match="quantization needs its table"):
        attach(model.pipe, Schedule(n_steps=N_CALLS, quantization="0" * 64))


def test_the_splits_are_where_the_unet_concatenates(model: LoadedModel) -> None:
    unet = model.pipe.unet
    seen: list[tuple[int, int]] = []
    handles = [
        block.register_forward_pre_hook(lambda module, args: seen.append((args[0].shape[1], 0)))
        for stage in unet.up_blocks
        for block in stage.resnets
    ]
    cat = torch.cat
    joined: list[tuple[int, ...]] = []

    def watched(tensors: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
        if dim == 1 and len(tensors) == 2 and tensors[0].ndim == 4:
            joined.append((tensors[0].shape[1], tensors[1].shape[1]))
        return cat(tensors, dim=dim)

    torch.cat = watched  # type: ignore[assignment]
    try:
        with torch.no_grad():
            unet(torch.zeros(1, 4, 16, 16), 1, torch.zeros(1, 4, unet.config.cross_attention_dim))
    finally:
        torch.cat = cat
        for handle in handles:
            handle.remove()
    splits = list_splits(unet)
    assert [splits[f"up_blocks.{k}.resnets.{j}.conv1"] for k in range(2) for j in range(3)] == joined
    assert [sum(pair) for pair in joined] == [n for n, _ in seen]


def test_the_splits_of_single_blocks_are_what_flux_concatenates(flux_pipe: Any) -> None:
    """The input of each `proj_out` begins with what its attention returned, and the feed-forward is the rest."""
    transformer = flux_pipe.transformer
    splits = find_adapter(flux_pipe).list_splits(transformer)
    blocks = transformer.single_transformer_blocks
    assert list(splits) == [f"single_transformer_blocks.{i}.proj_out" for i in range(len(blocks))]
    read: list[torch.Tensor] = []
    attention: list[torch.Tensor] = []
    handles = [
        blocks[0].attn.register_forward_hook(lambda module, args, result: attention.append(result)),
        blocks[0].proj_out.register_forward_pre_hook(lambda module, args: read.append(args[0])),
    ]
    flux_pipe(**call_args("mini-flux", steps=1))
    for handle in handles:
        handle.remove()
    n, rest = splits["single_transformer_blocks.0.proj_out"]
    assert torch.equal(read[0][..., :n], attention[0])
    assert read[0].shape[-1] == n + rest
    assert n != rest


def test_the_correction_of_a_split_layer_is_fitted_to_the_first_part_alone(model: LoadedModel) -> None:
    module = model.pipe.unet.get_submodule(SPLIT)
    weight, parts = module.weight.detach(), list_splits(model.pipe.unet)[SPLIT]
    layer = some_layer(weight, parts, bits=8)
    quantization = Quantization({SPLIT: layer})
    runtime, recorder = QuantizationRuntime(quantization), LossRecorder(model.pipe, quantization)
    runtime.enter(0)
    values = torch.randn(2, weight.shape[1], 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        recorder._note(runtime, SPLIT, LayerCodes(SPLIT, module, layer), module, (values,))
    first = torch.nn.functional.conv2d(values[:, : parts[0]], weight[:, : parts[0]], padding=module.padding)
    found = recorder.moments[SPLIT]
    assert found.count == 2 * 8 * 8
    assert found.y == pytest.approx(first.sum(dim=(0, 2, 3)).numpy(), rel=1e-3, abs=1e-2)
    assert found.yy == pytest.approx(first.square().sum(dim=(0, 2, 3)).numpy(), rel=1e-3)
