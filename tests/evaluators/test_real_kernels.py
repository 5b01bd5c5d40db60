"""torchao's kernels in the layers that a quantization names."""

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import autotune
from autotune.evaluators.load import load_model
from autotune.evaluators.quality import score_deviation
from autotune.evaluators.quantized_layers import layers_of
from autotune.evaluators.real_kernels import quantize_layers
from autotune.evaluators.worker import Worker
from autotune.spaces.column_fit import Precision
from autotune.spaces.errors import ScheduleError, UsageError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.quantization import Grid, LayerQuantization, Quantization
from autotune.spaces.schedule import Schedule
from autotune.spaces.schedule_file import ScheduleFile, save_schedule_file

N = 4
PROMPTS = Fidelity(name="calibration", prompts=("a cat", "a red car", "a ship at sea", "a horse"), seeds=(0, 1, 2, 3))


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


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of four steps of mini-flux in 8 bits."""
    model = load_model("mini-flux", device="cpu")
    worker = Worker(dataclasses.replace(model, preset=dataclasses.replace(model.preset, n_steps=N)))
    schedule = worker.fit(Schedule(n_steps=N), Precision(8.0), PROMPTS).schedule
    path = tmp_path_factory.mktemp("file") / "quantized.json"
    tables = worker.tables.of(schedule)
    save_schedule_file(path, ScheduleFile(schedule=schedule, condition=worker.condition, tables=tables))
    return path


def latents(pipe: Any) -> torch.Tensor:
    arguments: dict[str, Any] = {"num_inference_steps": N, "height": 32, "width": 32, "output_type": "latent"}
    generator = torch.Generator().manual_seed(5)
    result: torch.Tensor = pipe("a cat", generator=generator, guidance_scale=1.0, **arguments).images
    return result


def test_a_file_brings_kernels_to_production_which_apply_then_leaves_alone(quantized: Path) -> None:
    pytest.importorskip("torchao")
    pipe = load_model("mini-flux", device="cpu").pipe
    plain = latents(pipe)
    autotune.apply(pipe, quantized)
    fake = latents(pipe)
    changed = autotune.use_kernels(pipe, quantized)
    assert "transformer_blocks.0.attn.to_q" in changed
    alone = latents(pipe)  # the schedule was removed
    autotune.apply(pipe, quantized)
    assert torch.equal(latents(pipe), alone)  # quantized once, not twice
    autotune.remove(pipe)
    assert torch.equal(latents(pipe), alone)
    for got in (fake, alone):
        assert 0.001 < score_deviation(got, plain)[0] < 0.2


def test_bench_measures_kernels_beside_the_default_run_in_floating_point(quantized: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    found = autotune.bench(quantized, kernels="int8", n_prompts=2, repeats=2, device="cpu", storage=storage)
    rows = found["rows"]
    assert isinstance(rows, list)
    roles = {row["role"]: row for row in rows}
    told = re.fullmatch(r"the same with int8 kernels in (\d+) of (\d+) layers", roles["kernels"]["label"])
    assert told is not None
    assert told[1] == told[2] != "0"  # all are linear and have 8 bits
    assert "relative_weights" not in roles["kernels"]
    assert roles["schedule"]["relative_weights"] < 0.3
    default, schedule, kernels = (roles[role]["deviation"] for role in ("default", "schedule", "kernels"))
    assert len({default, schedule, kernels}) == 3
    assert 0.5 * default < kernels < 2.0 * default  # four Euler steps are far worse than eight bits


def test_kernels_without_a_quantization_or_for_a_pipeline_in_use_are_refused(quantized: Path, tmp_path: Path) -> None:
    model = load_model("mini-flux", device="cpu")
    plain = tmp_path / "plain.json"
    save_schedule_file(plain, ScheduleFile(schedule=Schedule(n_steps=N), condition=Worker(model).condition))
    with pytest.raises(ScheduleError, match="kernels need a schedule with a quantization"):
        autotune.use_kernels(model.pipe, plain)
    with pytest.raises(UsageError, match="got a file without one: autotune quantize makes one"):
        autotune.bench(plain, kernels="int8")
    with pytest.raises(UsageError, match="got a pipeline: leave it out"):
        autotune.bench(quantized, pipe=model.pipe, kernels="int8")
    with pytest.raises(UsageError, match="kernels must be one of int8, float8; got 'int4'"):
        autotune.bench(quantized, kernels="int4")


def test_a_device_without_such_kernels_is_told_so(quantized: Path) -> None:
    pytest.importorskip("torchao")
    if torch.cuda.is_available():
        pytest.skip("a GPU may have float8")
    pipe = load_model("mini-flux", device="cpu").pipe
    with pytest.raises(UsageError, match="torchao has no float8 kernels for this device"):
        autotune.use_kernels(pipe, quantized, "float8")
    assert latents(pipe).isfinite().all()
