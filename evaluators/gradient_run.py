"""A pipeline run that can be differentiated by its solver's coefficients, through the pipeline's own code."""

import contextlib
import copy
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from autotune.evaluators.apply import attach, guides_in_two_calls, remove
from autotune.evaluators.guidance_gain import GuidanceGain
from autotune.evaluators.latent_scaling import denoiser_latents
from autotune.evaluators.override import Overrides
from autotune.evaluators.solver_scheduler import SolverProgramScheduler
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_program import SolverProgram


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramTensors:
    """The coefficients of a `SolverProgram` as float32 tensors; shapes as there, `initial_scale` is a scalar."""

    timesteps: torch.Tensor
    state_coefs: torch.Tensor
    output_coefs: torch.Tensor
    guidance_gains: torch.Tensor
    initial_scale: torch.Tensor

    @classmethod
    def unflatten(cls, flat: torch.Tensor) -> "ProgramTensors":
        """The tensors of a vector that `flatten` made: 2 n^2 + 2 n + 1 numbers."""
        n = math.isqrt(len(flat) // 2)
        timesteps, states, outputs, gains, scale = torch.split(flat, [n, n * n, n * n, n, 1])
        return cls(
            timesteps=timesteps,
            state_coefs=states.reshape(n, n),
            output_coefs=outputs.reshape(n, n),
            guidance_gains=gains,
            initial_scale=scale[0],
        )


def flatten(program: SolverProgram) -> torch.Tensor:
    """All coefficients in one float64 vector: those of `ProgramTensors`, in the order of its fields."""
    gains = np.ones(program.n_steps) if program.guidance_gains is None else program.guidance_gains
    parts = [program.timesteps, program.state_coefs.ravel(), program.output_coefs.ravel(), gains]
    return torch.cat([torch.tensor(part, dtype=torch.float64) for part in (*parts, [program.initial_scale])])


class _Stop(Exception):
    """Ends a pipeline call where its latents are known."""


class _GradientScheduler(SolverProgramScheduler):
    """Runs on `tensors` in place of the program's numbers."""

    tensors: ProgramTensors

    @classmethod
    def of(cls, scheduler: SolverProgramScheduler, tensors: ProgramTensors) -> "_GradientScheduler":
        """The scheduler's stand-in with `tensors`."""
        made = copy.copy(scheduler)
        made.__class__ = cls
        assert isinstance(made, cls)
        made.tensors = tensors
        return made

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Start a run with the tensor's timesteps; the pipeline's wishes have no effect."""
        self.timesteps = self.tensors.timesteps.to(device)
        self.num_inference_steps = len(self.timesteps)
        self._begin_index, self._step_index = None, None
        self._past: list[tuple[torch.Tensor, torch.Tensor]] = []

    @property
    def row(self) -> int:
        """Of the network call to come."""
        return len(self._past)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """The next state, with its graph."""
        i = len(self._past)
        self._past.append((sample.float(), model_output.float()))
        result = torch.zeros_like(sample, dtype=torch.float32)
        for j, (state, output) in enumerate(self._past):
            result = result + self.tensors.state_coefs[i, j] * state + self.tensors.output_coefs[i, j] * output
        self._step_index = i + 1
        result = result.to(sample.dtype)
        return (result, result)


@contextlib.contextmanager
def _patched(
    pipe: Any,
    scheduler: _GradientScheduler,
    columns: Schedule | None,
    kept: list[torch.Tensor],
    *,
    checkpointed: bool,
    gained: bool,
) -> Iterator[None]:
    """The pipeline with the scheduler, the other columns, a scaled start, and a decoder that ends the call.

    With `gained` the difference of its branches has factors. With `checkpointed` the denoiser is, and each block
    within it, where diffusers can do that.
    """
    overrides, outermost = Overrides(), Overrides()
    own_scheduler, vae_dtype = pipe.scheduler, pipe.vae.dtype
    prepare, denoiser = pipe.prepare_latents, getattr(pipe, "transformer", None) or pipe.unet
    forward = denoiser.forward
    scale = scheduler.tensors.initial_scale

    def prepare_latents(*args: Any, **kwargs: Any) -> Any:
        prepared = prepare(*args, **kwargs)
        return (prepared[0] * scale, *prepared[1:]) if isinstance(prepared, tuple) else prepared * scale

    def decode(z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        kept.append(z)
        raise _Stop

    def by_block(*args: Any, **kwargs: Any) -> Any:  # called again in the backward pass, when this context is gone
        with _checkpointed_blocks(denoiser):
            return forward(*args, **kwargs)

    def checkpointed_forward(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(by_block, *args, use_reentrant=False, **kwargs)

    overrides.set(pipe, "prepare_latents", prepare_latents)
    overrides.set(pipe.vae, "decode", decode)
    if checkpointed:
        overrides.set(denoiser, "forward", checkpointed_forward)
    pipe.scheduler = scheduler
    try:
        if columns is not None:
            attach(pipe, columns)
        if gained:  # around all others
            outermost.set(denoiser, "forward", _gained(pipe, denoiser.forward, scheduler))
        with warnings.catch_warnings():
            # Timesteps are compared as numbers, which need no gradient.
            warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad")
            yield
    finally:
        outermost.undo()
        remove(pipe)
        pipe.scheduler = own_scheduler
        overrides.undo()
        if pipe.vae.dtype != vae_dtype:  # SDXL decodes in float32, and would go back after it
            pipe.vae.to(vae_dtype)


def _gained(pipe: Any, forward: Callable[..., Any], scheduler: _GradientScheduler) -> Callable[..., Any]:
    """The denoiser's forward with the scheduler's factors on guidance."""
    gain = GuidanceGain(scheduler.tensors.guidance_gains, separate=guides_in_two_calls(pipe))
    call, last = 0, -1

    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal call, last
        call, last = (call + 1 if scheduler.row == last else 0), scheduler.row
        return gain.apply(forward(*args, **kwargs), last, call)

    return run


@contextlib.contextmanager
def _checkpointed_blocks(denoiser: Any) -> Iterator[None]:
    """The denoiser with checkpoints at its blocks, where diffusers knows how, and as it was after that."""
    if not getattr(denoiser, "_supports_gradient_checkpointing", False) or denoiser.is_gradient_checkpointing:
        yield
        return
    denoiser.enable_gradient_checkpointing()
    try:
        yield
    finally:
        denoiser.disable_gradient_checkpointing()
        for module in denoiser.modules():
            vars(module).pop("_gradient_checkpointing_func", None)


def run_with_gradient(
    pipe: Any,
    scheduler: SolverProgramScheduler,
    tensors: ProgramTensors,
    embeddings: Mapping[str, torch.Tensor],
    seeds: Sequence[int],
    arguments: Mapping[str, Any],
    *,
    columns: Schedule | None = None,
    checkpointed: bool = False,
    gained: bool = False,
) -> torch.Tensor:
    """Final latents of a run, with the graph that leads to the coefficients; the weights must not need gradients.

    Diffusers' pipelines are decorated with `torch.no_grad`; what is called here is the function inside.

    Args:
        pipe: a diffusers pipeline.
        scheduler: of a program with as many steps; only its configuration is read.
        tensors: the coefficients.
        embeddings: call arguments in place of the prompts, one row per sample.
        seeds: of the starting noise, one per sample, as in `run_pipeline`.
        arguments: the call's others: guidance, size.
        columns: cache and guidance to run under; what is handed out from the store has its graph too.
        checkpointed: recompute the network's activations in the backward pass, block by block: memory for one block
            instead of all calls, for two thirds more time. Not together with columns: they must decide once.
        gained: the run has classifier-free guidance, and `tensors` have factors on it; without, they have no effect.

    Returns:
        (n, channels, height, width) float32, before the autoencoder's scaling is undone.
    """
    if "negative_prompt" in inspect.signature(pipe.__call__).parameters:
        arguments = {"negative_prompt": None, **arguments}  # PixArt's default, "", clashes with embeddings
    kept: list[torch.Tensor] = []
    running = _GradientScheduler.of(scheduler, tensors)
    how = {"checkpointed": checkpointed, "gained": gained}
    with _patched(pipe, running, columns, kept, **how), contextlib.suppress(_Stop):
        inspect.unwrap(type(pipe).__call__)(
            pipe,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="pt",
            **embeddings,
            **{**arguments, "num_inference_steps": len(tensors.timesteps)},
        )
    return denoiser_latents(pipe.vae, kept[0])
