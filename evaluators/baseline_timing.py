"""Timings of the pipeline's default run, which every latency is held against."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from autotune.evaluators.sampling import RunCost
from autotune.spaces.evaluation import Fidelity

BASELINE_SHARE = 1 / 15
"""Share of the scoring time that goes into re-timing the baseline between candidates, all sizes together."""

N_RECENT = 3


@dataclass(slots=True)
class _Timings:
    """Recent timings, and when the next one is due."""

    recent: deque[RunCost] = field(default_factory=lambda: deque(maxlen=N_RECENT))
    due: float = 0.0


class BaselineTiming:
    """Times the default run again and again, apart for each size of a batch: an image of a larger one takes less.

    `run` times one call over the first batch of a fidelity.
    """

    def __init__(self, run: Callable[[Fidelity], RunCost], batch_size: int) -> None:
        self._run, self._batch_size = run, batch_size
        self._by_batch: dict[int, _Timings] = {}

    def refresh(self, fidelity: Fidelity) -> RunCost:
        """Time it now."""
        timings = self._of(fidelity)
        if not timings.recent:
            self._run(fidelity)  # warm-up: the first run allocates and picks kernels
        began = time.monotonic()
        cost = self._run(fidelity)
        timings.recent.append(cost)
        now = time.monotonic()
        timings.due = now + len(self._by_batch) * (now - began) / BASELINE_SHARE
        return cost

    def recent(self, fidelity: Fidelity) -> list[RunCost]:
        """The last timings, with a new one among them where it is due."""
        timings = self._of(fidelity)
        if time.monotonic() >= timings.due:
            self.refresh(fidelity)
        return list(timings.recent)

    def _of(self, fidelity: Fidelity) -> _Timings:
        return self._by_batch.setdefault(min(self._batch_size, len(fidelity.prompts)), _Timings())
