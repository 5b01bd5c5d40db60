"""What runs in a worker process of Ray: one warm evaluator."""

import contextlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from autotune.evaluators.evaluator import Evaluator
from autotune.evaluators.job import Job, JobValue
from autotune.spaces.condition import Condition
from autotune.spaces.errors import EvaluatorError
from autotune.spaces.inventory import Inventory


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A worker that is ready: what it measures, and which process it is."""

    condition: Condition
    inventory: Inventory
    protocol: str
    guided: bool
    converges: bool
    host: str
    pid: int

    @property
    def shown(self) -> str:
        """The worker for messages."""
        return f"{self.pid} on {self.host}"

    def differs(self, condition: Condition, protocol: str) -> str:
        """How its condition differs from another one, in words; empty if it does not."""
        if protocol != self.protocol:
            return f"the measuring code is version {self.protocol}, not {protocol}; install the same version everywhere"
        own, other = self.condition.to_json(), condition.to_json()
        for field, value in other.items():
            if own.get(field) != value:
                return f"{field} is {own.get(field)!r}, not {value!r}; leave that machine out, or make it equal"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The end of a job: value or error, the seconds that it took, and the most memory the worker has held so far."""

    value: JobValue | None
    error: Exception | None
    seconds: float
    peak_bytes: int


class RayActor:
    """A worker process; `setup` comes first, `beat` may come at any time, in a thread of its own."""

    def __init__(self, make_evaluator: Callable[[], Evaluator]) -> None:
        self._make = make_evaluator
        self._evaluator: Evaluator | None = None

    def setup(self, need_bytes: int | None, workers_per_device: int) -> Description:
        """Load the model, if the device has `need_bytes` free.

        Raises:
            EvaluatorError: it has not.
        """
        free = _free_bytes()
        if need_bytes is not None and free < need_bytes:
            raise EvaluatorError(
                f"a worker needs {need_bytes / 1e9:.1f} GB, and {socket.gethostname()} has {free / 1e9:.1f} GB free: "
                "start fewer workers"
            )
        if not _has_gpu():
            import torch

            torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers_per_device))
        self._evaluator = evaluator = self._make()
        return Description(
            condition=evaluator.condition,
            inventory=evaluator.inventory,
            protocol=evaluator.protocol,
            guided=evaluator.guided,
            converges=evaluator.converges,
            host=socket.gethostname(),
            pid=os.getpid(),
        )

    def own_timesteps(self, n_steps: int) -> tuple[float, ...]:
        """See `Evaluator.own_timesteps`."""
        assert self._evaluator is not None  # set up
        return self._evaluator.own_timesteps(n_steps)

    def run(self, job: Job) -> Report:
        """Do a job; an error comes back as a value, so that its type survives."""
        assert self._evaluator is not None  # set up
        began = time.monotonic()
        value, error = None, None
        try:
            value = job.run(self._evaluator)
        except Exception as raised:
            error = raised.with_traceback(None)
            error.__cause__ = None  # what a library raised may not be known to the other side
        return Report(value=value, error=error, seconds=time.monotonic() - began, peak_bytes=_peak_bytes())

    def beat(self) -> None:
        """Answer."""


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _free_bytes() -> int:
    """Free memory of the worker's GPU, else of the machine."""
    import torch

    if _has_gpu():
        return int(torch.cuda.mem_get_info()[0])
    import psutil

    return int(psutil.virtual_memory().available)


def _peak_bytes() -> int:
    """The most memory that this process has held on its GPU, else in the machine."""
    import torch

    if _has_gpu():
        return int(torch.cuda.max_memory_reserved())
    with contextlib.suppress(ImportError):  # not on Windows
        import resource
        import sys

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return 0
