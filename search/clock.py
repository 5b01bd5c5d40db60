"""Time as an argument, so that a study can run on a simulated clock."""

import time
from typing import Protocol


class Clock(Protocol):
    """Tells seconds since some fixed moment; never goes back."""

    def now(self) -> float:
        """Seconds."""
        ...


class SystemClock:
    """Monotonic time of the machine, in seconds since `start`.

    `start` is a value of `time.monotonic()`: give the process's first one and the budget counts start-up too.
    """

    def __init__(self, start: float | None = None) -> None:
        self._start = time.monotonic() if start is None else start

    def now(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start


class SimulatedClock:
    """A number that moves when it is told to."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """Simulated seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        if not seconds >= 0.0:
            raise ValueError(f"time only moves forward; got {seconds} s")
        self._now += seconds
