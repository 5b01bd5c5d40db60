"""Timings of the pipeline's default run, which every latency is held against."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from autotune.spaces.evaluation import Fidelity

BASELINE_SHARE = 1 / 15
"""Share of the scoring time that goes into re-timing the baseline between candidates, all sizes together."""

N_RECENT = 3


@dataclass(slots=True)
class _Timings:
    """Recent timings in milliseconds per image, and when the next one is due."""

    recent_ms: deque[float] = field(default_factory=lambda: deque(maxlen=N_RECENT))
    due: float = 0.0


class BaselineTiming:
    """Times the default run again and again, apart for each size of a batch: an image of a larger one takes less.

    `run` times one call over the first batch of a fidelity, in milliseconds per image.
    """

    def __init__(self, run: Callable[[Fidelity], float], batch_size: int) -> None:
        self._run, self._batch_size = run, batch_size
        self._by_batch: dict[int, _Timings] = {}

    def refresh(self, fidelity: Fidelity) -> float:
        """Time it now: milliseconds per image."""
        timings = self._of(fidelity)
        if not timings.recent_ms:
            self._run(fidelity)  # warm-up: the first run allocates and picks kernels
        began = time.monotonic()
        ms = self._run(fidelity)
        timings.recent_ms.append(ms)
        now = time.monotonic()
        timings.due = now + len(self._by_batch) * (now - began) / BASELINE_SHARE
        return ms

    def recent(self, fidelity: Fidelity) -> list[float]:
        """The last timings, with a new one among them where it is due."""
        timings = self._of(fidelity)
        if time.monotonic() >= timings.due:
            self.refresh(fidelity)
        return list(timings.recent_ms)

    def _of(self, fidelity: Fidelity) -> _Timings:
        return self._by_batch.setdefault(min(self._batch_size, len(fidelity.prompts)), _Timings())
