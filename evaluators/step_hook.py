"""Something that is done at every step of a scheduler, for the time of a recording."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

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
