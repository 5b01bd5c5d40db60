"""Ctrl-C once finishes the candidate and stops; twice stops at once. SIGTERM counts as a Ctrl-C."""

import os
import signal
from types import FrameType, TracebackType
from typing import Self

STDERR = 2


class Interrupt:
    """While open, a first SIGINT or SIGTERM only makes `requested` true; a second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self._requested = False
        self._old: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._old[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def __call__(self) -> bool:
        """Whether the study should stop after the candidate in flight."""
        return self._requested

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
        # Not print: the signal may have come in the middle of one, and buffered streams refuse to be entered twice.
        os.write(STDERR, b"\nfinishing the candidate, then saving; once more stops at once\n")
