"""Which row of the schedule a network call belongs to, told by the scheduler."""

import functools
from collections.abc import Callable
from typing import Any

from autotune.evaluators.guidance import NOT_GUIDED
from autotune.evaluators.override import Overrides
from autotune.spaces.errors import ScheduleMismatchError


class RunClock:
    """Follows one scheduler: `set_timesteps` begins a run at row 0, every `step` moves to the next row.

    Network calls are never counted, so guidance in two calls, or PNDM's extra step, can't shift the rows. A run that
    begins later (image to image) begins at the scheduler's `begin_index`. `on_begin` is called when a run begins,
    `on_end` after its last row, when its progress bar closes, and before the next run in any case.
    """

    def __init__(
        self, *, n_steps: int, n_rows: int | None, on_begin: Callable[[], None], on_end: Callable[[], None]
    ) -> None:
        self._n_steps, self._n_rows = n_steps, n_rows
        self._on_begin, self._on_end = on_begin, on_end
        self._steps_done: int | None = None
        self._first = self._n_calls = 0
        self._timesteps: Any = ()
        self._run = 0
        self.scheduler: Any = None
        self.sample_batch: int | None = None
        """If not None: the batch size that the first step's sample must have."""
        self.step_calls: int | None = None
        """If not None: how often the first step must have called the network."""
        self.on_step: Callable[[Any, Any, Any], None] | None = None
        """If not None: told the model output, the sample and the result of each step of a run."""

    def install(self, scheduler: Any, overrides: Overrides) -> None:
        """Wrap `set_timesteps` and `step` of this scheduler object; their signatures, which pipelines read, stay."""
        self.scheduler = scheduler
        set_timesteps, step = scheduler.set_timesteps, scheduler.step

        def watched_set_timesteps(*args: Any, **kwargs: Any) -> Any:
            self.stop()
            result = set_timesteps(*args, **kwargs)
            self._begin(args[0] if args else kwargs.get("num_inference_steps"))
            return result

        def watched_step(*args: Any, **kwargs: Any) -> Any:
            if self._steps_done == 0:
                self._check_first_step(*(args[i] if len(args) > i else kwargs[name] for i, name in _STEP_ARGUMENTS))
            result = step(*args, **kwargs)
            if self.on_step is not None and self._steps_done is not None:
                output, sample = (args[i] if len(args) > i else kwargs[n] for i, n in _OUTPUT_AND_SAMPLE)
                self.on_step(output, sample, result)
            self._advance()
            return result

        overrides.set(scheduler, "set_timesteps", _Watched(scheduler, "set_timesteps", watched_set_timesteps))
        overrides.set(scheduler, "step", _Watched(scheduler, "step", watched_step))

    def watched_bar(self, progress_bar: Callable[..., Any]) -> Callable[..., Any]:
        """A pipeline's progress bars, whose closing ends the run: it comes after an interrupt or any error, too."""

        @functools.wraps(progress_bar)
        def watched(*args: Any, **kwargs: Any) -> Any:
            bar = progress_bar(*args, **kwargs)
            close, run = bar.close, self._run

            def close_and_stop() -> None:
                if self._run == run:
                    self.stop()
                close()

            bar.close = close_and_stop
            return bar

        return watched

    @property
    def timesteps(self) -> tuple[float, ...]:
        """Model timesteps of the run's rows; waits for the device."""
        return tuple(float(t) for t in self._timesteps)

    def enter_call(self) -> tuple[int, int] | None:
        """(row, ordinal within the row) of the network call that begins now, or None outside a run."""
        if self._steps_done is None:
            return None
        if self._steps_done == 0 and self._n_calls == 0:
            self._first = getattr(self.scheduler, "begin_index", None) or 0
        self._n_calls += 1
        return self._first + self._steps_done, self._n_calls - 1

    def stop(self) -> None:
        """End the run, whether or not it has reached its last row."""
        self._steps_done = self.sample_batch = self.step_calls = None
        self._on_end()

    def _begin(self, n_steps_asked: int | None) -> None:
        self._timesteps = self.scheduler.timesteps
        n_calls = len(self._timesteps)
        if self._n_rows is not None:
            fits = n_calls == self._n_rows
        else:
            fits = (n_calls if n_steps_asked is None else n_steps_asked) == self._n_steps
        if not fits:
            n_rows = self._n_steps if self._n_rows is None else self._n_rows
            raise ScheduleMismatchError(
                f"a run must have as many network calls as the applied schedule has rows; got {n_calls} calls for "
                f"{n_rows} rows; call the pipeline with num_inference_steps={self._n_steps}, or autotune.remove(pipe)"
            )
        self._steps_done = self._first = self._n_calls = 0
        self._run += 1
        self._on_begin()

    def _advance(self) -> None:
        if self._steps_done is None:
            return
        self._steps_done, self._n_calls = self._steps_done + 1, 0
        if self._first + self._steps_done >= len(self._timesteps):
            self.stop()

    def _check_first_step(self, timestep: Any, sample: Any) -> None:
        """Once per run, since comparing a timestep waits for the device."""
        expected = float(self._timesteps[self._first])
        if float(timestep) != expected:
            self.stop()
            # A scheduler without `begin_index` shows only here that the run began in the middle.
            raise ScheduleMismatchError(
                f"a run must begin at the timestep of its first row, {expected:g}; got {float(timestep):g}; "
                f"{type(self.scheduler).__name__} can't start in the middle while a schedule is applied: "
                f"use a scheduler with set_begin_index, or autotune.remove(pipe)"
            )
        fits = self.sample_batch in (None, sample.shape[0]) and self.step_calls in (None, self._n_calls)
        if not fits:
            self.stop()
            raise ScheduleMismatchError(NOT_GUIDED)


_STEP_ARGUMENTS = ((1, "timestep"), (2, "sample"))
_OUTPUT_AND_SAMPLE = ((0, "model_output"), (2, "sample"))


class _Watched:
    """A replacement of a scheduler's method that a deep copy of the scheduler does not inherit."""

    def __init__(self, scheduler: Any, name: str, call: Callable[..., Any]) -> None:
        functools.update_wrapper(self, getattr(scheduler, name))
        self._scheduler, self._name, self._call = scheduler, name, call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        owner = memo.get(id(self._scheduler))
        return self if owner is None else getattr(type(owner), self._name).__get__(owner)
