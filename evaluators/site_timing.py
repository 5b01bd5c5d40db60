"""Timers on an unmodified pipeline: what each step of its scheduler takes, and what each site of its denoiser takes."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autotune.evaluators.branch_store import value_bytes
from autotune.evaluators.gate import override_call
from autotune.evaluators.guidance import output_tensor
from autotune.evaluators.override import Overrides
from autotune.evaluators.span import Span
from autotune.evaluators.step_hook import hooked
from autotune.spaces.inventory import Inventory, Relation
from autotune.spaces.site_tree import SiteTree

Mark = Any
"""A moment: seconds of a clock, or an event in the device's stream."""


class DeviceClock:
    """Notes moments without waiting for the device: events on CUDA, `perf_counter` elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> Mark:
        """This moment, in the order of what the device was given to do."""
        if self._device.type != "cuda":
            return time.perf_counter()
        event: Mark = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def seconds(self, earlier: Mark, later: Mark) -> float:
        """Between two moments; waits for the later one."""
        if self._device.type != "cuda":
            return float(later - earlier)
        later.synchronize()
        return float(earlier.elapsed_time(later)) / 1000.0


class StepTimer:
    """Notes when each step of a scheduler begins and ends; one run."""

    def __init__(self, clock: DeviceClock) -> None:
        self._clock = clock
        self._begins: list[Mark] = []
        self._ends: list[Mark] = []

    @contextlib.contextmanager
    def watching(self, scheduler: Any) -> Iterator[None]:
        """Time a run of this scheduler; afterwards it is as it was."""
        step = scheduler.step

        @functools.wraps(step)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._begins.append(self._clock.mark())
            result = step(*args, **kwargs)
            self._ends.append(self._clock.mark())
            return result

        overrides = Overrides()
        overrides.set(scheduler, "step", timed)
        try:
            yield
        finally:
            overrides.undo()

    def step_seconds(self) -> float:
        """Median seconds of a step, the network's call before it left out."""
        return float(np.median([self._clock.seconds(a, b) for a, b in zip(self._begins, self._ends, strict=True)]))

    def call_seconds(self) -> NDArray[np.float64]:
        """Seconds from the end of a step to that of the next: (n_calls - 1,)."""
        pairs = zip(self._ends, self._ends[1:], strict=False)
        return np.array([self._clock.seconds(before, after) for before, after in pairs])


class SiteTimer(StepTimer):
    """Notes besides what each site takes, in which order the sites end, and how large their values are.

    A site that covers several modules lasts from the beginning of the first to the end of the last one. What else a
    cache saves with a leaf counts as the leaf's: the norms that it reads, what lies between the last of these and the
    leaf, and between the leaves that feed it.
    """

    def __init__(
        self,
        clock: DeviceClock,
        denoiser: Any,
        inventory: Inventory,
        spans: Mapping[str, Span],
        norms: Mapping[str, Sequence[str]],
    ) -> None:
        super().__init__(clock)
        self._denoiser, self._inventory, self._spans = denoiser, inventory, spans
        names, sites = [site.name for site in inventory.sites], inventory.sites
        parents = [site.parent if site.relation is Relation.FEEDS else None for site in sites]
        self._fed = [i if parent is None else parent for i, parent in enumerate(parents)]
        """By site, the one that it feeds, or itself."""
        self._norms = {path: self._fed[names.index(readers[0])] for path, readers in norms.items()}
        self._prepared: dict[int, Mark] = {}
        """When the last norm or feeding leaf ended, of leaves that have not begun."""
        self._began: dict[int, Mark] = {}
        self._lasted: list[tuple[int, int, Mark, Mark]] = []
        self._order: list[int] = []
        self._sizes: list[list[int]] = [[] for _ in inventory.sites]
        self._output_bytes = 0

    @contextlib.contextmanager
    def watching(self, scheduler: Any) -> Iterator[None]:
        """Time a run; afterwards scheduler and denoiser are as they were."""
        overrides = Overrides()
        try:
            for i, site in reversed(list(enumerate(self._inventory.sites))):  # a span ends after those inside it
                modules = self._spans[site.name].modules if site.name in self._spans else (site.name,)
                for path in dict.fromkeys((modules[0], modules[-1])):
                    module = self._denoiser.get_submodule(path)
                    timed = functools.partial(self._timed, i, first=path == modules[0], last=path == modules[-1])
                    override_call(module, overrides, timed)
            for path, reader in self._norms.items():
                override_call(
                    self._denoiser.get_submodule(path), overrides, functools.partial(self._timed_norm, reader)
                )
            handles = [self._denoiser.register_forward_hook(self._note_output)]
            with hooked(handles), super().watching(scheduler):
                yield
        finally:
            overrides.undo()

    def _note_output(self, module: Any, args: Any, output: Any) -> None:
        self._output_bytes = output_tensor(output).nbytes

    def _timed(self, site: int, original: Callable[..., Any], *, first: bool, last: bool) -> Callable[..., Any]:
        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            step, fed = len(self._ends), self._fed[site]
            if first:
                began = self._began[site] = self._clock.mark()
                if fed in self._prepared:
                    self._lasted.append((step, fed, self._prepared.pop(fed), began))
            result = original(*args, **kwargs)
            if last:
                ended = self._clock.mark()
                self._lasted.append((step, site, self._began[site], ended))
                if fed != site:
                    self._prepared[fed] = ended
                if step == 0:
                    self._order.append(site)
                    self._sizes[site].append(value_bytes(result))
            return result

        return forward

    def _timed_norm(self, site: int, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            began = self._clock.mark()
            result = original(*args, **kwargs)
            ended = self._prepared[site] = self._clock.mark()
            self._lasted.append((len(self._ends), site, began, ended))
            return result

        return forward

    def site_seconds(self) -> NDArray[np.float64]:
        """Median seconds per step of each site, those inside it left out: (n_sites,)."""
        n_steps, sites = len(self._ends), self._inventory.sites
        seconds = np.zeros((n_steps, len(sites)))
        for step, site, before, after in self._lasted:
            seconds[step, site] += self._clock.seconds(before, after)
        nanoseconds = np.rint(1e9 * np.median(seconds, axis=0)).astype(int).tolist()
        inside = [site.relation is Relation.INSIDE for site in sites]
        own = SiteTree.of([site.parent for site in sites], inside, nanoseconds).own_macs
        return np.asarray(np.maximum(own, 0) / 1e9)

    def value_bytes(self) -> tuple[tuple[int, ...], ...]:
        """Bytes of each site's value, one row per network call of a step."""
        n_calls = max(map(len, self._sizes))
        return tuple(tuple(sizes[call] for sizes in self._sizes) for call in range(n_calls))

    def difference_bytes(self) -> int:
        """Bytes of a difference of the guidance branches: half of a batch of both, or the output of one's own call."""
        return self._output_bytes // (1 if len(self.value_bytes()) > 1 else 2)

    def order(self) -> tuple[int, ...]:
        """The sites in the order in which they end."""
        return tuple(dict.fromkeys(self._order))
