"""Fitting a cache correction: what a cache hands out in its own run, against what the default run computes there."""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.applied_tables import AppliedTables
from autotune.evaluators.apply import cache_runtime_of
from autotune.evaluators.branch_store import Value, map_tensors, second_half, tensors_of
from autotune.evaluators.cell_correction import channel_axis
from autotune.evaluators.correction_table import COLUMN, correction_tensors
from autotune.evaluators.guidance import output_tensor
from autotune.evaluators.schedule_table import TableStore
from autotune.evaluators.span import Span, Streams
from autotune.evaluators.step_hook import hooked
from autotune.evaluators.table_fit import Run, batches, mean_deviation, pair_moments, split
from autotune.spaces.cache_correction import OUTPUT, CacheCorrection, ChannelAffine, PairMoments
from autotune.spaces.cache_plan import CachePlan, cell_use
from autotune.spaces.column_fit import ColumnFit
from autotune.spaces.condition import Condition
from autotune.spaces.errors import ScheduleError
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule, canonical_schedule

MAX_POSITIONS = 1024
"""Tokens or pixels of a sample that are looked at, evenly spread."""

Moments = dict[tuple[int, int], list[PairMoments]]
"""By network call and site, one for each tensor of the value."""


class InputRecorder:
    """Keeps the latents that go into the network, call by call; to be used as a `Watcher` of one run."""

    def __init__(self, pipe: Any) -> None:
        self._denoiser = find_adapter(pipe).denoiser_of(pipe)
        self.latents: list[torch.Tensor] = []

    @contextlib.contextmanager
    def watching(self, scheduler: Any) -> Iterator[None]:
        """Record while the block lasts."""

        def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.latents.append(args[0] if args else kwargs[_first_name(module)])

        with hooked([self._denoiser.register_forward_pre_hook(note, with_kwargs=True)]):
            yield


class PairRecorder:
    """Sums over pairs of values, in a run of a schedule with a cache: handed out there, and computed in another run.

    Before each call of the network it is called once more, with everything computed, on the latents that the other run
    had in that call. So the true values of one call at a time are held, and of these at most `MAX_POSITIONS` positions
    of a sample. Outputs of the network are such pairs too, in calls that reuse something.
    """

    def __init__(
        self, pipe: Any, plan: CachePlan, inventory: Inventory, latents: list[torch.Tensor], moments: Moments
    ) -> None:
        """A recorder that adds to `moments`; `latents` are what `InputRecorder` found in the other run."""
        adapter = find_adapter(pipe)
        self._pipe, self._denoiser = pipe, adapter.denoiser_of(pipe)
        self._spans, self._inventory = adapter.list_spans(self._denoiser), inventory
        self._reads = cell_use(plan, inventory).reads
        self._latents, self._moments = iter(latents), moments
        self._is_true = False
        self._true: dict[int, Value] = {}

    @contextlib.contextmanager
    def watching(self, scheduler: Any) -> Iterator[None]:
        """Record while the block lasts."""
        runtime = cache_runtime_of(self._pipe)
        assert runtime is not None  # the schedule has a cache

        def note_output(denoiser: Any, args: Any, output: Any) -> None:
            if self._reads[runtime.row].any():
                self._note_read(runtime.row, OUTPUT, output_tensor(output), False)

        handles = [
            self._denoiser.register_forward_pre_hook(self._compute, with_kwargs=True),
            self._denoiser.register_forward_hook(note_output),
        ]
        for i, site in enumerate(self._inventory.sites):
            if self._reads[:, i].any():
                handles += self._hooks(i, site.name)
        runtime.on_read = self._note_read
        try:
            with hooked(handles):
                yield
        finally:
            runtime.on_read = None
            self._true.clear()

    def _compute(self, denoiser: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Call the network as it is, its gates being disarmed before a call, on the other run's latents."""
        latents = next(self._latents)
        if args:
            args = (latents, *args[1:])
        else:
            kwargs = kwargs | {_first_name(denoiser): latents}
        self._true.clear()
        self._is_true = True
        try:
            output = type(denoiser).forward(denoiser, *args, **kwargs)
            self._note_true(OUTPUT, output_tensor(output))
        finally:
            self._is_true = False

    def _hooks(self, site: int, name: str) -> Iterator[Any]:
        span = self._spans.get(name)
        if span is None:
            module = self._denoiser.get_submodule(name)
            yield module.register_forward_hook(lambda module, args, result: self._note_true(site, result))
            return
        opened: list[Streams] = []
        first, last = (self._denoiser.get_submodule(span.modules[i]) for i in (0, -1))
        yield first.register_forward_pre_hook(self._opening(span, first, opened), with_kwargs=True)

        def note_result(module: Any, args: Any, result: Value) -> None:
            if self._is_true:
                self._note_true(site, span.stored_form(result, opened[0]))

        yield last.register_forward_hook(note_result)

    def _opening(self, span: Span, module: Any, opened: list[Streams]) -> Callable[[Any, Any, Any], None]:
        inputs_of = span.inputs_of(module)

        def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._is_true:
                opened[:] = [inputs_of(args, kwargs)]

        return note

    def _note_true(self, site: int, value: Value) -> None:
        if self._is_true:
            self._true[site] = map_tensors(_positions, value)

    def _note_read(self, row: int, site: int, value: Value, half: bool) -> None:
        pairs = zip(tensors_of(value), tensors_of(self._true[site]), strict=True)
        new = [
            pair_moments(_positions(read).flatten(0, 1), (second_half(true) if half else true).flatten(0, 1))
            for read, true in pairs
        ]
        old = self._moments.get((row, site))
        self._moments[row, site] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]


