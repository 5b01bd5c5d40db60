"""Watching what a cache hands out, against what the default run computes there."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.apply import cache_runtime_of
from autotune.evaluators.branch_store import Value, map_tensors, second_half, tensors_of
from autotune.evaluators.cell_correction import CellCorrection, channel_axis
from autotune.evaluators.guidance import output_tensor
from autotune.evaluators.span import Span, Streams
from autotune.evaluators.step_hook import hooked
from autotune.evaluators.table_fit import pair_moments
from autotune.spaces.cache_correction import CacheCorrection, ChannelAffine, PairMoments
from autotune.spaces.cache_plan import CachePlan, cell_use
from autotune.spaces.inventory import Inventory

MAX_POSITIONS = 1024
"""Tokens or pixels of a sample that are looked at, evenly spread."""

MIN_PAIRS = 16
"""Fewer say too little of a line."""

Moments = dict[tuple[int, int], list[PairMoments]]
"""By network call and site, one for each tensor of the value."""


class CallRecorder:
    """Keeps the latents that go into the network, and its outputs, by call; to be used as a `Watcher` of one run."""

    def __init__(self, pipe: Any) -> None:
        self._denoiser = find_adapter(pipe).denoiser_of(pipe)
        self.latents: list[torch.Tensor] = []
        self.outputs: list[torch.Tensor] = []

    @contextlib.contextmanager
    def watching(self, scheduler: Any) -> Iterator[None]:
        """Record while the block lasts."""

        def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.latents.append(args[0] if args else kwargs[_first_name(module)])

        def note_output(module: Any, args: tuple[Any, ...], output: Any) -> None:
            self.outputs.append(output_tensor(output))

        before = self._denoiser.register_forward_pre_hook(note, with_kwargs=True)
        with hooked([before, self._denoiser.register_forward_hook(note_output)]):
            yield


class PairRecorder:
    """Sums over pairs of values, in a run of a schedule with a cache: handed out there, and computed in another run.

    Before each call of the network it is called once more, with everything computed, on the latents that the other run
    had in that call. So the true values of one call at a time are held, and of these at most `MAX_POSITIONS` positions
    of a sample. Handed out is the value corrected by the line of all pairs so far: what comes after is seen as it will
    be once the correction is applied.
    """

    def __init__(
        self, pipe: Any, plan: CachePlan, inventory: Inventory, latents: list[torch.Tensor], moments: Moments
    ) -> None:
        """A recorder that adds to `moments`; `latents` are what `CallRecorder` found in the other run."""
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

        handles = [self._denoiser.register_forward_pre_hook(self._compute, with_kwargs=True)]
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
            type(denoiser).forward(denoiser, *args, **kwargs)
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

    def _note_read(self, row: int, site: int, value: Value, half: bool) -> Value:
        pairs = zip(tensors_of(value), tensors_of(self._true[site]), strict=True)
        new = [
            pair_moments(_positions(read).flatten(0, 1), (second_half(true) if half else true).flatten(0, 1))
            for read, true in pairs
        ]
        old = self._moments.get((row, site))
        self._moments[row, site] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]
        return CellCorrection(CacheCorrection({(row, site): lines_of(self._moments[row, site])})).apply(
            row, site, value
        )


def lines_of(moments: Sequence[PairMoments]) -> tuple[ChannelAffine | None, ...]:
    """The line of each tensor of a value; None where there are too few pairs for one."""
    return tuple(part.fit() if part.count >= MIN_PAIRS else None for part in moments)


def _first_name(denoiser: Any) -> str:
    return list(inspect.signature(type(denoiser).forward).parameters)[1]


def _positions(tensor: torch.Tensor) -> torch.Tensor:
    """Values at some positions: (n, positions, channels), a copy."""
    if channel_axis(tensor) == 1:
        tensor = tensor.flatten(2).transpose(1, 2)
    tensor = tensor.unsqueeze(1) if tensor.ndim == 2 else tensor
    step = -(-tensor.shape[1] // MAX_POSITIONS)
    return tensor[:, ::step].clone()
