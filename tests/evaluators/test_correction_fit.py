"""Cache corrections on real models: what is fitted, what is handed out, and that a file brings it to production."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.applied_tables import AppliedTables
from autotune.evaluators.apply import applied, apply, attach, remove
from autotune.evaluators.branch_store import second_half, tensors_of
from autotune.evaluators.cell_correction import CellCorrection, channel_axis
from autotune.evaluators.correction_table import COLUMN, correction_tensors, read_correction
from autotune.evaluators.pair_recording import CallRecorder, Moments, PairRecorder, lines_of
from autotune.evaluators.schedule_table import make_table
from autotune.evaluators.worker import Worker
from autotune.spaces.cache_correction import OUTPUT, CacheCorrection, ChannelAffine, PairMoments
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.channel_mix import ChannelMix
from autotune.spaces.column_fit import FitColumn
from autotune.spaces.errors import ScheduleError, ScheduleMismatchError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.inventory import FINAL, Inventory
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.schedule_file import ScheduleFile, load_schedule_file, save_schedule_file
from autotune.spaces.table_identity import TableIdentity

BOTH, STORED = GuidanceAction.BOTH, GuidanceAction.STORED
PROMPTS = Fidelity(name="calibration", prompts=("a cat",), seeds=(3,))


def plan_on(inventory: Inventory, components: set[str], n_calls: int = 4) -> CachePlan:
    """Every second call reuses the sites of these components."""
    table = np.zeros((n_calls, len(inventory)))
    table[1::2, [i for i, site in enumerate(inventory.sites) if site.component in components]] = 1
    return CachePlan.from_array(table)


def corrected_of(worker: Worker, schedule: Schedule) -> tuple[Schedule, CacheCorrection]:
    made = worker.fit(schedule, FitColumn.CACHE_CORRECTION, PROMPTS).schedule
    correction = read_correction(made, worker.condition, worker.tables.of(made))
    assert correction is not None
    return made, correction


def moments_of(worker: Worker, base: Schedule) -> Moments:
    assert base.cache is not None
    calls, moments = CallRecorder(worker._pipe), Moments()
    worker._run(Schedule(n_steps=base.n_steps), PROMPTS, None, calls)
    pairs = PairRecorder(worker._pipe, base.cache, worker.inventory, calls.latents, moments)
    worker._run(base, PROMPTS, None, pairs)
    return moments


def outputs_of(
    worker: Worker, schedule: Schedule, module: Any, tables: AppliedTables | None = None
) -> list[torch.Tensor]:
    """What a module hands on, call by call, in a run: the naive record."""
    kept: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda module, args, result: kept.extend(list(tensors_of(result))[-1:]))
    worker._run(schedule, PROMPTS, None, None, tables)
    handle.remove()
    return kept


def check_pairs(parts: list[PairMoments], x: torch.Tensor, y: torch.Tensor) -> None:
    axis = channel_axis(x)
    pairs = [t.movedim(axis, -1).flatten(0, -2).double().numpy() for t in (x, y)]
    expected, found = PairMoments.of(*pairs), parts[-1]
    assert found.count == expected.count
    for name in ("x", "y", "xx", "xy", "yy"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-4, abs=1e-3), name


def test_pairs_are_what_is_handed_out_and_what_the_default_run_computes(pixart: Worker) -> None:
    """One leaf with tokens, guided in one batch; one call leaves out a branch."""
    site = next(i for i, s in enumerate(pixart.inventory.sites) if s.component == "attn1")
    table = np.zeros((4, len(pixart.inventory)))
    table[[1, 3], site] = 1
    base = Schedule(n_steps=4, cache=CachePlan.from_array(table), guidance=(BOTH, BOTH, BOTH, STORED))
    moments = moments_of(pixart, base)
    assert set(moments) == {(1, site), (3, site)}
    lines = CacheCorrection({cell: lines_of(parts) for cell, parts in moments.items()})
    module = pixart._pipe.transformer.get_submodule(pixart.inventory.sites[site].name)
    true = outputs_of(pixart, Schedule(n_steps=4), module)
    handed_out = outputs_of(pixart, base, module)
    check_pairs(moments[1, site], handed_out[1], true[1])
    # The second pair is of a run in which the first reuse was corrected.
    corrected = outputs_of(pixart, base, module, AppliedTables(cache_correction=lines))
    check_pairs(moments[3, site], second_half(corrected[2]), second_half(true[3]))
    assert not torch.allclose(corrected[2], handed_out[2], atol=1e-5)


def test_spans_are_compared_as_they_are_stored(flux: Worker) -> None:
    """The hidden state as it is, a block as what it adds to the image."""
    final = next(i for i, s in enumerate(flux.inventory.sites) if s.component == FINAL)
    last = flux._pipe.transformer.single_transformer_blocks[-1]
    plan = plan_on(flux.inventory, {FINAL})
    moments = moments_of(flux, Schedule(n_steps=4, cache=plan))
    true = outputs_of(flux, Schedule(n_steps=4), last)
    check_pairs(moments[1, final], true[0], true[1])
    blocks = [i for i, s in enumerate(flux.inventory.sites) if s.component == "block"]
    first = next(i for i in blocks if flux.inventory.sites[i].name == "transformer_blocks.0")
    moments = moments_of(flux, Schedule(n_steps=4, cache=plan_on(flux.inventory, {"block"})))
    inner = flux._pipe.transformer.transformer_blocks[0]
    inputs: list[torch.Tensor] = []
    handle = inner.register_forward_pre_hook(
        lambda module, args, kwargs: inputs.append(kwargs["hidden_states"]), with_kwargs=True
    )
    after = outputs_of(flux, Schedule(n_steps=4), inner)
    handle.remove()
    added = [y - x for x, y in zip(inputs, after, strict=True)]
    check_pairs(moments[1, first], added[0], added[1])


def line_of(channels: int) -> ChannelAffine:
    rng = np.random.default_rng(channels)
    return ChannelAffine(rng.uniform(0.9, 1.1, channels), rng.normal(0, 0.01, channels))


def applied_to(line: ChannelAffine, x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(line.scale).float() * x + torch.from_numpy(line.shift).float()


def test_the_hidden_state_and_the_output_are_corrected_in_their_calls_alone(flux: Worker) -> None:
    final = next(i for i, s in enumerate(flux.inventory.sites) if s.component == FINAL)
    base = Schedule(n_steps=4, cache=plan_on(flux.inventory, {FINAL}))
    denoiser = flux._pipe.transformer
    hidden, output = line_of(128), line_of(16)
    width = denoiser.inner_dim
    assert width == 128
    kept: dict[str, list[torch.Tensor]] = {"hidden": [], "raw": [], "out": []}
    hooks = [
        denoiser.single_transformer_blocks[-1].register_forward_hook(
            lambda module, args, result: kept["hidden"].append(result[1])
        ),
        denoiser.proj_out.register_forward_hook(lambda module, args, result: kept["raw"].append(result)),
        denoiser.register_forward_hook(lambda module, args, result: kept["out"].append(result[0])),
    ]
    correction = CacheCorrection({(1, final): (None, hidden), (1, OUTPUT): (output,)})
    flux._run(base, PROMPTS, None, None, AppliedTables(cache_correction=correction))
    for hook in hooks:
        hook.remove()
    assert torch.allclose(kept["hidden"][1], applied_to(hidden, kept["hidden"][0]), atol=1e-5)
    assert torch.equal(kept["hidden"][3], kept["hidden"][2])
    assert torch.allclose(kept["out"][1], applied_to(output, kept["raw"][1]), atol=1e-6)
    assert torch.equal(kept["out"][3], kept["raw"][3])


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

    def same(mix: ChannelMix) -> ChannelMix:
        return ChannelMix(np.eye(1, mix.weights.shape[1]).repeat(len(mix.weights), axis=0))

    cells = {cell: tuple(map(plain, lines)) for cell, lines in correction.cells.items()}
    return CacheCorrection(cells, {call: same(mix) for call, mix in correction.history.items()})


@pytest.fixture(scope="module")
def fitted(flux: Worker) -> tuple[Schedule, CacheCorrection]:
    return corrected_of(flux, Schedule(n_steps=4, cache=plan_on(flux.inventory, {"attn", "ff", "single_proj_out"})))


def test_a_correction_by_one_and_nothing_changes_no_bit(flux: Worker, fitted: Any) -> None:
    made, correction = fitted

    def run(given: CacheCorrection | None) -> torch.Tensor:
        schedule = made if given is not None else made.without_tables
        attach(flux._pipe, schedule, inventory=flux.inventory, tables=AppliedTables(cache_correction=given))
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
    save_schedule_file(path, ScheduleFile(schedule=made, condition=flux.condition, tables=flux.tables.of(made)))
    attach(flux._pipe, made, inventory=flux.inventory, tables=AppliedTables(cache_correction=correction))
    expected = flux_run(flux)
    remove(flux._pipe)
    file = load_schedule_file(path)
    with applied(flux._pipe, file):
        assert torch.equal(flux_run(flux), expected)
        # Which this model does not read.
        flux._pipe("a cat", num_inference_steps=4, height=32, width=32, guidance_scale=2.0, max_sequence_length=16)
        with pytest.raises(ScheduleMismatchError, match="fit one resolution"):
            flux._pipe("a cat", num_inference_steps=4, height=48, width=48, guidance_scale=1.0, max_sequence_length=16)
        with pytest.raises(ScheduleMismatchError, match="num_inference_steps=4"):
            flux._pipe("a cat", num_inference_steps=5, height=32, width=32, guidance_scale=1.0, max_sequence_length=16)
    assert torch.equal(flux_run(flux), before)
    other = dataclasses.replace(flux.condition, model="somebody/else")
    with pytest.raises(ScheduleMismatchError, match="tables of a schedule fit one model"):
        apply(flux._pipe, dataclasses.replace(file, condition=other))
    with pytest.raises(ScheduleError, match="cache_correction needs its table"):
        attach(flux._pipe, made)


def test_a_pipeline_that_does_not_say_its_guidance_scale_is_watched(pixart: Worker) -> None:
    pipe, base = pixart._pipe, Schedule(n_steps=4, cache=plan_on(pixart.inventory, {FINAL}))
    assert not hasattr(pipe, "_guidance_scale")
    correction = CacheCorrection({(1, OUTPUT): (line_of(4),)})
    identity = TableIdentity.of(COLUMN, canonical_schedule(base, pixart.inventory), pixart.condition)
    digest, table = make_table(identity, correction_tensors(correction))
    made = canonical_schedule(dataclasses.replace(base, cache_correction=digest), pixart.inventory)

    def run(scale: float) -> None:
        kwargs = {"max_sequence_length": 16, "use_resolution_binning": False, "clean_caption": False}
        pipe("a cat", num_inference_steps=4, height=32, width=32, guidance_scale=scale, output_type="latent", **kwargs)

    with applied(pipe, ScheduleFile(schedule=made, condition=pixart.condition, tables={digest: table})):
        run(3.0)
        for scale in (2.5, 1.0):
            with pytest.raises(ScheduleMismatchError, match=f"at guidance scale 3, this run has {scale:g}"):
                run(scale)


def test_a_fit_is_made_once_and_counts_its_runs(flux: Worker, fitted: tuple[Schedule, CacheCorrection]) -> None:
    made, _ = fitted
    again = flux.fit(made, FitColumn.CACHE_CORRECTION, PROMPTS)
    assert again.schedule == made
    assert again.image_runs == 5 + 4  # one prompt, to fit and to hold out
    assert 0 < again.after < 1
    with pytest.raises(ScheduleError, match="takes 9 image runs; 8 are left"):
        flux.fit(made.without_tables, FitColumn.CACHE_CORRECTION, PROMPTS, max_image_runs=8)
    with pytest.raises(ScheduleError, match="needs a schedule that reuses something"):
        flux.fit(Schedule(n_steps=4), FitColumn.CACHE_CORRECTION, PROMPTS)


def test_a_corrected_schedule_is_scored_by_any_worker_that_shares_the_artifacts(
    flux: Worker, fitted: tuple[Schedule, CacheCorrection], artifacts: Any
) -> None:
    made, _ = fitted
    assert canonical_schedule(made, flux.inventory) == made
    other = Worker.__new__(Worker)
    other.__dict__.update(flux.__dict__)
    other.tables = type(flux.tables)(flux.condition, artifacts)
    assert torch.equal(other._run(made, PROMPTS, None).latents, flux._run(made, PROMPTS, None).latents)


def test_a_table_for_other_channels_is_refused_at_the_first_value(
    flux: Worker, fitted: tuple[Schedule, CacheCorrection]
) -> None:
    made, _ = fitted
    line = ChannelAffine(np.ones(3), np.zeros(3))
    tables = AppliedTables(cache_correction=CacheCorrection({(1, OUTPUT): (line,)}))
    attach(flux._pipe, made, inventory=flux.inventory, tables=tables)
    try:
        with pytest.raises(ScheduleMismatchError, match="it has 3 channels where call 1 hands out 16"):
            flux_run(flux)
    finally:
        remove(flux._pipe)


def test_narrow_values_are_corrected_in_float32() -> None:
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


def test_where_no_correction_helps_the_schedule_stays_as_it_is_and_the_runs_count(flux: Worker) -> None:
    schedule = Schedule(n_steps=4, cache=plan_on(flux.inventory, {FINAL}))
    fits = dataclasses.replace(
        flux._fits, reference=lambda some: flux._run(schedule, some, None).latents, artifacts=None
    )
    fit = fits.fit(schedule, FitColumn.CACHE_CORRECTION, PROMPTS)
    assert fit.schedule == canonical_schedule(schedule, flux.inventory)
    assert (fit.before, fit.after, fit.image_runs) == (0.0, 0.0, 9)
