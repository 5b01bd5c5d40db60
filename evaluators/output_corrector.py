"""Correcting the network's output in calls that reuse something, by a line or by what the last refreshes had, too."""

from collections.abc import Sequence

import torch

from autotune.evaluators.branch_store import BranchStore
from autotune.evaluators.cell_correction import CellCorrection, channel_axis
from autotune.spaces.cache_correction import OUTPUT, CacheCorrection
from autotune.spaces.channel_mix import N_REFRESHES


class RefreshHistory:
    """Outputs and latents of the last calls that reused nothing, kept in the store of a cache and counted there."""

    def __init__(self, store: BranchStore, last_row: int) -> None:
        """A history that nobody reads after `last_row`."""
        self._store, self._last_row = store, last_row

    def keep(self, row: int, call: int, output: torch.Tensor, latents: torch.Tensor) -> None:
        """Note a refresh; `call` is the ordinal within the row."""
        if row < self._last_row:
            value = (output, _of_channels(latents, output))
            self._store.write(("refresh", call), row, value, half=False, keep=(N_REFRESHES, N_REFRESHES))

    def parts(self, row: int, call: int, output: torch.Tensor, latents: torch.Tensor) -> list[torch.Tensor]:
        """What a `ChannelMix` weighs in a call that reuses something, without the 1; refreshes newest first."""
        key = ("refresh", call)
        past = [tensor for value in self._store.newest(key) for tensor in value]
        if row == self._last_row:
            self._store.trim(key, (0, 0))
        return [output, _of_channels(latents, output), *past]


class OutputCorrector:
    """Applies the part of a `CacheCorrection` that is for the output."""

    def __init__(self, correction: CacheCorrection, reuses: Sequence[bool], store: BranchStore) -> None:
        """A corrector of a plan whose rows reuse something or not."""
        self._cells, self._mixes, self._reuses = CellCorrection(correction), correction.history, reuses
        self._history = RefreshHistory(store, max(self._mixes, default=-1))

    def correct(self, row: int, call: int, output: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """The output of one network call, whole batch, from these latents."""
        if not self._reuses[row]:
            self._history.keep(row, call, output, latents)
            return output
        if row not in self._mixes:
            corrected: torch.Tensor = self._cells.apply(row, OUTPUT, output)
            return corrected
        parts = self._history.parts(row, call, output, latents)
        n_parts = 2 + 2 * self._mixes[row].n_refreshes
        if len(parts) < n_parts:  # the run began in the middle, and nothing was handed out
            return output
        return self._cells.mixed(row, OUTPUT, parts[:n_parts])


def _of_channels(latents: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """As many channels of the latents as the output has: what else the network reads stands behind, or 0 is added.

    A network that also returns variances has more of them than the latents, and pipelines leave these out.
    """
    axis, n = channel_axis(output) % output.ndim, output.shape[channel_axis(output)]
    latents = latents.narrow(axis, 0, min(n, latents.shape[axis]))
    if latents.shape[axis] == n:
        return latents
    shape = [n - size if a == axis else size for a, size in enumerate(latents.shape)]
    return torch.cat([latents, latents.new_zeros(shape)], dim=axis)
