"""What fewer bits do to each layer: scored once in the default run, and then solved for any mean of bits.

A layer's sensitivity is what the network puts out otherwise when this layer alone has weights of few bits, from the
same input. It is measured, a network call per layer, since errors of the layers' own outputs, relative to these, say
little of it: they are least where outputs are large, which is where they do most. On mini-pixart in 20 steps W8A8
deviates from the converged run by .073 and W4A8 by .183; 7, 6 and 5 bits on average by .147, .131 and .154 when layers
are chosen by their own errors, and by .096, .102 and .124 as here.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.guidance import output_tensor
from autotune.evaluators.layer_grids import LOW, LayerGrids
from autotune.evaluators.reference import ArtifactCache
from autotune.evaluators.step_hook import hooked
from autotune.evaluators.table_fit import Run, batches
from autotune.spaces.condition import Condition
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.inventory import Inventory
from autotune.spaces.schedule import Schedule

PROTOCOL = "2"
"""Version of the code that scores."""

N_PROMPTS, N_CALLS = 2, 4
"""What is looked at: the first prompts, and calls evenly spread. Those of 12 prompts in 8 calls agree to .997 (the
correlation of logarithms, mini-pixart)."""


class BitSensitivities:
    """The sensitivities of one pipeline's layers to `LOW` bits, under one condition."""

    def __init__(
        self,
        pipe: Any,
        condition: Condition,
        inventory: Inventory,
        n_calls: int,
        run: Run,
        artifacts: ArtifactCache | None,
    ) -> None:
        """Sensitivities in runs of `n_calls`; `artifacts` keep them between processes."""
        self._pipe, self._condition, self._n_calls, self._run = pipe, condition, n_calls, run
        self.grids = LayerGrids(pipe, Schedule(n_steps=condition.n_steps), inventory, run)
        self._artifacts = artifacts
        self._known: dict[str, dict[str, float]] = {}

    def image_runs(self, fidelity: Fidelity) -> int:
        """What `of` will cost: a run of some prompts, and a call per layer in some of its calls; 0 if it is known."""
        if self._find(fidelity) is not None:
            return 0
        rows = self._rows()
        return round(len(self._some(fidelity).prompts) * (1 + len(self.grids.inner) * len(rows) / self._n_calls))

    def of(self, fidelity: Fidelity, stop: Callable[[], bool] = lambda: False) -> Mapping[str, float]:
        """The squared error of the network's output over its square, by layer in blocks.

        Raises:
            ScheduleError: `stop` says that the time is over.
        """
        known = self._find(fidelity)
        if known is None:
            recorder = _OutputErrors(self._pipe, self.grids, self._rows(), self._n_calls)
            for batch in batches(self._some(fidelity), 1, stop):
                self._run(Schedule(n_steps=self._condition.n_steps), batch, recorder, None)
            self._known[fidelity.hash] = known = recorder.errors
            if self._artifacts is not None:
                self._artifacts.save(self._name(fidelity), json.dumps(known).encode(), "sensitivity")
        return known

    def _some(self, fidelity: Fidelity) -> Fidelity:
        return fidelity.first(min(N_PROMPTS, len(fidelity.prompts)))

    def _rows(self) -> frozenset[int]:
        return frozenset(np.linspace(0, self._n_calls - 1, N_CALLS).round().astype(int).tolist())

    def _find(self, fidelity: Fidelity) -> dict[str, float] | None:
        if fidelity.hash not in self._known and self._artifacts is not None:
            stored = self._artifacts.load(self._name(fidelity))
            if stored is not None:
                self._known[fidelity.hash] = json.loads(stored)
        return self._known.get(fidelity.hash)

    def _name(self, fidelity: Fidelity) -> str:
        return f"sensitivity/{PROTOCOL}/{self._condition.hash}/{fidelity.hash}"


class _OutputErrors:
    """Compares what a network puts out with what it would with `LOW` bits in one layer; a `Watcher`.

    One layer's weights are made at a time, so that the network is not there twice.
    `errors` are sums over the rows of a run that are looked at, and over runs. Where branches are calls of their own, a
    row is one of them.
    """

    def __init__(self, pipe: Any, grids: LayerGrids, rows: frozenset[int], n_calls: int) -> None:
        self.errors = dict.fromkeys(grids.inner, 0.0)
        self._denoiser = find_adapter(pipe).denoiser_of(pipe)
        self._grids, self._rows, self._n_calls = grids, rows, n_calls
        self._row = 0

    @contextlib.contextmanager
    def watching(self, scheduler: Any) -> Iterator[None]:
        """Record while the block lasts."""
        with hooked([self._denoiser.register_forward_hook(self._note, with_kwargs=True)]):
            yield

    def _note(self, denoiser: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        row, self._row = self._row, (self._row + 1) % self._n_calls
        if row not in self._rows:
            return
        true = output_tensor(output).double()
        size = float(true.square().sum())
        for name in self._grids.inner:
            layer = self._grids.layers[name]
            own = layer._parameters["weight"]
            layer._parameters["weight"] = self._grids.on_grid(name, LOW)  # type: ignore[assignment]
            try:
                other = output_tensor(denoiser.forward(*args, **kwargs)).double()
            finally:
                layer._parameters["weight"] = own
            self.errors[name] += float((other - true).square().sum()) / size if size else 0.0
