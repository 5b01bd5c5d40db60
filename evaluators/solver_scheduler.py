"""One scheduler that runs any solver program inside an unmodified pipeline."""

import dataclasses
import logging
from collections.abc import Sized
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor

from autotune.spaces.elementwise_program import ElementwiseProgram
from autotune.spaces.errors import ScheduleError
from autotune.spaces.noise_schedule import Flow, KnownNoise
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_formula import Prediction
from autotune.spaces.solver_program import SolverProgram, compile_program
from autotune.spaces.time_grid import shift_flow_times

logger = logging.getLogger(__name__)

_SAME_MU = 1e-6


class SolverProgramScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """Multiplies and adds: x_{i+1} = sum_j a_ij x_j + b_ij o_j, with the coefficients of a program.

    The schedule decides the steps, so what a pipeline asks for (`num_inference_steps`, sigmas, timesteps) has no
    effect. `config` is that of the scheduler it stands in for, because pipelines read fields of it. Sums are taken
    in float32 at least; of the past only what a later step reads is kept.

    `mean` is the image that a mean-reverting process reverts to, in the layout of the states; to be set before such a
    run, whose starting state is this image plus noise.
    """

    order = 1
    init_noise_sigma = 1.0
    _step_index: int | None
    _begin_index: int | None

    def __init__(
        self,
        program: SolverProgram | ElementwiseProgram,
        *,
        schedule: Schedule,
        config: dict[str, Any],
        noise: KnownNoise,
        prediction: Prediction,
    ) -> None:
        fields = {name: value for name, value in config.items() if not name.startswith("_")}
        self.register_to_config(**fields)  # type: ignore[no-untyped-call]
        self.program = program
        self.timesteps = torch.tensor(program.timesteps, dtype=torch.float32)
        self.num_inference_steps = program.n_steps
        self._schedule = schedule
        self._noise = noise
        self._prediction: Prediction = prediction
        self._rows: dict[int, list[tuple[int, torch.Tensor, torch.Tensor]]] = {}
        self.mean: torch.Tensor | None = None
        self._warned: set[str] = set()
        self._reset(program)

    @classmethod
    def from_schedule(
        cls,
        schedule: Schedule,
        original_scheduler: Any,
        noise: KnownNoise,
        prediction: Prediction,
    ) -> "SolverProgramScheduler":
        """A scheduler for the columns `time`, `solver` and `compensation`.

        Args:
            schedule: has the columns `time` and `solver`.
            original_scheduler: the pipeline's own scheduler; only its config is read.
            noise: what the timesteps stand for; `noise.mu` is the shift that they were made for.
            prediction: what the network puts out.

        Raises:
            ScheduleError: a column is missing or does not fit the noise schedule.
        """
        program = compile_program(schedule, noise, prediction)
        config = dict(original_scheduler.config)
        return cls(program, schedule=schedule, config=config, noise=noise, prediction=prediction)

    @classmethod
    def from_program(
        cls,
        program: SolverProgram | ElementwiseProgram,
        original_scheduler: Any,
        noise: KnownNoise,
        prediction: Prediction,
    ) -> "SolverProgramScheduler":
        """A scheduler for a program that no solver column stands for; another time shift does not move its grid."""
        schedule, config = Schedule(n_steps=program.n_steps), dict(original_scheduler.config)
        return cls(program, schedule=schedule, config=config, noise=noise, prediction=prediction)

    @property
    def step_index(self) -> int | None:
        """Index of the next step; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Index that the run starts from, as the pipeline set it."""
        return self._begin_index

    @property
    def sigmas(self) -> torch.Tensor:
        """Noise over signal of the run's timesteps and 0 at the end, on a flow the noise alone; float32 on the CPU.

        As diffusers' schedulers have it; some pipelines read it.
        """
        times, noise = self._running.timesteps, self._noise
        sigmas = noise.sigma(times) if isinstance(noise, Flow) else np.exp(-noise.lam(times))
        return torch.tensor([*sigmas, 0.0], dtype=torch.float32)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Accept 0, which text-to-image pipelines pass.

        Raises:
            ScheduleError: the run would start in the middle.
        """
        if begin_index != 0:
            raise ScheduleError(
                f"a schedule with a solver column runs from its first step; got begin index {begin_index} "
                "(image-to-image or inpainting); remove the schedule for this call, or use one without time and solver"
            )
        self._begin_index = 0

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sized | None = None,
        sigmas: Sized | None = None,
        mu: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Start a run: forget the last one and put the schedule's timesteps on `device`.

        Another step count than the schedule's is ignored with a warning, and so are explicit timesteps. On a flow with
        dynamic shift, a `mu` other than the schedule's (another resolution) translates the grid in lambda.
        """
        asked = next((len(grid) for grid in (timesteps, sigmas) if grid is not None), num_inference_steps)
        if asked is not None and asked != self._schedule.n_steps:
            self._warn_once(
                f"the applied schedule has {self._schedule.n_steps} steps; the {asked} that were asked for are ignored"
            )
        elif timesteps is not None:
            self._warn_once("the applied schedule has its own timesteps; those that were passed are ignored")
        program = self._program_at(mu)
        self.num_inference_steps = program.n_steps
        self.timesteps = torch.tensor(program.timesteps, dtype=torch.float32, device=device)
        self._reset(program)

    def scale_model_input(self, sample: torch.Tensor, timestep: Any = None) -> torch.Tensor:
        """The sample as it is: states are not rescaled."""
        return sample

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """The next state.

        Args:
            model_output: raw network output at `sample`, any shape.
            timestep: not read; steps are counted from `set_timesteps`.
            sample: the state that the network was called with, same shape.
            generator: draws the fresh noise of stochastic steps; one, or a list with one per sample.
            return_dict: whether to return a `SchedulerOutput` instead of a tuple.

        Raises:
            ScheduleError: more steps than the schedule has, a shape that changed on the way or that the program is not
                made for, or no mean on a mean-reverting process.
        """
        i = self._step_index or 0
        program = self._running
        if i >= program.n_steps:
            raise ScheduleError(
                f"the applied schedule has {program.n_steps} steps; got step {i + 1}; "
                "call set_timesteps before each run, and step once per timestep"
            )
        dtype = torch.promote_types(sample.dtype, torch.float32)
        self._remember(i, sample.to(dtype), model_output.to(dtype))
        result = torch.zeros_like(sample, dtype=dtype)
        if isinstance(program, ElementwiseProgram):
            self._add_elementwise(result, program, i)
        else:
            for j, on_state, on_output in program.terms[i]:
                if on_state:
                    result.add_(self._states[j], alpha=on_state)
                if on_output:
                    result.add_(self._outputs[j], alpha=on_output)
        if program.mean_coefs is not None:
            if self.mean is None:
                raise ScheduleError("a mean-reverting process needs the image that it reverts to; set scheduler.mean")
            result.add_(self.mean.to(result), alpha=float(program.mean_coefs[i]))
        deviation = float(program.noise_coefs[i])
        if deviation:
            noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=dtype)
            result.add_(noise, alpha=deviation)
        self._forget(i)
        self._step_index = i + 1
        result = result.to(sample.dtype)
        # Twice: PixArtAlphaPipeline reads the second entry, the denoised latents, where it is asked for one step.
        return SchedulerOutput(prev_sample=result) if return_dict else (result, result)

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    def _add_elementwise(self, result: torch.Tensor, program: ElementwiseProgram, i: int) -> None:
        if tuple(result.shape[1:]) != program.element_shape:
            raise ScheduleError(
                f"the statistics of this program were fitted on latents of shape {program.element_shape}; got "
                f"{tuple(result.shape[1:])}; fit them for this resolution"
            )
        row = self._rows.get(i)
        if row is None or row[-1][2].device != result.device or row[-1][2].dtype != result.dtype:
            arrays = [*program.terms[i], (-1, program.bias[i], program.bias[i])]
            row = self._rows[i] = [(j, _like(result, a), _like(result, b)) for j, a, b in arrays]
        for j, on_state, on_output in row[:-1]:
            # A state or output that no step reads any more is gone; its coefficients are zero.
            if j in self._states:
                result.addcmul_(self._states[j], on_state)
            if j in self._outputs:
                result.addcmul_(self._outputs[j], on_output)
        result.add_(row[-1][1])

    def _program_at(self, mu: float | None) -> SolverProgram | ElementwiseProgram:
        noise = self._noise
        if self._schedule.time is None or mu is None or not isinstance(noise, Flow) or not noise.dynamic:
            return self.program
        if abs(mu - noise.mu) <= _SAME_MU:
            return self.program
        made_for = f"the applied schedule was made for a time shift of {noise.mu:.4g}, this resolution has {mu:.4g}; "
        if self._schedule.start is not None:  # the latents have been scaled for the first timestep already
            self._warn_once(made_for + "its timesteps stay as they are, and it was not tuned for this")
            return self.program
        self._warn_once(made_for + "its timesteps are shifted accordingly, but it was not tuned for them")
        time = shift_flow_times(self._schedule.time, mu - noise.mu, n_train=noise.n_train)
        return compile_program(dataclasses.replace(self._schedule, time=time), noise, self._prediction)

    def _reset(self, program: SolverProgram | ElementwiseProgram) -> None:
        self._running = program
        self._step_index = None
        self._begin_index = None
        self._states: dict[int, torch.Tensor] = {}
        self._outputs: dict[int, torch.Tensor] = {}

    def _remember(self, i: int, state: torch.Tensor, output: torch.Tensor) -> None:
        """Keep the two new tensors; as copies where a later step reads them, since callers reuse their buffers."""
        program = self._running
        held = next(iter(self._outputs.values()), None)
        if state.shape != output.shape or (held is not None and held.shape != state.shape):
            raise ScheduleError(
                "the state, the network output and those of the steps before must have one shape; got "
                f"{tuple(state.shape)}, {tuple(output.shape)}"
                + ("" if held is None else f" after {tuple(held.shape)}")
                + "; call set_timesteps before each run"
            )
        self._states[i] = state.clone() if program.state_last_used[i] > i else state
        self._outputs[i] = output.clone() if program.output_last_used[i] > i else output

    def _forget(self, i: int) -> None:
        for held, last in (
            (self._states, self._running.state_last_used),
            (self._outputs, self._running.output_last_used),
        ):
            for j in [j for j in held if last[j] <= i]:
                del held[j]

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            logger.warning(message)


def _like(tensor: torch.Tensor, values: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.tensor(values, dtype=tensor.dtype, device=tensor.device)
