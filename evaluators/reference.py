"""The reference: the converged run from the same starting noise that every schedule is compared with."""

from collections.abc import Callable
from typing import Protocol

from safetensors.torch import load, save

from autotune.evaluators.sampling import Samples
from autotune.spaces.condition import Condition
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.schedule import Schedule
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

REFERENCE_STEPS = 100


class ArtifactCache(Protocol):
    """Where bytes are kept under a name between processes."""

    def save(self, name: str, data: bytes, kind: str) -> None:
        """Keep `data` under `name`."""
        ...

    def load(self, name: str) -> bytes | None:
        """What was kept under `name`, or None."""
        ...


def reference_schedule(condition: Condition, n_steps: int = REFERENCE_STEPS) -> Schedule:
    """The converged run: from the condition's start level, in many steps of a solver of high order.

    The start is fixed because the default grids of different step counts do not all begin at the same noise level: a
    run of the default grid with more steps would solve another problem.
    """
    noise = condition.noise_schedule
    return Schedule(
        n_steps=n_steps,
        time=uniform_lambda(noise, n_steps, t_start=condition.start_timestep),
        solver=make_solver("unipc-3", n_steps, noise),
    )


def load_or_make_reference(
    condition: Condition, fidelity: Fidelity, run: Callable[[Schedule], Samples], artifacts: ArtifactCache | None
) -> Samples:
    """The reference samples of a fidelity, read back if they were made before under the same condition."""
    name = f"reference/{REFERENCE_STEPS}/{condition.hash}/{fidelity.hash}"
    stored = artifacts.load(name) if artifacts is not None else None
    if stored is not None:
        tensors = load(stored)
        return Samples(latents=tensors["latents"], images=tensors["images"], seconds=0.0)
    samples = run(reference_schedule(condition))
    if artifacts is not None:
        data = save({"latents": samples.latents.contiguous(), "images": samples.images.contiguous()})
        artifacts.save(name, data, "reference")
    return samples