def fit_cache_correction(
    pipe: Any,
    schedule: Schedule,
    *,
    condition: Condition,
    inventory: Inventory,
    fidelity: Fidelity,
    reference: torch.Tensor,
    run: Run,
    tables: TableStore,
    stop: Callable[[], bool] = lambda: False,
    max_image_runs: int | None = None,
) -> ColumnFit:
    """Fit the column `cache_correction` on three quarters of the prompts; the others choose, and tell what it brings.

    What is corrected is either every value that the cache hands out, or the network's output in the calls that reuse
    something: whichever brings the held-out prompts closer. Values come from the cache's own run, and the run that
    computes everything says what they should be. With both from the latter, as CacheQuant has it, deviations fell less.

    Args:
        pipe: the pipeline, without a schedule applied.
        schedule: with a cache; a correction that it has is left out, its quantization stays.
        condition: what the schedule is for.
        inventory: the sites.
        fidelity: prompts and seeds, of which the last quarter is held out; fewer than four are both.
        reference: (n, ...) final latents of the converged run.
        run: executes a schedule on a fidelity with given tables.
        tables: has the schedule's, and keeps the one that is made.
        stop: polled between batches.
        max_image_runs: what it may cost.

    Raises:
        ScheduleError: there is no cache, or no correction brings held-out prompts closer to the reference, or the runs
            or the time do not suffice.
    """
    base = canonical_schedule(schedule.before_table(COLUMN), inventory)
    given = AppliedTables.of(base, condition, tables.of(base))
    train, held_out = split(fidelity)
    # Watching pairs calls the network twice.
    image_runs = 3 * len(train.prompts) + 5 * len(held_out.prompts)
    if base.cache is None:
        raise ScheduleError("a cache correction needs a schedule that reuses something; choose one with a cache")
    if max_image_runs is not None and image_runs > max_image_runs:
        raise ScheduleError(f"the cache correction takes {image_runs} image runs; {max_image_runs} are left")
    moments, _ = _collect(pipe, base, given, inventory, batches(train, condition.batch_size, stop), run)
    others, latents = _collect(pipe, base, given, inventory, batches(held_out, condition.batch_size, stop), run)
    target = reference[-len(held_out.prompts) :]
    before = mean_deviation(latents, target)
    best, after = _best_of(
        [fit_correction(some, others) for some in _of_sites_and_of_output(moments)],
        lambda made: mean_deviation(run(base, held_out, None, replace(given, cache_correction=made)), target),
    )
    if best is None or after >= before:
        raise ScheduleError("no correction of what the cache hands out brings held-out prompts closer to the reference")
    fitted = replace(base, cache_correction=tables.make(COLUMN, base, correction_tensors(best)))
    return ColumnFit(schedule=fitted, before=before, after=after, image_runs=image_runs)


def _collect(
    pipe: Any,
    base: Schedule,
    given: AppliedTables,
    inventory: Inventory,
    some: Iterable[Fidelity],
    run: Run,
) -> tuple[Moments, torch.Tensor]:
    """Pairs of a schedule's runs on some prompts, batch by batch, and the final latents."""
    assert base.cache is not None
    moments: Moments = {}
    latents = []
    for batch in some:
        inputs = InputRecorder(pipe)
        run(replace(base, cache=None, guidance=None, quantization=None), batch, inputs, None)
        pairs = PairRecorder(pipe, base.cache, inventory, inputs.latents, moments)
        latents.append(run(base, batch, pairs, given))
    return moments, torch.cat(latents)


def _of_sites_and_of_output(moments: Moments) -> tuple[Moments, Moments]:
    sites = {cell: parts for cell, parts in moments.items() if cell[1] != OUTPUT}
    return sites, {cell: parts for cell, parts in moments.items() if cell[1] == OUTPUT}


def _best_of(
    corrections: Sequence[CacheCorrection], deviation: Callable[[CacheCorrection], float]
) -> tuple[CacheCorrection | None, float]:
    """The correction of least deviation, and that; None where none corrects anything."""
    found = [(deviation(made), made) for made in corrections if made.cells]
    if not found:
        return None, float("inf")
    least, best = min(found, key=lambda pair: pair[0])
    return best, least


def fit_correction(moments: Moments, held_out: Moments) -> CacheCorrection:
    """Least squares for each tensor of each cell; one that does not lower the error of held-out pairs is left out."""
    cells: dict[tuple[int, int], tuple[ChannelAffine | None, ...]] = {}
    for cell, parts in moments.items():
        lines = []
        for part, other in zip(parts, held_out[cell], strict=True):
            line = part.fit()
            lines.append(line if other.error(line) < other.error() else None)
        if any(line is not None for line in lines):
            cells[cell] = tuple(lines)
    return CacheCorrection(cells)


def _first_name(denoiser: Any) -> str:
    return list(inspect.signature(type(denoiser).forward).parameters)[1]


def _positions(tensor: torch.Tensor) -> torch.Tensor:
    """Values at some positions: (n, positions, channels), a copy."""
    if channel_axis(tensor) == 1:
        tensor = tensor.flatten(2).transpose(1, 2)
    tensor = tensor.unsqueeze(1) if tensor.ndim == 2 else tensor
    step = -(-tensor.shape[1] // MAX_POSITIONS)
    return tensor[:, ::step].clone()
