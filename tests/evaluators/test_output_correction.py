"""Corrections of the network's output on real models: fitted in closed loop, by lines and with a history."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators.applied_tables import AppliedTables
from autotune.evaluators.apply import attach, cache_runtime_of, remove
from autotune.evaluators.branch_store import BranchStore
from autotune.evaluators.correction_fit import fit_cache_correction
from autotune.evaluators.correction_table import COLUMN, correction_tensors, read_correction, table_format
from autotune.evaluators.load import load_model
from autotune.evaluators.output_corrector import OutputCorrector
from autotune.evaluators.output_fit import OutputFit, OutputFitting, mix_moments
from autotune.evaluators.pair_recording import CallRecorder
from autotune.evaluators.presets import PRESETS, read_prompts
from autotune.evaluators.schedule_table import make_table
from autotune.evaluators.table_fit import mean_deviation, pair_moments
from autotune.evaluators.worker import Worker
from autotune.spaces.cache_correction import OUTPUT, CacheCorrection, PairMoments
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.channel_mix import ChannelMix
from autotune.spaces.column_fit import ColumnFit
from autotune.spaces.errors import ScheduleError, ScheduleMismatchError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.schedule import Schedule, canonical_schedule
from autotune.spaces.schedule_file import ScheduleFile, load_schedule_file, save_schedule_file
from autotune.spaces.table_identity import TableIdentity

BOTH, STORED = GuidanceAction.BOTH, GuidanceAction.STORED
PIXART = PRESETS["mini-pixart"]
TRAIN = Fidelity(name="calibration", prompts=read_prompts(PIXART.calibration_prompts)[:4], seeds=(0, 1, 2, 3))
OTHERS = Fidelity(name="held_out", prompts=read_prompts(PIXART.held_out_prompts)[:4], seeds=(90, 91, 92, 93))


def every_third(worker: Worker, n_steps: int, **columns: Any) -> Schedule:
    """The hidden state is refreshed in every third call."""
    table = np.zeros((len(worker.own_timesteps(n_steps)), len(worker.inventory)))
    for call in range(len(table)):
        table[call, list(worker.inventory.outermost)] = call % 3 != 0
    schedule = Schedule(n_steps=n_steps, cache=CachePlan.from_array(table), **columns)
    return canonical_schedule(schedule, worker.inventory)


def fitted(worker: Worker, base: Schedule, *, with_history: bool, sizes: tuple[int, ...] = (4,)) -> CacheCorrection:
    """An output correction in batches of these sizes."""
    fit, done = OutputFit(with_history=with_history), 0
    for size in sizes:
        some, done = TRAIN.after(done).first(size) if done else TRAIN.first(size), done + size
        calls = CallRecorder(worker._pipe)
        worker._run(Schedule(n_steps=base.n_steps), some, None, calls)
        worker._run(base, some, None, OutputFitting(worker._pipe, fit, calls.outputs))
    return fit.correction


def open_loop(worker: Worker, base: Schedule) -> CacheCorrection:
    """Lines through pairs of the uncorrected run: what was done before."""
    true, found = CallRecorder(worker._pipe), CallRecorder(worker._pipe)
    worker._run(Schedule(n_steps=base.n_steps), TRAIN, None, true)
    worker._run(base, TRAIN, None, found)
    cells = {}
    assert base.cache is not None
    for call in np.flatnonzero(base.cache.table.any(axis=1)).tolist():
        x, y = (t.outputs[call].movedim(1, -1).flatten(0, -2) for t in (found, true))
        cells[call, OUTPUT] = (pair_moments(x, y).fit(),)
    return CacheCorrection(cells)


def latents_of(worker: Worker, base: Schedule, some: Fidelity, made: CacheCorrection | None) -> torch.Tensor:
    return worker._run(base, some, None, None, AppliedTables(cache_correction=made)).latents


def test_closed_loop_lines_beat_those_of_the_uncorrected_run_and_a_history_beats_both(pixart: Worker) -> None:
    """Seven even refreshes of 20 calls."""
    table = np.zeros((20, len(pixart.inventory)))
    table[:, list(pixart.inventory.outermost)] = 1
    table[[0, 2, 5, 8, 11, 14, 17]] = 0
    base = canonical_schedule(Schedule(n_steps=20, cache=CachePlan.from_array(table)), pixart.inventory)
    some = replace(OTHERS, seeds=(10_000, 10_001, 10_002, 10_003))
    target = pixart._run(Schedule(n_steps=20), some, None).latents
    closed = [fitted(pixart, base, with_history=history) for history in (False, True)]
    corrections = (None, open_loop(pixart, base), *closed)
    plain, before, after, best = (mean_deviation(latents_of(pixart, base, some, made), target) for made in corrections)
    assert after < before
    assert after < 0.9 * plain
    assert best < 0.7 * plain


def test_a_fit_corrects_its_own_run_as_the_correction_does_and_batches_go_on_from_each_other(pixart: Worker) -> None:
    base = every_third(pixart, 7)
    calls, fit = CallRecorder(pixart._pipe), OutputFit(with_history=True)
    pixart._run(Schedule(n_steps=7), TRAIN, None, calls)
    seen = pixart._run(base, TRAIN, None, OutputFitting(pixart._pipe, fit, calls.outputs)).latents
    assert torch.allclose(latents_of(pixart, base, TRAIN, fit.correction), seen, atol=1e-4)
    target = pixart._run(Schedule(n_steps=7), OTHERS, None).latents
    parts = fitted(pixart, base, with_history=True, sizes=(1, 3))
    whole, split, plain = (
        mean_deviation(latents_of(pixart, base, OTHERS, made), target) for made in (fit.correction, parts, None)
    )
    assert split < 0.9 * plain
    assert whole < 0.9 * plain


def fit_of(worker: Worker, base: Schedule, some: Fidelity, **options: Any) -> ColumnFit:
    """A fit to the default run, which takes less time than the converged one."""
    target = worker._run(Schedule(n_steps=base.n_steps), some, None).latents
    return fit_cache_correction(
        worker._pipe, base, condition=worker.condition, inventory=worker.inventory, fidelity=some, reference=target,
        run=lambda schedule, some, watcher, given: worker._run(schedule, some, None, watcher, given).latents,
        tables=worker.tables, **options,
    )  # fmt: skip


def test_a_unet_is_corrected_and_a_file_gives_the_deviation_of_the_fit(tmp_path: Path) -> None:
    """Its sampler calls the network twice in its first step."""
    worker = Worker(load_model("mini-sd"))
    some = replace(TRAIN, prompts=("a cat", "a red truck", "a ship", "a bird on a branch"))
    base, held_out = every_third(worker, 5), some.after(3)
    fit = fit_of(worker, base, some)
    assert fit.after < fit.before
    assert fit.image_runs == 5 * 3 + 4
    path = tmp_path / "s.schedule.json"
    file = ScheduleFile(schedule=fit.schedule, condition=worker.condition, tables=worker.tables.of(fit.schedule))
    save_schedule_file(path, file)
    read = load_schedule_file(path)
    tables = AppliedTables.of(read.schedule, worker.condition, read.tables)
    latents, target = (
        worker._run(schedule, held_out, None, None, given).latents
        for schedule, given in ((read.schedule, tables), (Schedule(n_steps=5), None))
    )
    assert mean_deviation(latents, target) == pytest.approx(fit.after, rel=1e-3)
    alone = fit_of(worker, base, some, lines_only=True)
    lines = read_correction(alone.schedule, worker.condition, worker.tables.of(alone.schedule))
    assert lines is not None
    assert not lines.history
    assert alone.image_runs == 4 * 3 + 3
    assert fit.after <= alone.after < alone.before


def test_a_history_is_kept_through_calls_of_one_branch_and_its_memory_is_counted(pixart: Worker) -> None:
    """Four tensors of the latents' size beside what the cache holds, until the last call that reads them."""
    base = every_third(pixart, 7)
    made = fitted(pixart, base, with_history=True)
    assert {call: mix.n_refreshes for call, mix in made.history.items()} == {1: 1, 2: 1, 4: 2, 5: 2}
    guided = every_third(pixart, 7, guidance=(BOTH, BOTH, STORED, BOTH, BOTH, STORED, BOTH))
    target = pixart._run(Schedule(n_steps=7), OTHERS, None).latents
    left = [mean_deviation(latents_of(pixart, guided, OTHERS, some), target) for some in (made, None)]
    assert left[0] < left[1]

    def held(correction: CacheCorrection | None) -> tuple[int, int]:
        """Bytes at the peak of a run, and at its last call."""
        seen: list[tuple[int, int]] = []

        def note(*_: Any) -> None:
            runtime = cache_runtime_of(pixart._pipe)
            assert runtime is not None
            seen.append((runtime.peak_bytes, runtime.stored_bytes))

        handle = pixart._pipe.transformer.register_forward_hook(note)
        latents_of(pixart, base, TRAIN, correction)
        handle.remove()
        return seen[-1]

    (plain, plain_end), (peak, end) = held(None), held(made)
    latent = 2 * 4 * 4 * target[0].numel()  # both branches of four samples in float32
    assert (plain_end, end, peak) == (0, 0, plain + 4 * latent)


