"""Fitting a program's parameters by gradient: distillation of a converged run into few steps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from autotune.evaluators.fit_parameters import FitParameters
from autotune.evaluators.gradient_run import ProgramTensors, flatten
from autotune.spaces.errors import ScheduleError
from autotune.spaces.solver_program import SolverProgram

Prompts: TypeAlias = NDArray[np.int64]
Build = Callable[[NDArray[np.float64]], SolverProgram]
Loss = Callable[[ProgramTensors, Prompts], torch.Tensor]
"""Squared relative deviation (m,) of the prompts with these m indices."""

_PROBE = 1e-5
_PERFECT = 1e-12
"""A loss at the rounding errors of float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How long and how carefully a fit goes.

    Adam (Kingma & Ba 2015) with a cosine schedule from `learning_rate`, in units of the parameters' scale, on batches
    of `batch` out of at most `n_train` prompts (None for all). `penalty` times the mean square of the parameters is
    added to the loss, relative to the loss at the start. Every `check_every` iterations the held-out prompts are
    scored: the best parameters there are the result, and after `patience` scorings without gain the fit ends. With
    `squared`, both are the mean square of the relative deviation, else its mean, which single outliers do not rule.
    """

    iterations: int
    learning_rate: float
    n_train: int | None
    batch: int
    penalty: float
    squared: bool = True
    check_every: int = 10
    patience: int = 5
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Fitted parameters; held-out deviation before and after, root mean square or mean as the settings say.

    `image_runs` counts runs over a prompt; one with gradients counts as three.
    """

    theta: NDArray[np.float64]
    before: float
    after: float
    image_runs: int
    stopped: bool


def fit_parameters(
    parameters: FitParameters,
    loss: Loss,
    train: Prompts,
    held_out: Prompts,
    settings: FitSettings,
    stop: Callable[[], bool] = lambda: False,
) -> Fit:
    """Minimise the loss over the prompts `train`, from theta = 0, stopped early on `held_out`.

    `stop` is polled once per iteration; once true, the fit ends with the best parameters so far. Where a step leads to
    parameters without a program or with a loss that is not finite, the fit goes on from the best ones, at half
    the learning rate.
    """
    rng = np.random.default_rng(settings.seed)
    train = train if settings.n_train is None else rng.choice(train, min(settings.n_train, len(train)), replace=False)
    theta = torch.zeros(parameters.n, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=settings.learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.iterations)
    image_runs, waited, stopped = 0, 0, False
    unit: float | None = None
    best, best_theta, before = float("inf"), theta.detach().clone(), float("nan")
    for iteration in range(settings.iterations + 1):
        stopped = stop()
        if iteration % settings.check_every == 0 or iteration == settings.iterations or stopped:
            score = _score(parameters.build, theta, loss, held_out, settings.squared)
            image_runs += len(held_out)
            before = score if iteration == 0 else before
            waited = 0 if score < best else waited + 1
            if score < best:
                best, best_theta = score, theta.detach().clone()
            if waited >= settings.patience or iteration == settings.iterations or stopped:
                break
        prompts = rng.choice(train, min(settings.batch, len(train)), replace=False)
        try:
            flat = _Compile.apply(theta, parameters.build)  # type: ignore[no-untyped-call]
        except ScheduleError:
            _go_back(theta, best_theta, optimizer)
            continue
        squares = loss(ProgramTensors.unflatten(flat), prompts)
        value = (squares if settings.squared else squares.clamp_min(_PERFECT).sqrt()).mean()
        image_runs += 3 * len(prompts)
        unit = max(float(value.detach()), _PERFECT) if unit is None and torch.isfinite(value) else unit
        optimizer.zero_grad()
        (value / (unit or 1.0) + settings.penalty * theta.square().mean()).backward()  # type: ignore[no-untyped-call]
        if not torch.isfinite(torch.nn.utils.clip_grad_norm_([theta], 10.0)):
            _go_back(theta, best_theta, optimizer)
            continue
        optimizer.step()
        decay.step()
    return Fit(theta=best_theta.double().numpy(), before=before, after=best, image_runs=image_runs, stopped=stopped)


@torch.no_grad()
def _go_back(theta: torch.Tensor, best_theta: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """To the best parameters, without the moments that led away from them and at half the learning rate."""
    theta.copy_(best_theta)
    optimizer.state.clear()
    for group in optimizer.param_groups:
        group["lr"] *= 0.5


@torch.no_grad()
def _score(build: Build, theta: torch.Tensor, loss: Loss, prompts: Prompts, squared: bool) -> float:
    try:
        flat = flatten(build(theta.double().numpy())).float()
    except ScheduleError:
        return float("inf")
    squares = loss(ProgramTensors.unflatten(flat), prompts)
    value = float(squares.mean().sqrt() if squared else squares.sqrt().mean())
    return value if np.isfinite(value) else float("inf")


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
        return (ctx.jacobian.T @ grads[0].double()).float(), None
