"""A reference model with its embedded prompts, and schedules for it: what the tests of gradients share."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch

from autotune.evaluators.adapters import find_adapter
from autotune.evaluators.fit_column import other_columns
from autotune.evaluators.gradient_run import ProgramTensors, flatten, run_with_gradient
from autotune.evaluators.inventory import list_inventory
from autotune.evaluators.load import load_model
from autotune.evaluators.noise import noise_schedule_of, own_timesteps, prediction_of
from autotune.evaluators.prompt_embedding import embed_prompts
from autotune.evaluators.solver_scheduler import SolverProgramScheduler
from autotune.spaces.cache_action import CacheAction
from autotune.spaces.cache_plan import CachePlan
from autotune.spaces.evaluation import Fidelity
from autotune.spaces.guidance_column import GuidanceAction
from autotune.spaces.program_correction import ProgramCorrection
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_formula import Prediction
from autotune.spaces.solver_program import SolverProgram, compile_program
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

MODELS = ("mini-flux", "mini-pixart", "mini-sd")
PROMPTS = Fidelity(name="calibration", prompts=("a photo of a cat", "a photo of a ship"), seeds=(3, 4))


@dataclass(frozen=True)
class GradientCase:
    """One model; weights frozen, as `load_model` leaves them."""

    pipe: Any
    arguments: Mapping[str, Any]
    embeddings: Mapping[str, torch.Tensor]

    @property
    def noise(self) -> Any:
        return noise_schedule_of(self.pipe.scheduler, 0.0)

    @property
    def prediction(self) -> Prediction:
        return prediction_of(self.pipe.scheduler)

    def schedule(self, kind: str, n: int = 3) -> Schedule:
        """`plain`, `start` (an analytic first step), `correction`, `both`, `compensation`, `cached`, or `gained`.

        `cached` forecasts the stack of blocks in the last call, reuses leaves before, and drops a branch if it can;
        `gained` does that under a guidance that changes from call to call, on the models that guide.
        """
        noise = self.noise
        begin = own_timesteps(self.pipe.scheduler, 20, 0.5)[0]
        first = begin if kind not in ("start", "both") else 0.93 * begin
        times = uniform_lambda(noise, n, t_start=first, t_end=30.0)
        plan = Schedule(n_steps=n, time=times, solver=make_solver("unipc-2", n, noise))
        if first != begin:
            plan = replace(plan, start=begin)
        if kind == "gained" and self.is_guided:
            gains = (0.8, 1.3, 0.9, *(1.1,) * n)
            rows = zip(plan.solver or (), gains, strict=False)
            solver = tuple(replace(row, guidance_gain=gain) for row, gain in rows if isinstance(row, SolverStep))
            plan = replace(plan, solver=solver)
        if kind in ("cached", "gained"):
            return replace(plan, cache=self._some_cache(n), guidance=self._some_guidance(n))
        if kind == "compensation":
            plan = replace(plan, compensation=(1.0, 1.0, *(0.8,) * (n - 2)))
        return replace(plan, correction=some_correction(n)) if kind in ("correction", "both") else plan

    def _some_cache(self, n: int) -> CachePlan:
        inventory = list_inventory(self.pipe)
        table = np.full((n, len(inventory)), CacheAction.RECOMPUTE, np.uint8)
        table[n - 1, list(inventory.outermost)] = CacheAction.TAYLOR_1
        table[n - 2, list(inventory.leaves[::3])] = CacheAction.REUSE
        return CachePlan.from_array(table)

    @property
    def is_guided(self) -> bool:
        """Whether the model runs both branches in one batch."""
        return find_adapter(self.pipe).guidance == "batch"

    def _some_guidance(self, n: int) -> tuple[GuidanceAction, ...] | None:
        if not self.is_guided:
            return None
        return (*(GuidanceAction.BOTH,) * (n - 1), GuidanceAction.STORED)

    def program(self, schedule: Schedule) -> SolverProgram:
        return compile_program(schedule, self.noise, self.prediction)

    def run(self, schedule: Schedule, tensors: ProgramTensors, *, checkpointed: bool = False) -> torch.Tensor:
        """Final latents with their graph."""
        scheduler = SolverProgramScheduler.from_schedule(schedule, self.pipe.scheduler, self.noise, self.prediction)
        return run_with_gradient(
            self.pipe,
            scheduler,
            tensors,
            self.embeddings,
            PROMPTS.seeds,
            self.arguments,
            columns=other_columns(schedule),
            checkpointed=checkpointed,
            gained=self.program(schedule).guidance_gains is not None,
        )


@cache
def gradient_case(name: str) -> GradientCase:
    model = load_model(name)
    preset = model.preset
    size = {"height": preset.height, "width": preset.width}
    return GradientCase(
        pipe=model.pipe,
        arguments={"guidance_scale": preset.guidance_scale, **size, **preset.call_kwargs},
        embeddings=embed_prompts(
            model.pipe, PROMPTS.prompts, guidance_scale=preset.guidance_scale, call_kwargs=preset.call_kwargs
        ),
    )


def some_correction(n: int) -> ProgramCorrection:
    """Of a few per cent, timesteps included."""
    rng = np.random.default_rng(0)

    def rows() -> tuple[tuple[float, ...], ...]:
        return tuple(tuple((0.03 * rng.standard_normal(i + 1)).tolist()) for i in range(n))

    return ProgramCorrection(timesteps=tuple(5.0 * rng.standard_normal(n)), states=rows(), outputs=rows())


def leaf(program: SolverProgram) -> torch.Tensor:
    """All coefficients as one vector that takes a gradient."""
    return flatten(program).float().requires_grad_()