def test_narrow_outputs_are_mixed_in_float32_and_a_run_without_history_is_left_alone() -> None:
    correction = CacheCorrection({}, {1: ChannelMix(np.array([[0.5, 0.25, 0.25, 0.001, 1.0]]))})
    corrector = OutputCorrector(correction, (False, True), BranchStore())
    output, latents = (torch.full((1, 1, 2, 2), x, dtype=torch.bfloat16) for x in (100.0, 4.0))
    assert corrector.correct(1, 0, output, latents) is output
    before = output + 8
    assert (
        corrector.correct(0, 0, before, torch.cat([2 * latents, latents], dim=1)) is before
    )  # more is read than latents
    made = corrector.correct(1, 0, output, latents)
    assert made.dtype == torch.bfloat16
    assert made[0, 0, 0, 0] == torch.tensor(50.0 + 1.0 + 27.0 + 0.008 + 1.0).to(torch.bfloat16)
    corrector.correct(0, 0, output, latents)
    with pytest.raises(ScheduleMismatchError, match="it has 1 channels where call 1 hands out 2"):
        corrector.correct(1, 0, output.repeat(1, 2, 1, 1), latents)


def test_sums_of_values_are_those_that_a_fit_is_made_of() -> None:
    rng = torch.Generator().manual_seed(0)
    first, other = torch.randn(2, 40, 3, generator=rng)
    sums = mix_moments([first, other, first * 0.9, other * 1.1], 0.3 * first + 0.7 * other + 2.0)
    assert sums.error(sums.fit()) < 1e-4 * sums.error()
    line = PairMoments.of(first.double().numpy(), other.double().numpy())
    assert mix_moments([first, first, first, first], other).error() == pytest.approx(line.error())


