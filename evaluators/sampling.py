"""One run of an unmodified pipeline over a prompt set, timed, with its final latents and images."""

import contextlib
import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch

from autotune.evaluators.energy import EnergyMeter
from autotune.evaluators.latent_scaling import denoiser_latents
from autotune.evaluators.policy_runtime import PolicyUsage
from autotune.evaluators.prompt_embedding import embeddings_of
from autotune.evaluators.step_hook import hooked
from autotune.spaces.evaluation import Fidelity


class Purpose(Enum):
    """What a run is for: images are drawn in the same way for all, of a policy more or less is run."""

    TIMED = auto()
    """Its cost: pipeline calls as production makes them."""

    LATENTS = auto()
    """Its final latents, as many at once as is quick."""

    SCORED = auto()
    """All that a schedule is judged by."""


@dataclass(frozen=True, slots=True)
class RunCost:
    """What an image of a timed run took: milliseconds, and joules where energy was metered."""

    ms: float
    energy_j: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What a run produced: float32 on the CPU, first axis over the prompts.

    `latents` (n, channels, height, width) are the autoencoder's latents before its scaling is undone, `images`
    (n, 3, height, width) lie in [0, 1]. `seconds` is the wall time of the pipeline calls, decoding included and text
    encoding excluded, `energy_j` what they took, where it was metered; both of `n_timed` samples, None being all.
    `usage` is what a cache policy has computed, where there was one. Of a robot's policy `latents` are actions (n,
    horizon, action_dim), `images` pictures of episodes, and `success` is 1 or 0 for each of these.
    """

    latents: torch.Tensor
    images: torch.Tensor
    seconds: float
    usage: PolicyUsage | None = None
    energy_j: float | None = None
    n_timed: int | None = None
    success: tuple[float, ...] = ()

    @property
    def cost(self) -> RunCost:
        """What an image took."""
        n = self.n_timed or len(self.images)
        return RunCost(1000.0 * self.seconds / n, None if self.energy_j is None else self.energy_j / n)


class Deadline(Exception):
    """A run took longer than it may."""


@torch.no_grad()
def run_pipeline(
    pipe: Any,
    embeddings: Mapping[str, torch.Tensor],
    fidelity: Fidelity,
    *,
    batch_size: int,
    arguments: Mapping[str, Any],
    timeout_s: float | None = None,
    meter: EnergyMeter | None = None,
) -> Samples:
    """Draw one image per prompt and seed; prompt i starts from the noise of a CPU generator with seed i.

    `arguments` are the call's others: steps, guidance, size. The pipeline decodes by its own code: the latents are
    what it hands to its autoencoder, with the scaling undone.

    Raises:
        Deadline: `timeout_s` has passed at the start of a network call.
    """
    if "negative_prompt" in inspect.signature(pipe.__call__).parameters:
        arguments = {"negative_prompt": None, **arguments}  # PixArt's default, "", clashes with embeddings
    latents: list[torch.Tensor] = []
    images: list[torch.Tensor] = []
    seconds, energy_j = 0.0, 0.0
    with _decoder_inputs(pipe, latents.append), deadline(pipe, timeout_s):
        for start in range(0, len(fidelity.seeds), batch_size):
            batch = slice(start, start + batch_size)
            generators = [torch.Generator("cpu").manual_seed(seed) for seed in fidelity.seeds[batch]]
            synchronize(pipe)
            began, before_j = time.perf_counter(), 0.0 if meter is None else meter.read_j()
            result = pipe(
                generator=generators,
                output_type="pt",
                **embeddings_of(embeddings, batch),
                **arguments,
            )
            synchronize(pipe)
            seconds += time.perf_counter() - began
            energy_j += 0.0 if meter is None else meter.read_j() - before_j
            images.append(result.images.float().cpu())
    return Samples(
        latents=torch.cat([denoiser_latents(pipe.vae, z.cpu()) for z in latents]),
        images=torch.cat(images),
        seconds=seconds,
        energy_j=None if meter is None else energy_j,
    )


@contextlib.contextmanager
def _decoder_inputs(pipe: Any, keep: Callable[[torch.Tensor], None]) -> Iterator[None]:
    decode = pipe.vae.decode

    def keeping(z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        keep(z)
        return decode(z, *args, **kwargs)

    pipe.vae.decode = keeping
    try:
        yield
    finally:
        del pipe.vae.decode


@contextlib.contextmanager
def deadline(pipe: Any, timeout_s: float | None) -> Iterator[None]:
    """Raise `Deadline` at the first network call that begins after `timeout_s`; never if it is None."""
    if timeout_s is None:
        yield
        return
    end = time.monotonic() + timeout_s

    def check(*_: object) -> None:
        if time.monotonic() > end:
            raise Deadline(f"the run took longer than its limit of {timeout_s:.0f} s")

    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    with hooked([denoiser.register_forward_pre_hook(check)]):
        yield


def synchronize(pipe: Any) -> None:
    """Wait until the pipeline's device has done what it was asked to."""
    if pipe._execution_device.type == "cuda":
        torch.cuda.synchronize(pipe._execution_device)
