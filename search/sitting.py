"""One process's part of a study."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from autotune.search.progress import Progress


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