def test_tables_with_a_history_are_told_apart_and_unknown_ones_refused(pixart: Worker) -> None:
    base, mix = every_third(pixart, 4), ChannelMix(np.arange(10.0).reshape(2, 5))
    correction = CacheCorrection({}, {1: mix, 2: mix})
    identity = TableIdentity.of(COLUMN, base, pixart.condition)

    def read(version: str, **changed: Any) -> CacheCorrection | None:
        digest, table = make_table(identity, correction_tensors(correction) | changed, version)
        made = Schedule(n_steps=4, cache=base.cache, cache_correction=digest)
        return read_correction(made, pixart.condition, {digest: table})

    assert table_format(correction) == "schedule-table-2"
    assert table_format(CacheCorrection({})) == "schedule-table-1"
    found = read("schedule-table-2")
    assert found is not None
    assert not found.cells
    assert all((found.history[call].weights == mix.weights).all() for call in (1, 2))
    with pytest.raises(ScheduleError, match=r"schedule-table-1 or schedule-table-2; got 'schedule-table-3'"):
        read("schedule-table-3")
    history, refreshes = "output.history", "output.refreshes"
    for name, wrong in ((history, np.zeros((2, 2, 5), np.float32)), (history, np.zeros((2, 2, 7)))):
        with pytest.raises(ScheduleError, match=r"output\.history of the table"):
            read("schedule-table-2", **{name: wrong})
    for numbers in ([1], [0, 1], [1, 3]):
        with pytest.raises(ScheduleError, match=r"output\.refreshes of the table"):
            read("schedule-table-2", **{refreshes: np.array(numbers, np.int32)})


def test_a_schedule_with_a_history_is_attached_and_taken_off(pixart: Worker) -> None:
    base = every_third(pixart, 4)
    identity = ChannelMix(np.eye(1, 5).repeat(4, axis=0))
    correction = CacheCorrection({}, {1: identity, 2: identity})
    assert torch.equal(latents_of(pixart, base, TRAIN, correction), latents_of(pixart, base, TRAIN, None))
    attach(pixart._pipe, base, inventory=pixart.inventory, tables=AppliedTables(cache_correction=correction))
    remove(pixart._pipe)
    assert cache_runtime_of(pixart._pipe) is None
