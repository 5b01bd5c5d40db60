"""Tracing: the states and network outputs of one dense run of the real pipeline, for planners of time grids."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load, save

from autotune.evaluators.override import Overrides
from autotune.evaluators.reference import ArtifactCache
from autotune.spaces.condition import Condition
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.reference_schedule import reference_schedule
from autotune.spaces.schedule import Schedule
from autotune.spaces.trace import Trace


class Watcher(Protocol):
    """Looks on while a pipeline runs."""

    def watching(self, scheduler: Any) -> AbstractContextManager[None]:
        """Watch the runs of this scheduler; afterwards it is as it was."""
        ...


class StepRecorder:
    """Keeps what a pipeline hands to its scheduler's `step`, and what it gets back from the last one of a run.

    Copies in float32 on the CPU: 4 (2 M + 1) n d bytes for runs of M calls, n samples in all and d elements per state,
    which is 0.85 GB for 100 calls and 4 images of FLUX at 1024 x 1024. Joining them takes as much once more.
    """

    def __init__(self, n_calls: int) -> None:
        self._n_calls = n_calls
        self._states: list[NDArray[np.float32]] = []
        self._outputs: list[NDArray[np.float32]] = []
        self._samples: list[NDArray[np.float32]] = []

    @contextlib.contextmanager
    def watching(self, scheduler: Any) -> Iterator[None]:
        """Record the runs of this scheduler, one after the other; afterwards it is as it was."""
        step = scheduler.step

        @functools.wraps(step)
        def recording(
            model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any
        ) -> Any:
            self._outputs.append(_copy(model_output))
            self._states.append(_copy(sample))
            result = step(model_output, timestep, sample, *args, **kwargs)
            if len(self._states) % self._n_calls == 0:
                self._samples.append(_copy(result[0]))
            return result

        overrides = Overrides()
        overrides.set(scheduler, "step", recording)
        try:
            yield
        finally:
            overrides.undo()

    def trace(self, timesteps: tuple[float, ...]) -> Trace:
        """What was recorded, the samples of all runs side by side."""
        n = self._n_calls
        states = [np.concatenate(self._states[i::n]) for i in range(n)]
        outputs = [np.concatenate(self._outputs[i::n]) for i in range(n)]
        states.append(np.concatenate(self._samples))
        return Trace(timesteps=np.array(timesteps), states=np.stack(states), outputs=np.stack(outputs))


def load_or_make_trace(
    condition: Condition,
    fidelity: Fidelity,
    n_levels: int,
    run: Callable[[Schedule, StepRecorder], object],
    artifacts: ArtifactCache | None,
) -> Trace:
    """The trace of a fidelity's converged run, read back if it was made before under the same condition.

    Args:
        condition: what the run is made under.
        fidelity: prompts and seeds, all of which are traced.
        n_levels: network calls of the run; with `REFERENCE_STEPS` it is the reference.
        run: executes a schedule on the fidelity and lets a recorder watch.
        artifacts: where traces are kept, as safetensors.
    """
    name = f"trace/{n_levels}/{condition.hash}/{fidelity.hash}"
    stored = artifacts.load(name) if artifacts is not None else None
    if stored is not None:
        return Trace(**load(stored))
    schedule = reference_schedule(condition, n_levels)
    recorder = StepRecorder(n_levels)
    run(schedule, recorder)
    trace = recorder.trace(schedule.time or ())
    if artifacts is not None:
        tensors: dict[str, NDArray[Any]] = {
            "timesteps": trace.timesteps,
            "states": trace.states,
            "outputs": trace.outputs,
        }
        artifacts.save(name, save(tensors), "trace")
    return trace


def _copy(tensor: torch.Tensor) -> NDArray[np.float32]:
    copied: NDArray[np.float32] = tensor.detach().to("cpu", torch.float32, copy=True).numpy()
    return copied
