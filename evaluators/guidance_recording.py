"""How much the guidance branches' differences have in common from call to call, watched during default runs."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.branch_store import first_half, second_half
from autotune.evaluators.guidance import output_tensor
from autotune.evaluators.leaf_errors import thinned_samples
from autotune.evaluators.step_hook import before_each_step, hooked
from autotune.spaces.errors import EvaluatorError


class DifferenceRecorder:
    """Sums up the inner products of the differences c - u of all pairs of calls, for `fitted_guidance`.

    Some thousand elements of each sample are looked at (`thinned_samples`) and kept for one run. Of several network
    calls in a step the first one counts, or the first two, the conditional one before the other, if each branch is one.
    """

    def __init__(self, pipe: Any, n_channels: int, n_calls: int) -> None:
        """A recorder of runs of `n_calls`; `n_channels` are the latents', without a learned variance."""
        self._pipe, self._n_channels, self._n_calls = pipe, n_channels, n_calls
        self._in_one_batch = find_adapter(pipe).guidance == "batch"
        self._differences: list[torch.Tensor] = []
        self._conditional: torch.Tensor | None = None
        self._now: torch.Tensor | None = None
        self._gram = np.zeros((n_calls, n_calls))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Record the runs made inside the block."""
        denoiser = find_adapter(self._pipe).denoiser_of(self._pipe)
        handles = [denoiser.register_forward_hook(self._note)]
        with hooked(handles), before_each_step(self._pipe.scheduler, self._feed):
            yield

    def gram(self) -> NDArray[np.float64]:
        """Inner products (n_calls, n_calls), summed over the samples of all runs.

        Raises:
            EvaluatorError: no run was recorded, or the last one is not complete.
        """
        if self._differences or not self._gram.any():
            raise EvaluatorError(
                f"fitted guidance needs complete guided runs of {self._n_calls} calls; got {len(self._differences)} of "
                "the last; feed the rest"
            )
        return self._gram

    def _note(self, module: Any, args: Any, output: Any) -> None:
        if self._now is not None:
            return
        tensor = output_tensor(output)[:, : self._n_channels]
        if self._in_one_batch:
            self._now = thinned_samples(second_half(tensor) - first_half(tensor)).flatten()
        elif self._conditional is None:
            self._conditional = thinned_samples(tensor)
        else:
            self._now = (self._conditional - thinned_samples(tensor)).flatten()

    def _feed(self) -> None:
        assert self._now is not None
        self._differences.append(self._now)
        self._conditional = self._now = None
        if len(self._differences) == self._n_calls:
            run = torch.stack(self._differences).cpu().double()
            self._gram += (run @ run.T).numpy()
            self._differences = []
