"""Quantizations fitted on real models: what they cost, that a file brings them to production, and only there."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from autotune.evaluators.applied_tables import AppliedTables
from autotune.evaluators.apply import applied, attach, remove
from autotune.evaluators.bit_sensitivity import BitSensitivities
from autotune.evaluators.layer_grids import LayerGrids
from autotune.evaluators.load import load_model
from autotune.evaluators.quality import score_deviation
from autotune.evaluators.quantization_fit import corrected
from autotune.evaluators.quantized_layers import LayerCodes, channel_axis, layers_of, weight_bytes
from autotune.evaluators.worker import Worker
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.column_fit import FitColumn, Precision
from autotune.spaces.errors import ScheduleError, ScheduleMismatchError
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.inventory import FINAL
from autotune.spaces.quantization import Quantization
from autotune.spaces.schedule import Schedule
from autotune.spaces.schedule_file import ScheduleFile, load_schedule_file, save_schedule_file

N = 4
PROMPTS = Fidelity(name="calibration", prompts=("a cat", "a red car", "a ship at sea", "a horse"), seeds=(0, 1, 2, 3))
BASE = Schedule(n_steps=N)


@pytest.fixture(scope="module")
def flux() -> Worker:
    model = load_model("mini-flux", device="cpu")
    return Worker(dataclasses.replace(model, preset=dataclasses.replace(model.preset, n_steps=N)))


def run_of(worker: Worker, schedule: Schedule, given: Quantization | None = None) -> torch.Tensor:
    tables = None if given is None else AppliedTables(quantization=given)
    return worker._run(schedule, PROMPTS, None, None, tables).latents


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(np.mean(score_deviation(one, other)))


@pytest.fixture(scope="module")
def grids(flux: Worker) -> LayerGrids:
    made = LayerGrids(flux._pipe, BASE, flux.inventory, flux._fits.run)
    made.record_ranges([PROMPTS])
    return made


def test_fewer_bits_lose_more_and_a_correction_wins_some_of_it_back(flux: Worker, grids: LayerGrids) -> None:
    plain = run_of(flux, BASE)
    eight, four = grids.uniform(8), grids.uniform(4)
    assert {layer.weight_bits for layer in eight.layers.values()} == {8}
    outer = {"x_embedder", "context_embedder", "proj_out"}
    assert {four.layers[name].weight_bits for name in outer} == {8}
    assert four.layers["transformer_blocks.0.attn.to_q"].weight_bits == 4
    lost = {bits: distance(run_of(flux, BASE, made), plain) for bits, made in ((8, eight), (4, four))}
    assert 0.001 < lost[8] < 0.06
    assert 2 * lost[8] < lost[4] < 0.4
    pairs = grids.pairs(four, [PROMPTS])
    better = corrected(four, pairs, pairs)
    assert distance(run_of(flux, BASE, better), plain) < 0.95 * lost[4]
    # Least squares on the same pairs: no layer is worse.
    again = grids.pairs(better, [PROMPTS])
    assert again["proj_out"].error() <= pairs["proj_out"].error() * 1.05


def test_what_reads_the_sample_has_room_for_prompts_that_were_not_seen(flux: Worker, grids: LayerGrids) -> None:
    """Starting noise is Gaussian: 6 standard deviations are enough; a first layer that clips makes samples explode."""
    first = grids.uniform(8).layers["x_embedder"].activation
    low, high = -first.scale[0, 0] * first.zero[0, 0], first.scale[0, 0] * (255 - first.zero[0, 0])
    assert low < -4.5
    assert high > 4.5
    seen = run_of(flux, BASE).abs().max()
    assert first.scale[-1, 0] * 255 > 2 * float(seen)


def test_the_error_of_a_layer_is_that_of_its_output(flux: Worker, grids: LayerGrids) -> None:
    """The recorder against a naive one, on the first call: x W without the bias, true and on the grids."""
    made, name = grids.uniform(4), "transformer_blocks.0.ff.net.2"
    module = dict(layers_of(flux._pipe.transformer))[name]
    pairs = grids.pairs(Quantization({name: made.layers[name]}), [PROMPTS])
    inputs: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    run_of(flux, BASE, Quantization({name: made.layers[name]}))
    handle.remove()
    layer, weight = made.layers[name], module.get_parameter("weight").detach().double().numpy()
    s, z = layer.weight.scale[0][:, None], layer.weight.zero[0][:, None]
    coded = s * (np.clip(np.round(weight / s) + z, 0, 15) - z)
    squares, rows = 0.0, 0
    for call, values in enumerate(inputs):
        x = values.double().numpy().reshape(-1, values.shape[-1])
        a, b = layer.activation.scale[call, 0], layer.activation.zero[call, 0]
        x_coded = a * (np.clip(np.round(x / a) + b, 0, 255) - b)
        squares += ((x_coded @ coded.T - x @ weight.T) ** 2).sum()
        rows += len(x)
    assert pairs[name].count == rows
    assert pairs[name].error() == pytest.approx(squares / rows, rel=1e-2)


def test_mixed_bits_keep_their_mean_and_lose_less_than_they_would_at_random(flux: Worker, grids: LayerGrids) -> None:
    plain = run_of(flux, BASE)
    mixed = grids.mixed(6.0, flux._fits.sensitivities.of(PROMPTS))
    sizes = {name: layer.get_parameter("weight").numel() for name, layer in layers_of(flux._pipe.transformer)}
    inner = {name: layer.weight_bits for name, layer in mixed.layers.items() if "blocks." in name}
    assert set(inner.values()) == {4, 8}
    bits = sum(sizes[name] * inner[name] for name in inner)
    assert 5.9 * sum(sizes[n] for n in inner) < bits <= 6 * sum(sizes[n] for n in inner)
    other_way = {name: dataclasses.replace(grids._layer(name, 12 - b)) for name, b in inner.items()}
    others = Quantization({**mixed.layers, **other_way})
    assert distance(run_of(flux, BASE, mixed), plain) < 0.8 * distance(run_of(flux, BASE, others), plain)


def test_a_sensitivity_is_what_one_layer_does_to_the_output_of_the_network(flux: Worker, grids: LayerGrids) -> None:
    """Against runs of one call with that layer's weights alone on their grid, and scored once."""
    scored, name = flux._fits.sensitivities, "transformer_blocks.0.ff.net.2"
    n_layers = len(grids.inner)
    fresh = BitSensitivities(flux._pipe, flux.condition, flux.inventory, N, flux._fits.run, None)
    assert fresh.image_runs(PROMPTS) == 2 * (1 + n_layers)  # all four calls of two prompts
    found = fresh.of(PROMPTS)
    assert fresh.image_runs(PROMPTS) == 0
    assert found == scored.of(PROMPTS)
    outputs: list[torch.Tensor] = []
    inputs: list[dict[str, Any]] = []

    def note(module: torch.nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        inputs.append(kwargs)
        outputs.append(output[0])

    handle = flux._pipe.transformer.register_forward_hook(note, with_kwargs=True)
    for one in range(2):
        flux._run(BASE, PROMPTS.only([one]), None)
    handle.remove()
    layer = flux._pipe.transformer.get_submodule(name)
    own = layer.weight.detach().clone()
    coded = grids.uniform(4).layers[name].weight
    s, z = (torch.tensor(values[0]).float()[:, None] for values in (coded.scale, coded.zero))
    with torch.no_grad():
        layer.weight.copy_((((own / s).round() + z).clamp(0, 15) - z) * s)
        others = [flux._pipe.transformer(**kwargs)[0] for kwargs in inputs]
        layer.weight.copy_(own)
    ratios = [float((a - b).square().sum() / b.square().sum()) for a, b in zip(others, outputs, strict=True)]
    assert len(ratios) == 2 * N
    assert found[name] == pytest.approx(sum(ratios), rel=1e-3)


@pytest.mark.parametrize("name", ["mini-flux", "mini-sd"])
def test_bit_operations_are_those_of_the_layers_that_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a count of what quantized layers compute in a run whose cache skips some of them."""
    model = load_model(name, device="cpu")
    worker = Worker(dataclasses.replace(model, preset=dataclasses.replace(model.preset, n_steps=N)))
    one = PROMPTS.first(1)
    table = np.zeros((len(worker.own_timesteps(N)), len(worker.inventory)), int)
    table[1, worker.inventory.outermost] = 1
    table[3, list(worker.inventory.leaves)[::2]] = 1
    schedule = worker.fit(Schedule(n_steps=N, cache=CachePlan.from_array(table)), Precision(5.3), one).schedule
    saved: list[int] = []
    original = LayerCodes._with_codes

    def noted(self: LayerCodes, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        n_outputs = output.numel() // output.shape[channel_axis(self.module)]
        saved.append(self.module.get_parameter("weight").numel() * n_outputs * (32 * 32 - 8 * self._layer.weight_bits))
        return output

    monkeypatch.setattr(LayerCodes, "_with_codes", noted)
    outcome = worker.score(schedule, one)
    assert isinstance(outcome, Measurement)
    assert outcome.macs < 0.8 * outcome.baseline_macs
    assert outcome.bit_operations == outcome.macs * 32 * 32 - sum(saved)
    assert outcome.baseline_bit_operations == outcome.baseline_macs * 32 * 32


def test_the_grids_of_weights_are_searched_once_for_all_schedules(flux: Worker) -> None:
    known = flux._fits.sensitivities.grids.weight_grids
    flux.fit(BASE, Precision(8.0), PROMPTS.first(1), layer_corrections=False)
    before = dict(known)
    assert before
    flux.fit(Schedule(n_steps=2), Precision(8.0), PROMPTS.first(1), layer_corrections=False)
    assert known == before


def test_a_file_brings_the_precision_to_production_and_only_there(flux: Worker, tmp_path: Path) -> None:
    pipe = flux._pipe
    fit = flux.fit(BASE, Precision(8.0), PROMPTS)
    assert fit.image_runs == 5 * 3 + 7
    assert 0.8 * fit.before < fit.after < 1.5 * fit.before + 0.02
    assert fit.after != fit.before
    made = fit.schedule
    outcome = flux.score(made, PROMPTS)
    assert isinstance(outcome, Measurement)
    assert outcome.relative_weights is not None
    assert 0.25 < outcome.relative_weights < 0.30  # codes, and the grids of small layers
    assert outcome.baseline_weight_bytes == weight_bytes(pipe.transformer)
    assert outcome.relative_bit_operations is not None
    assert 1 / 16 < outcome.relative_bit_operations < 0.16  # 8 x 8 for 32 x 32 bits, and attention as it was

    def draw() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        images = pipe(
            "a cat", num_inference_steps=N, height=32, width=32, guidance_scale=1.0, max_sequence_length=16,
            generator=generator, output_type="latent",
        ).images  # fmt: skip
        assert isinstance(images, torch.Tensor)
        return images

    before = draw()
    path = tmp_path / "q.schedule.json"
    save_schedule_file(path, ScheduleFile(schedule=made, condition=flux.condition, tables=flux.tables.of(made)))
    file = load_schedule_file(path)
    with applied(pipe, file):
        quantized = draw()
        with pytest.raises(ScheduleMismatchError, match="fit one resolution"):
            pipe("a cat", num_inference_steps=N, height=48, width=48, guidance_scale=1.0, max_sequence_length=16)
        size = {"height": 32, "width": 32, "guidance_scale": 1.0, "max_sequence_length": 16}
        grid = np.linspace(1.0, 0.5, N).tolist()
        with pytest.raises(ScheduleMismatchError, match=r"call 1 was at timestep .* leave timesteps and sigmas"):
            pipe("a cat", num_inference_steps=N, sigmas=grid, **size)
        with pytest.raises(ScheduleMismatchError, match=r"without a negative prompt, .* leave negative_prompt"):
            pipe("a cat", num_inference_steps=N, negative_prompt="a dog", true_cfg_scale=4.0, **size)
    assert not torch.equal(quantized, before)
    assert torch.equal(draw(), before)
    other = dataclasses.replace(flux.condition, revision="other")
    with pytest.raises(ScheduleMismatchError, match="table of quantization fits one weights"):
        AppliedTables.of(made, other, file.tables)
    longer = dataclasses.replace(made, n_steps=5)
    with pytest.raises(ScheduleMismatchError, match="table of quantization fits one n steps"):
        AppliedTables.of(longer, flux.condition, file.tables)
    with pytest.raises(ScheduleError, match="takes 22 image runs; 21 are left"):
        flux.fit(Schedule(n_steps=3), Precision(8.0), PROMPTS, max_image_runs=21)


def test_a_table_knows_the_checkpoint_that_it_was_fitted_to(flux: Worker) -> None:
    """Another checkpoint of the same name and shape is refused; the same one in half precision is not."""
    made = flux.fit(BASE, Precision(8.0), PROMPTS, layer_corrections=False).schedule
    file = ScheduleFile(schedule=made, condition=flux.condition, tables=flux.tables.of(made))
    other = load_model("mini-flux", device="cpu").pipe
    attach_and_leave(other, file)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in other.transformer.parameters():
            weight.mul_(1.0 + 0.05 * torch.randn(weight.shape, generator=generator))
    with pytest.raises(ScheduleMismatchError, match=r"fit one checkpoint; the weights here differ from its by [3-7]\."):
        attach_and_leave(other, file)
    with pytest.warns(UserWarning, match="measured in float32, the pipeline is in bfloat16"):
        attach_and_leave(load_model("mini-flux", device="cpu", dtype="bfloat16").pipe, file)


def attach_and_leave(pipe: Any, file: ScheduleFile) -> None:
    with applied(pipe, file):
        pass


def test_a_cache_is_corrected_under_the_quantization_that_it_has(flux: Worker) -> None:
    table = np.zeros((N, len(flux.inventory)))
    table[1::2, [i for i, site in enumerate(flux.inventory.sites) if site.component == FINAL]] = 1
    cached = Schedule(n_steps=N, cache=CachePlan.from_array(table))
    quantized = flux.fit(cached, Precision(8.0), PROMPTS).schedule
    both = flux.fit(quantized, FitColumn.CACHE_CORRECTION, PROMPTS)
    assert both.schedule.quantization == quantized.quantization
    assert both.schedule.cache_correction
    assert both.after < both.before
    # It is what is fitted without rounding, chosen and measured with it.
    exact = flux.fit(cached, FitColumn.CACHE_CORRECTION, PROMPTS)
    found, expected = (load(flux.tables.of(one.schedule)[str(one.schedule.cache_correction)]) for one in (both, exact))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    assert both.after != exact.after
    outcome = flux.score(both.schedule, PROMPTS)
    assert isinstance(outcome, Measurement)
    assert outcome.macs < outcome.baseline_macs
    # A table is fitted to what it stands on: neither goes with another schedule.
    alone = dataclasses.replace(both.schedule, quantization=None)
    with pytest.raises(ScheduleMismatchError, match="table of cache_correction fits one schedule"):
        AppliedTables.of(alone, flux.condition, flux.tables.of(alone))
    with pytest.raises(ScheduleMismatchError, match="table of quantization fits one schedule"):
        AppliedTables.of(dataclasses.replace(quantized, cache=None), flux.condition, flux.tables.of(quantized))


def test_the_network_is_not_copied(flux: Worker, grids: LayerGrids) -> None:
    made = grids.uniform(8)
    own = {name: weight.data_ptr() for name, weight in flux._pipe.transformer.named_parameters()}
    attach(flux._pipe, BASE, inventory=flux.inventory, tables=AppliedTables(quantization=made))
    runtime_codes = sum(
        codes.numel() * codes.element_size()
        for layer in flux._pipe._autotune.quantization.codes.values()
        for codes in layer._codes
    )
    remove(flux._pipe)
    sizes = {name: layer.get_parameter("weight").numel() for name, layer in layers_of(flux._pipe.transformer)}
    assert runtime_codes == sum(sizes.values())  # a byte per weight
    assert {name: weight.data_ptr() for name, weight in flux._pipe.transformer.named_parameters()} == own
