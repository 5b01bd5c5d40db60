"""Ctrl-C once finishes the candidate and stops; twice stops at once. SIGTERM counts as a Ctrl-C."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

RETRY_S = 0.05
"""A signal in the middle of an import comes again after so long."""


class Interrupt:
    """While open, a first SIGINT or SIGTERM only makes the call true; a second one raises KeyboardInterrupt.

    Before `arm` is called the first one raises as well: there is no candidate to finish yet. In the middle of an import
    it waits for the end: an exception in a library's C++ code would abort the process. `notify` is called within the
    signal handler, so it must not print through a buffered stream, which refuses to be entered twice.
    """

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        self._armed = self._requested = False
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

    def arm(self) -> None:
        """From now on a first signal is a request."""
        self._armed = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._armed and _is_importing(frame):
            timer = threading.Timer(RETRY_S, os.kill, (os.getpid(), number))
            timer.daemon = True
            timer.start()
            return
        if self._requested or not self._armed:
            raise KeyboardInterrupt
        self._requested = True
        self._notify()


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None
