"""The Ray cluster that a pool runs on: found or started, asked for actors, watched, and left."""

import contextlib
import math
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autotune.evaluators.ray_actor import Description
from autotune.spaces.errors import AutotuneError, EvaluatorError, UsageError

SLOT = "autotune"
"""The custom resource of which a machine offers as many as it shall run workers; each worker takes one."""

LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""The setting by which Ray binds a local cluster's servers to 127.0.0.1, as it does by default on other systems."""

SETTINGS = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
"""Only who knows the cluster's token may run code on it; nothing is sent anywhere."""

PROBE_S = 5.0


class RayCluster:
    """A connection to a cluster, or one on this machine that no other can reach; Ray's token authentication stays on.

    A cluster that this process is connected to already is used as it is. Ray reads its settings from the environment
    when it is imported.
    """

    def __init__(self, n_workers: int, address: str | None) -> None:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        with _environment(LOOPBACK_ONLY if address is None else {}):
            self._ray = _import_ray()
            self._connect(n_workers, address)
        host, _, port = str(self._ray.get_runtime_context().gcs_address).rpartition(":")
        self._head = (host.strip("[]"), int(port))
        self._n_missed = 0
        resources = self._ray.cluster_resources()
        if not resources.get(SLOT):
            self.close()
            where = address or f"{host}:{port}"
            raise UsageError(
                f"no machine of the cluster at {where} offers workers; start some with `autotune worker "
                f"--ray-address {where}`"
            )
        n_gpus = resources.get("GPU", 0.0)
        self.workers_per_device = math.ceil(n_workers / n_gpus) if n_gpus else math.ceil(n_workers / self._n_nodes())
        self._gpus = 1.0 / self.workers_per_device if n_gpus else 0.0
        exceptions = self._ray.exceptions
        self.lost_errors: tuple[type[Exception], ...] = (
            exceptions.RayActorError,
            exceptions.OutOfMemoryError,
            exceptions.NodeDiedError,
            exceptions.WorkerCrashedError,
        )

    def _connect(self, n_workers: int, address: str | None) -> None:
        options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
        if address is None:
            options |= {"resources": {SLOT: n_workers}, "address": "local"}
        else:
            _probe(address)
            del options["include_dashboard"]
            options["address"] = address
        self._is_ours = not self._ray.is_initialized()
        try:
            if self._is_ours:
                self._ray.init(**options)
        except (self._ray.exceptions.RayError, RuntimeError, ValueError, OSError) as error:
            where = "on this machine" if address is None else f"at {address}"
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UsageError(
                f"there must be a Ray cluster {where} to use; {reason}: check --ray-address, and that the token in "
                "RAY_AUTH_TOKEN or ~/.ray/auth_token is the cluster's"
            ) from error

    def start(self, kind: type, *arguments: object) -> Any:
        """A new actor of a class, in a process of its own."""
        remote = self._ray.remote(
            num_cpus=0, num_gpus=self._gpus, resources={SLOT: 1}, max_concurrency=2, max_restarts=0
        )
        return remote(kind).remote(*arguments)

    def get(self, answer: Any) -> Any:
        """What an actor answered, or raised.

        Raises:
            AutotuneError: one of ours.
            EvaluatorError: any other error in the actor.
            RayActorError, OutOfMemoryError and the like: the actor is gone; see `lost_errors`.
        """
        try:
            return self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, AutotuneError):
                raise cause from None
            raise EvaluatorError(f"a worker failed: {type(cause).__name__}: {cause}") from error

    def wait(self, answers: Sequence[Any], timeout_s: float) -> list[Any]:
        """Those of the answers that are there, after at most so many seconds; all that are there at that moment."""
        ready, others = self._ray.wait(list(answers), num_returns=1, timeout=timeout_s)
        if ready and others:
            ready += self._ray.wait(others, num_returns=len(others), timeout=0.0)[0]
        return list(ready)

    def kill(self, actor: Any, description: Description | None) -> None:
        """End an actor's process, also one that does not listen."""
        with contextlib.suppress(Exception):  # it may be gone already, and the cluster with it
            self._ray.kill(actor, no_restart=True)
        if description is not None and description.host == socket.gethostname():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(description.pid, signal.SIGKILL)

    def check(self) -> None:
        """Raise an EvaluatorError if the cluster's head is gone, which Ray itself would end this process for."""
        try:
            socket.create_connection(self._head, timeout=PROBE_S).close()
            self._n_missed = 0
        except OSError as error:
            self._n_missed += 1
            if self._n_missed >= 2:
                host, port = self._head
                raise EvaluatorError(
                    f"the head of the Ray cluster at {host}:{port} is gone ({error}); start it again, then "
                    "`autotune resume`: nothing that was measured is lost"
                ) from error

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if self._is_ours and self._n_missed == 0:
            self._ray.shutdown()

    def _n_nodes(self) -> int:
        return max(1, sum(1 for node in self._ray.nodes() if node["Alive"] and SLOT in node["Resources"]))


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set variables for as long as Ray is imported and its servers are started; they hold for no other cluster."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _probe(address: str) -> None:
    """Raise a UsageError at once where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"--ray-address must read HOST:PORT, such as 10.0.0.1:6379; got {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_S).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"there must be a Ray cluster at {address} to use; nobody answers there ({error}): check --ray-address"
        ) from error


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UsageError("several workers need Ray; pip install 'diffusion-autotune[ray]'") from error
    return ray
