"""Whether a run is like the one that a schedule was measured in."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from autotune.evaluators.adapters import Adapter
from autotune.evaluators.guidance import output_tensor
from autotune.evaluators.guidance_scale import measured_scale
from autotune.evaluators.noise import flow_mu, own_timesteps
from autotune.spaces.errors import ScheduleMismatchError
from autotune.spaces.schedule_file import ScheduleFile

TIMESTEP_TOLERANCE = 1.0
"""Of some 1000: samplers round what they call a network with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """What a schedule was measured in: the shape of the latents (batch first), and the guidance scale.

    The scale is None where the model does not read it, as FLUX.1-schnell. With `rescales` (Qwen-Image) what a pipeline
    calls its guidance scale is another one, and the combination of the branches has the norm of the conditional one in
    each token. A step calls the network `calls_per_step` times at most, and without a solver of the schedule's own at
    `timesteps`; None is not known.
    """

    latent_shape: tuple[int, ...]
    guidance_scale: float | None
    rescales: bool = False
    calls_per_step: int = 2
    timesteps: tuple[float, ...] | None = None

    @classmethod
    def of(cls, pipe: Any, adapter: Adapter, scheduler: Any, file: ScheduleFile) -> "MeasuredRun":
        """What a file was measured in; `scheduler` is the pipeline's own."""
        condition, schedule, timesteps = file.condition, file.schedule, None
        if schedule.tables and schedule.time is None:
            mu = flow_mu(pipe, condition.height, condition.width)
            timesteps = own_timesteps(scheduler, schedule.n_steps, mu, even_sigmas=adapter.even_sigmas)
        config = getattr(adapter.denoiser_of(pipe), "config", None)
        is_read = adapter.guidance != "embedded" or getattr(config, "guidance_embeds", True)
        return cls(
            latent_shape=adapter.latent_shape(pipe, condition.height, condition.width),
            guidance_scale=condition.guidance_scale if is_read else None,
            rescales=adapter.guidance_argument == "true_cfg_scale",
            calls_per_step=2 if adapter.guidance == "calls" else 1,
            timesteps=timesteps,
        )


class RunCheck:
    """Holds the runs of a pipeline against the measured one.

    The tables of a schedule fit no other: with them, what differs raises a ScheduleMismatchError. Without, another size
    or guidance scale warns, once each.
    """

    def __init__(self, pipe: Any, measured: MeasuredRun, *, has_tables: bool) -> None:
        self._pipe, self._measured, self._has_tables = pipe, measured, has_tables
        self._says_scale = not measured.rescales and getattr(pipe, "_guidance_scale", None) is not None
        self._branches: list[torch.Tensor] = []
        """The network's outputs in the first step's calls, as many as tell the scale."""
        self._grid_seen = False
        self._warned: set[str] = set()

    @property
    def on_step(self) -> Callable[[Any, Any, Any], None] | None:
        """To be told of every step; None where nothing is to be learned from it."""
        return None if self._says_scale else self._see_step

    def begin(self) -> None:
        """A run begins."""
        self._branches, self._grid_seen = [], False

    def see_call(self, call: int) -> None:
        """The network is called for the `call`-th time in a step, from 0."""
        if self._has_tables and call >= self._measured.calls_per_step:
            raise ScheduleMismatchError(
                "the tables of a schedule fit one kind of guidance; they were fitted without a negative prompt, which "
                "takes a second call in each step of this run: leave negative_prompt and true_cfg_scale out"
            )

    def see_latents(self, latents: torch.Tensor, timesteps: Callable[[], tuple[float, ...]]) -> None:
        """The network is called with latents of a shape that is new in this run, which has a row at each timestep."""
        shape, measured = tuple(latents.shape[1:]), tuple(self._measured.latent_shape[1:])
        if shape != measured:
            found = f"measured for latents of shape {measured}; this run has {shape}"
            self._refuse_or_warn("resolution", found, "draw at that size")
        if self._says_scale:
            self._compare_scale(float(self._pipe._guidance_scale), tolerance=0.0)
        if self._has_tables and self._measured.timesteps is not None and not self._grid_seen:
            self._compare_grid(self._measured.timesteps, timesteps())
            self._grid_seen = True

    def see_output(self, output: Any) -> None:
        """What the network returned in a call of the first step."""
        if self.on_step is not None and len(self._branches) < (2 if self._measured.rescales else 1):
            self._branches.append(output_tensor(output))

    def _see_step(self, output: torch.Tensor, sample: torch.Tensor, result: object) -> None:
        branches, self._branches = self._branches, []
        if branches:
            both = torch.cat(branches[::-1])  # where each is a call, the conditional one comes first
            scale = measured_scale(both, output, rescaled=self._measured.rescales)
            if scale is not None:
                self._compare_scale(scale, tolerance=0.02)

    def _compare_grid(self, expected: tuple[float, ...], found: tuple[float, ...]) -> None:
        if len(found) != len(expected):
            raise ScheduleMismatchError(
                f"the tables of a schedule fit one time grid, of {len(expected)} calls; this run has {len(found)}: "
                "call the pipeline with the schedule's num_inference_steps alone"
            )
        for i, (own, other) in enumerate(zip(expected, found, strict=True)):
            if abs(own - other) > TIMESTEP_TOLERANCE:
                raise ScheduleMismatchError(
                    f"the tables of a schedule fit one time grid; call {i} was at timestep {own:g} when they were "
                    f"fitted and is at {other:g} in this run: leave timesteps and sigmas to the pipeline, or fit the "
                    "tables for this grid"
                )

    def _compare_scale(self, scale: float, *, tolerance: float) -> None:
        expected = self._measured.guidance_scale
        if expected is not None and abs(scale - expected) > tolerance * abs(expected):
            found = f"measured at guidance scale {expected:g}, this run has {scale:.3g}"
            self._refuse_or_warn("guidance scale", found, "draw at that scale")

    def _refuse_or_warn(self, what: str, found: str, remedy: str) -> None:
        if self._has_tables:
            raise ScheduleMismatchError(
                f"the tables of a schedule fit one {what}; they were {found}: {remedy}, or fit the tables for this one"
            )
        if what not in self._warned:
            self._warned.add(what)
            warnings.warn(f"the schedule was {found}: its speed and quality may differ", stacklevel=2)
