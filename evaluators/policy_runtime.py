"""What every cache policy does on a denoiser: decide per network call, count what was computed, leave no state."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from autotune.evaluators.override import Overrides
from autotune.spaces.inventory import Inventory


@dataclass(slots=True)
class PolicyUsage:
    """What the runs since the policy was attached have computed; a row is one entry of a batch, of one branch."""

    rows: int = 0
    computed: int = 0
    macs: int = 0

    @property
    def computed_calls(self) -> float:
        """Mean number of calls per run that were computed to the last block."""
        return self.computed / max(1, self.rows)

    @property
    def macs_per_row(self) -> float:
        """Mean multiply-accumulates of a run, for one row of the batch."""
        return self.macs / max(1, self.rows)


class PolicyRuntime(ABC):
    """One policy on one denoiser. One decision holds for a whole batch, the branches of guidance included.

    Guidance in two calls keeps two states, by the ordinal of the call within its row. Without the values that a skip
    needs, a call is computed.
    """

    def __init__(self, inventory: Inventory) -> None:
        self.usage = PolicyUsage()
        self._inventory = inventory
        self._timesteps: tuple[float, ...] = ()
        self._fresh = True

    def begin(self, timesteps: Sequence[float]) -> None:
        """Begin a run whose network calls are at these model timesteps."""
        self._timesteps, self._fresh = tuple(timesteps), True

    @abstractmethod
    def install(self, denoiser: Any, overrides: Overrides) -> None:
        """Put the policy on the modules of a denoiser; `overrides` takes it back."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all values, as at the start of a run."""

    @abstractmethod
    def run(self, original: Callable[..., Any], args: Any, kwargs: Any, *, row: int, call: int, batch: int) -> Any:
        """The denoiser's output for the `call`-th call of a row, of a batch of so many rows, computed or not."""

    def leave(self) -> None:
        """A network call has ended, or failed; most policies hold nothing for one."""
        return

    def see_step(self, output: torch.Tensor, sample: torch.Tensor, result: Any) -> None:
        """The scheduler has stepped from `sample` with the guided `output` to `result`; most policies don't look."""
        return

    def _count(self, *, call: int, batch: int, macs: int, computed: bool) -> None:
        if self._fresh:
            self.usage.rows += batch
            self._fresh = False
        self.usage.macs += macs * batch
        self.usage.computed += batch * (computed and call == 0)
