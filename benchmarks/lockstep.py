"""Runs of several pipelines in lockstep: steps of one, then steps of another, so that all see the same machine.

A shared processor's speed wanders by tenths within a second, and two runs one after the other see different speeds.
But a step that finds another pipeline's values in the processor's cache is slower than one after its own kind.
"""

import contextlib
import functools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from autotune.evaluators.override import Overrides

Run = Callable[["Turns"], float]
"""Makes a run while `Turns.watching` watches its scheduler; the seconds from its begin to its end."""


def lockstep_seconds(runs: Sequence[Run], n_steps: Sequence[int], at_once: int = 1) -> list[float]:
    """Seconds of each run, the waiting for others left out; `n_steps` are the steps that each will make.

    Each run needs a pipeline of its own. The next `at_once` steps are of the run that has done the smallest share.
    """
    order = _Order(n_steps, at_once)
    with ThreadPoolExecutor(len(runs)) as pool:
        return [future.result() for future in [pool.submit(order.take, i, run) for i, run in enumerate(runs)]]


class _Order:
    """Whose turn it is."""

    def __init__(self, n_steps: Sequence[int], at_once: int) -> None:
        self._n_steps, self._at_once = n_steps, at_once
        self._steps = [0] * len(n_steps)
        self._done = [0.0] * len(n_steps)
        self._changed = threading.Condition()

    def take(self, i: int, run: Run) -> float:
        """Make a run; its seconds."""
        turns = Turns(functools.partial(self._yield, i))
        try:
            self.await_turn(i)
            return run(turns) - turns.waited_s
        finally:
            self._note(i, math.inf)

    def await_turn(self, i: int) -> None:
        """Return when no other run has done a smaller share."""
        with self._changed:
            self._changed.wait_for(lambda: min(range(len(self._done)), key=self._done.__getitem__) == i)

    def _yield(self, i: int) -> None:
        self._steps[i] += 1
        if self._steps[i] % self._at_once == 0:
            self._note(i, self._steps[i] / self._n_steps[i])
            self.await_turn(i)

    def _note(self, i: int, done: float) -> None:
        with self._changed:
            self._done[i] = done
            self._changed.notify_all()


class Turns:
    """Lets the others go on after each step of one run's scheduler."""

    def __init__(self, let_others: Callable[[], None]) -> None:
        self._let_others = let_others
        self.waited_s = 0.0

    @contextlib.contextmanager
    def watching(self, scheduler: Any) -> Iterator[None]:
        """Watch a run of this scheduler; afterwards it is as it was."""
        step = scheduler.step

        @functools.wraps(step)
        def in_turn(*args: Any, **kwargs: Any) -> Any:
            result = step(*args, **kwargs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            began = time.perf_counter()
            self._let_others()
            self.waited_s += time.perf_counter() - began
            return result

        overrides = Overrides()
        overrides.set(scheduler, "step", in_turn)
        try:
            yield
        finally:
            overrides.undo()
