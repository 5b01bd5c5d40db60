"""Fitting a program's parameters by gradient: distillation of the converged run into few steps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autotune.evaluators.gradient_run import ProgramTensors, flatten
from autotune.spaces.errors import ScheduleError
from autotune.spaces.solver_program import SolverProgram

Array = NDArray[np.float64]
Build = Callable[[Array], SolverProgram]
"""From parameters, all of unit scale and 0 at the start, to a program; raises ScheduleError where there is none."""
Loss = Callable[[ProgramTensors, Array], torch.Tensor]
"""Squared relative deviation per prompt, of the prompts with these indices."""

_PROBE = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How long and how carefully a fit goes.

    Adam (Kingma & Ba 2015) with a cosine schedule from `learning_rate`, in units of the parameters' scale, on
    batches of `batch` prompts. `penalty` times the mean square of the parameters is added to the loss, relative to
    the loss at the start. Every `check_every` iterations the held-out prompts are scored; the best parameters there
    are the result, and after `patience` scorings without gain the fit ends.
    """

    iterations: int = 120
    learning_rate: float = 0.02
    batch: int = 12
    penalty: float = 1e-3
    check_every: int = 10
    patience: int = 4
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What came of it: parameters, root of the mean held-out loss before and after, and runs over one prompt.

    A run with gradients counts as three.
    """

    theta: Array
    before: float
    after: float
    image_runs: int


class _Compile(torch.autograd.Function):
    """Parameters to flat coefficients, with the Jacobian by central differences: compiling takes a millisecond."""

    @staticmethod
    def forward(ctx: Any, theta: torch.Tensor, build: Build) -> torch.Tensor:
        """Flat coefficients in float32."""
        values = theta.detach().double().numpy()
        columns = []
        for i in range(len(values)):
            step = np.zeros_like(values)
            step[i] = _PROBE
            columns.append((flatten(build(values + step)) - flatten(build(values - step))) / (2.0 * _PROBE))
        ctx.jacobian = torch.stack(columns, dim=1)
        return flatten(build(values)).float()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The chain rule."""
        return (ctx.jacobian.T @ grads[0].double().cpu()).float(), None


def _coefficients(theta: torch.Tensor, build: Build) -> torch.Tensor:
    flat: torch.Tensor = _Compile.apply(theta, build)  # type: ignore[no-untyped-call]
    return flat


def fit_parameters(
    build: Build, n_parameters: int, loss: Loss, train: Array, held_out: Array, settings: FitSettings
) -> Fit:
    """Minimise the loss of `build(theta)` over the prompts `train`, from theta = 0, stopped early on `held_out`.

    Raises:
        ScheduleError: there is no program at theta = 0.
    """
    rng = np.random.default_rng(settings.seed)
    n_steps = build(np.zeros(n_parameters)).n_steps
    theta = torch.zeros(n_parameters, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=settings.learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.iterations)
    image_runs, waited, start_loss = 0, 0, None
    best, best_theta, before = float("inf"), np.zeros(n_parameters), float("nan")
    for iteration in range(settings.iterations + 1):
        if iteration % settings.check_every == 0 or iteration == settings.iterations:
            with torch.no_grad():
                score = _score(build, theta, loss, held_out, n_steps)
            image_runs += len(held_out)
            before = score if iteration == 0 else before
            waited = 0 if score < best else waited + 1
            if score < best:
                best, best_theta = score, theta.detach().double().numpy().copy()
            if waited > settings.patience or iteration == settings.iterations:
                break
        indices = rng.choice(train, size=min(settings.batch, len(train)), replace=False)
        optimizer.zero_grad()
        try:
            value = loss(ProgramTensors.unflatten(_coefficients(theta, build), n_steps), indices).mean()
        except ScheduleError:  # a step too far, such as times in the wrong order: back to the best so far, half as fast
            with torch.no_grad():
                theta.copy_(torch.tensor(best_theta))
            for group in optimizer.param_groups:
                group["initial_lr"] *= 0.5
            continue
        start_loss = float(value.detach()) if start_loss is None else start_loss
        (value + settings.penalty * start_loss * theta.square().mean()).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([theta], 10.0 * start_loss)
        optimizer.step()
        decay.step()
        image_runs += 3 * len(indices)
    return Fit(theta=best_theta, before=before, after=best, image_runs=image_runs)


def _score(build: Build, theta: torch.Tensor, loss: Loss, prompts: Array, n_steps: int) -> float:
    try:
        flat = flatten(build(theta.double().numpy())).float()
    except ScheduleError:
        return float("inf")
    return float(loss(ProgramTensors.unflatten(flat, n_steps), prompts).mean().sqrt())
