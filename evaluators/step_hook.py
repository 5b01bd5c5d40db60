"""What is done at every step of a scheduler, or in modules, for the time of a recording."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils.hooks import RemovableHandle

from autotune.evaluators.override import Overrides


@contextlib.contextmanager
def before_each_step(scheduler: Any, action: Callable[[], None]) -> Iterator[None]:
    """Call `action` before each step, inside the block; afterwards the scheduler is as it was."""
    step, overrides = scheduler.step, Overrides()

    @functools.wraps(step)
    def watched(*args: Any, **kwargs: Any) -> Any:
        action()
        return step(*args, **kwargs)

    overrides.set(scheduler, "step", watched)
    try:
        yield
    finally:
        overrides.undo()


@contextlib.contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Have these hooks of modules inside the block; afterwards they are removed."""
    handles = list(handles)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
