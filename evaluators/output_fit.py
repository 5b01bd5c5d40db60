"""Fitting a correction of the network's output while the corrected run goes on."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from autotune.evaluators.apply import cache_runtime_of
from autotune.evaluators.branch_store import BranchStore
from autotune.evaluators.cell_correction import channel_axis, factors_of, weighted, weights_of
from autotune.evaluators.output_corrector import RefreshHistory
from autotune.evaluators.table_fit import pair_moments
from autotune.spaces.cache_correction import OUTPUT, CacheCorrection, PairMoments
from autotune.spaces.channel_mix import MixMoments


class OutputFit:
    """Fits the output of each call that reuses something when a run gets there, and corrects it at once.

    So calls are fitted in the states that corrected calls before them lead to. What is fitted in later runs, of other
    prompts, sums up with what earlier ones saw. A line alone, or with the last refreshes and the latents.
    """

    def __init__(self, *, with_history: bool) -> None:
        self.lines: dict[int, PairMoments] = {}
        self.mixes: dict[int, MixMoments] = {}
        self._with_history = with_history

    @property
    def correction(self) -> CacheCorrection:
        """What has been fitted."""
        lines = {(row, OUTPUT): (moments.fit(),) for row, moments in self.lines.items()}
        return CacheCorrection(lines, {row: moments.fit() for row, moments in self.mixes.items()})

    def correct(
        self, row: int, output: torch.Tensor, true: torch.Tensor, parts: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Learn from an output and the true one, and give the corrected one; `parts` are those of a mix."""
        if not self._with_history:
            new = pair_moments(_rows(output), _rows(true))
            self.lines[row] = self.lines[row] + new if row in self.lines else new
            return weighted(factors_of(weights_of(self.lines[row].fit()), output), [output])
        sums = mix_moments([_rows(part) for part in parts], _rows(true))
        self.mixes[row] = self.mixes[row] + sums if row in self.mixes else sums
        return weighted(factors_of(self.mixes[row].fit().weights, output), parts)


class OutputFitting:
    """Lets an `OutputFit` learn from one run of a schedule with a cache; a `Watcher` of it."""

    def __init__(self, pipe: Any, fit: OutputFit, true: Sequence[torch.Tensor]) -> None:
        """A watcher that knows the true output of every call, see `CallRecorder`."""
        self._pipe, self._fit, self._true = pipe, fit, iter(true)
        self._reuses: Sequence[bool] = ()
        self._history = RefreshHistory(BranchStore(), 0)

    @contextlib.contextmanager
    def watching(self, scheduler: Any) -> Iterator[None]:
        """Fit and correct while the block lasts."""
        runtime = cache_runtime_of(self._pipe)
        assert runtime is not None  # the schedule has a cache
        self._reuses = runtime.reuses
        self._history = RefreshHistory(BranchStore(), len(self._reuses))
        runtime.on_output = self.correct
        try:
            yield
        finally:
            runtime.on_output = None

    def correct(self, row: int, call: int, output: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """As `OutputCorrector.correct`."""
        true = next(self._true)
        if not self._reuses[row]:
            self._history.keep(row, call, output, latents)
            return output
        return self._fit.correct(row, output, true, self._history.parts(row, call, output, latents))


def mix_moments(parts: Sequence[torch.Tensor], true: torch.Tensor) -> MixMoments:
    """The sums over rows (n, channels), in float64."""
    first = parts[0].double()
    columns = [*(part.double() for part in parts), torch.ones_like(first)]
    table = torch.stack(columns).permute(2, 1, 0)  # (channels, n, k)
    apart = (true.double() - first).T.unsqueeze(-1)
    sums = (table.mT @ table, (table.mT @ apart).squeeze(-1), (apart * apart).sum(dim=(1, 2)))
    return MixMoments(float(len(first)), *(part.cpu().numpy() for part in sums))


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """Tokens or pixels of all samples: (n, channels)."""
    return tensor.movedim(channel_axis(tensor), -1).flatten(0, -2)
