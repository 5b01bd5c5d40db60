"""One process's part of a study."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from autotune.search.progress import Progress
from autotune.spaces.errors import UsageError

MIN_REPORT_S, MAX_REPORT_S = 3.0, 8.5
"""Seconds that a report, and the end of the process, take where no processes wait for a core."""


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """What belongs to one process's part of a study and is not kept.

    The wall budget counts from `start`, a value of `time.monotonic()`. `interrupt` is polled between candidates; once
    true, the picks are verified and the study stops, resumable. `on_start` is told the study's name once the database
    keeps it, from when on it can be resumed. Several `workers`, or those of a Ray cluster at `ray_address`, are
    processes of their own. With `writes_report` a budget of time covers the report that the caller writes afterwards.
    """

    start: float = field(default_factory=time.monotonic)
    progress: Progress | None = None
    interrupt: Callable[[], bool] = lambda: False
    on_start: Callable[[str], None] = lambda name: None
    workers: int = 1
    ray_address: str | None = None
    writes_report: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"the number of workers must be at least 1; got {self.workers}")

    def report_s(self, start_up_s: float) -> float:
        """Seconds of a budget of time to keep for the report, 0 if there will be none.

        Both take longer on a slow machine: 3.1 and 3.6 s after start-ups of 16 s. But a long start-up may have waited
        for the disk. How many processes share a core says how much longer it takes.
        """
        if not self.writes_report:
            return 0.0
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        crowding = max(1.0, load / (os.cpu_count() or 1))
        alone_s = min(MAX_REPORT_S, 2.8 + 0.14 * start_up_s)
        return min(alone_s * crowding, max(MIN_REPORT_S, 0.8 * start_up_s))
