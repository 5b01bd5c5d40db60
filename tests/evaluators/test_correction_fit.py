"""Cache corrections on real models: what is fitted, what is handed out, and that a file brings it to production."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.apply import applied, apply, attach, cache_runtime_of, remove
from autotune.evaluators.branch_store import Value, second_half, tensors_of
from autotune.evaluators.correction_table import read_correction
from autotune.evaluators.worker import Worker
from autotune.spaces.cache_correction import CacheCorrection, ChannelAffine, PairMoments
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.column_fit import FitColumn
from autotune.spaces.errors import ScheduleError, ScheduleMismatchError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.inventory import FINAL, Inventory
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.schedule_file import ScheduleFile, load_schedule_file, save_schedule_file

BOTH, STORED = GuidanceAction.BOTH, GuidanceAction.STORED
PROMPTS = Fidelity(name="calibration", prompts=("a cat",), seeds=(3,))


def plan_on(inventory: Inventory, components: set[str], n_calls: int = 4) -> CachePlan:
    """Every second call reuses the sites of these components."""
    table = np.zeros((n_calls, len(inventory)))
    table[1::2, [i for i, site in enumerate(inventory.sites) if site.component in components]] = 1
    return CachePlan.from_array(table)


def corrected_of(worker: Worker, schedule: Schedule) -> tuple[Schedule, CacheCorrection]:
    made = worker.fit(schedule, FitColumn.CACHE_CORRECTION, PROMPTS).schedule
    correction = read_correction(made, worker.condition, worker._tables.of(made))
    assert correction is not None
    return made, correction


class Outputs:
    """What a module returns, call by call, in a run: the naive record."""

    def __init__(self, module: Any, kept: list[Value]) -> None:
        self.module, self.kept = module, kept

    def watching(self, scheduler: Any) -> Any:
        handle = self.module.register_forward_hook(lambda module, args, result: self.kept.append(result))
        return _Removing(handle)


class _Removing:
    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


def test_the_fit_is_least_squares_of_the_default_runs_values_on_those_handed_out(pixart: Worker) -> None:
    """One leaf with tokens, guided in one batch, in a run of which one call leaves out a branch."""
    site = next(i for i, s in enumerate(pixart.inventory.sites) if s.component == "attn1")
    table = np.zeros((4, len(pixart.inventory)))
    table[[1, 3], site] = 1
    base = Schedule(n_steps=4, cache=CachePlan.from_array(table), guidance=(BOTH, BOTH, BOTH, STORED))
    module = pixart._pipe.transformer.get_submodule(pixart.inventory.sites[site].name)
    true: list[Value] = []
    handed_out: list[Value] = []
    pixart._run(Schedule(n_steps=4), PROMPTS, None, Outputs(module, true))
    pixart._run(base, PROMPTS, None, Outputs(module, handed_out))
    _, correction = corrected_of(pixart, base)
    assert set(correction.cells) <= {(1, site), (3, site)}
    assert correction.cells
    for (call, _), (line,) in correction.cells.items():
        y = second_half(true[call]) if call == 3 else true[call]
        expected = PairMoments.of(*(x.flatten(0, 1).double().numpy() for x in (handed_out[call], y))).fit()
        assert line is not None
        assert line.scale == pytest.approx(expected.scale, rel=1e-3, abs=1e-4)
        assert line.shift == pytest.approx(expected.shift, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("components", [{FINAL}, {"block"}])
def test_spans_are_corrected_as_they_are_stored_both_streams(flux: Worker, components: set[str]) -> None:
    base = Schedule(n_steps=4, cache=plan_on(flux.inventory, components))
    made, correction = corrected_of(flux, base)
    assert {call for call, _ in correction.cells} <= {1, 3}
    seen: dict[int, Value] = {}
    attach(flux._pipe, made, inventory=flux.inventory, correction=correction)
    try:
        runtime = cache_runtime_of(flux._pipe)
        assert runtime is not None
        runtime.on_read = lambda row, site, value, half: seen.update({site: value}) if row == 1 else None
        name = {FINAL: "single_transformer_blocks", "block": "transformer_blocks"}[next(iter(components))]
        last: list[Value] = []
        module = getattr(flux._pipe.transformer, name)[-1 if FINAL in components else 0]
        inputs: list[Any] = []
        hooks = [
            module.register_forward_hook(lambda module, args, result: last.append(result)),
            module.register_forward_pre_hook(lambda m, args, kwargs: inputs.append(kwargs), with_kwargs=True),
        ]
        flux_run(flux)
        for hook in hooks:
            hook.remove()
    finally:
        remove(flux._pipe)
    site = next(i for i, s in enumerate(flux.inventory.sites) if s.component in components)
    if (1, site) in correction.cells:
        streams = ("encoder_hidden_states", "hidden_states")
        for k, (stored, line) in enumerate(zip(tensors_of(seen[site]), correction.cells[1, site], strict=False)):
            expected = stored if line is None else torch.from_numpy(line.scale).float() * stored + shift_of(line)
            if FINAL not in components:
                expected = expected + inputs[1][streams[k]]
            assert torch.allclose(last[1][k], expected, rtol=1e-5, atol=1e-5)


def shift_of(line: ChannelAffine) -> torch.Tensor:
    return torch.from_numpy(line.shift).float()


def flux_run(worker: Worker) -> torch.Tensor:
    generator = torch.Generator("cpu").manual_seed(0)
    result = worker._pipe(
        "a cat", num_inference_steps=4, height=32, width=32, guidance_scale=1.0, output_type="latent",
        generator=generator, max_sequence_length=16,
    )  # fmt: skip
    latents: torch.Tensor = result.images
    return latents


def identity_of(correction: CacheCorrection) -> CacheCorrection:
    def plain(line: ChannelAffine | None) -> ChannelAffine | None:
        return line and ChannelAffine(np.ones_like(line.scale), np.zeros_like(line.shift))

    return CacheCorrection({cell: tuple(map(plain, lines)) for cell, lines in correction.cells.items()})


@pytest.fixture(scope="module")
def fitted(flux: Worker) -> tuple[Schedule, CacheCorrection]:
    return corrected_of(flux, Schedule(n_steps=4, cache=plan_on(flux.inventory, {"attn", "ff", "single_proj_out"})))


def test_a_correction_by_one_and_nothing_changes_no_bit(flux: Worker, fitted: Any) -> None:
    made, correction = fitted

    def run(given: CacheCorrection | None) -> torch.Tensor:
        schedule = made if given is not None else made.without_tables
        attach(flux._pipe, schedule, inventory=flux.inventory, correction=given)
        try:
            return flux_run(flux)
        finally:
            remove(flux._pipe)

    plain = run(None)
    assert torch.equal(run(identity_of(correction)), plain)
    assert not torch.equal(run(correction), plain)


def test_a_file_brings_the_correction_to_production_and_only_there(
    flux: Worker, fitted: tuple[Schedule, CacheCorrection], tmp_path: Path
) -> None:
    made, correction = fitted
    before = flux_run(flux)
    path = tmp_path / "s.schedule.json"
    save_schedule_file(path, ScheduleFile(schedule=made, condition=flux.condition, tables=flux._tables.of(made)))
    attach(flux._pipe, made, inventory=flux.inventory, correction=correction)
    expected = flux_run(flux)
    remove(flux._pipe)
    file = load_schedule_file(path)
    with applied(flux._pipe, file):
        assert torch.equal(flux_run(flux), expected)
        with pytest.raises(ScheduleMismatchError, match=r"fit one guidance scale; they were measured at 1, .* has 2"):
            flux._pipe("a cat", num_inference_steps=4, height=32, width=32, guidance_scale=2.0, max_sequence_length=16)
        with pytest.raises(ScheduleMismatchError, match="fit one resolution"):
            flux._pipe("a cat", num_inference_steps=4, height=48, width=48, guidance_scale=1.0, max_sequence_length=16)
        with pytest.raises(ScheduleMismatchError, match="num_inference_steps=4"):
            flux._pipe("a cat", num_inference_steps=5, height=32, width=32, guidance_scale=1.0, max_sequence_length=16)
    assert torch.equal(flux_run(flux), before)
    other = dataclasses.replace(flux.condition, model="somebody/else")
    with pytest.raises(ScheduleMismatchError, match="fits one model"):
        apply(flux._pipe, dataclasses.replace(file, condition=other))
    with pytest.raises(ScheduleError, match="cache_correction needs its table"):
        attach(flux._pipe, made)


def test_a_fit_is_made_once_and_counts_its_runs(flux: Worker, fitted: tuple[Schedule, CacheCorrection]) -> None:
    made, _ = fitted
    again = flux.fit(made, FitColumn.CACHE_CORRECTION, PROMPTS)
    assert again.schedule == made
    assert again.image_runs == 3 + 4  # one prompt, to fit and to hold out
    assert 0 < again.after < 1
    with pytest.raises(ScheduleError, match="takes 7 image runs; 6 are left"):
        flux.fit(made.without_tables, FitColumn.CACHE_CORRECTION, PROMPTS, max_image_runs=6)
    with pytest.raises(ScheduleError, match="needs a schedule that reuses something"):
        flux.fit(Schedule(n_steps=4), FitColumn.CACHE_CORRECTION, PROMPTS)


def test_a_corrected_schedule_is_scored_by_any_worker_that_shares_the_artifacts(
    flux: Worker, fitted: tuple[Schedule, CacheCorrection], artifacts: Any
) -> None:
    made, _ = fitted
    assert canonical_schedule(made, flux.inventory) == made
    other = Worker.__new__(Worker)
    other.__dict__.update(flux.__dict__)
    other._tables = type(flux._tables)(flux.condition, artifacts)
    assert torch.equal(other._run(made, PROMPTS, None).latents, flux._run(made, PROMPTS, None).latents)


def test_a_table_for_other_channels_is_refused_at_the_first_value(
    flux: Worker, fitted: tuple[Schedule, CacheCorrection]
) -> None:
    made, correction = fitted
    line = ChannelAffine(np.ones(3), np.zeros(3))
    cells = {cell: tuple(line for _ in lines) for cell, lines in correction.cells.items()}
    attach(flux._pipe, made, inventory=flux.inventory, correction=CacheCorrection(cells))
    try:
        with pytest.raises(ScheduleMismatchError, match="it has 3 channels where call 1 hands out 128"):
            flux_run(flux)
    finally:
        remove(flux._pipe)


def test_narrow_values_are_corrected_in_float32() -> None:
    from autotune.evaluators.cell_correction import CellCorrection

    line = ChannelAffine(np.array([1.001, 2.0]), np.array([0.0, 1.0]))
    cells = CellCorrection(CacheCorrection({(1, 0): (line, None)}))
    tokens = torch.full((1, 3, 2), 100.0, dtype=torch.bfloat16)
    image = torch.full((1, 2, 4, 4), 100.0)
    (made, kept) = cells.apply(1, 0, (tokens, image))
    assert made.dtype == torch.bfloat16
    assert torch.equal(made[0, 0], torch.tensor([100.1, 201.0]).to(torch.bfloat16))
    assert kept is image
    (conv,) = CellCorrection(CacheCorrection({(1, 0): (line,)})).apply(1, 0, (image,))
    assert torch.allclose(conv[0, :, 0, 0], torch.tensor([100.1, 201.0]))
    assert cells.apply(2, 0, tokens) is tokens
