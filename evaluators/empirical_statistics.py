"""Fitting the statistics of DPM-Solver-v3 to a pipeline, with its guidance, along its own trajectories."""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autotune.evaluators.solver_scheduler import SolverProgramScheduler
from autotune.spaces.empirical_statistics import EmpiricalStatistics
from autotune.spaces.errors import UsageError
from autotune.spaces.noise_schedule import KnownNoise
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_formula import Levels, Prediction, levels_of, view_of_output
from autotune.spaces.solver_program import SolverProgram, compile_program
from autotune.spaces.solvers import make_solver
from autotune.spaces.time_grid import uniform_lambda

Array = NDArray[np.float64]
Guided = Callable[[torch.Tensor, float], torch.Tensor]
"""The guided raw output (batch, *element) at a state of that shape and a model timestep, differentiable."""

N_SAMPLES = 32
N_LEVELS = 32

_LAM_STEP = 0.05
"""Half width in lambda of the differences along a trajectory."""
_SMALLEST_VARIANCE = 1e-8
"""Variance of f, relative to that of the data prediction and its mean square, below which it has no slope."""


@contextlib.contextmanager
def guided_calls(
    pipe: Any, arguments: Mapping[str, Any], noise: KnownNoise, prediction: Prediction
) -> Iterator[tuple[Guided, torch.Tensor]]:
    """The guided network of an unmodified pipeline as a function, and the starting noise that the pipeline draws.

    The pipeline is asked for one step with a scheduler that hands the network's guided output back as the latents;
    gradients flow because the call is made without its `torch.no_grad`. Afterwards it has its own scheduler again.

    Args:
        pipe: a diffusers pipeline.
        arguments: of its call, a batch of prompts or embeddings and a generator included.
        noise: what the timesteps stand for.
        prediction: what the network puts out.
    """
    own = pipe.scheduler
    call = inspect.unwrap(type(pipe).__call__)

    def run(t: float, on_state: float, on_output: float, **latents: torch.Tensor) -> torch.Tensor:
        program = SolverProgram(
            timesteps=np.array([t]),
            state_coefs=np.array([[on_state]]),
            output_coefs=np.array([[on_output]]),
            noise_coefs=np.zeros(1),
        )
        pipe.scheduler = SolverProgramScheduler.from_program(program, own, noise, prediction)
        wanted = dict(arguments) | latents | {"num_inference_steps": 1, "output_type": "latent"}
        images = call(pipe, **wanted).images
        assert isinstance(images, torch.Tensor)
        return images

    try:
        with torch.no_grad():
            start = run(noise.t_max, 1.0, 0.0)
        yield lambda x, t: run(t, 0.0, 1.0, latents=x), start
    finally:
        pipe.scheduler = own


def fit_statistics(
    batches: Iterable[tuple[Guided, torch.Tensor]],
    noise: KnownNoise,
    prediction: Prediction,
    *,
    t_start: float,
    n_levels: int = N_LEVELS,
    seed: int = 0,
) -> EmpiricalStatistics:
    """l, s and b on `n_levels` levels, uniform in lambda from `t_start` (Zheng et al. 2023, arXiv 2310.13268).

    Every sample runs through the levels once with UniPC-3. At each state, diag(d X / d x) of the data prediction X is
    estimated with one Rademacher probe and a reverse-mode product (its expectation is 1 - l over alpha), and dX / d
    lambda along the trajectory by a central difference: 3 calls and one backward pass per sample and level. Unlike the
    paper, s is shrunk towards 0 by the weight of one sample, so that tens of samples do where it takes thousands.

    Args:
        batches: network and starting noise (batch, *element) of each batch; at least two samples in all.
        noise: what the timesteps stand for.
        prediction: what the network puts out.
        t_start: timestep of the starting noise.
        n_levels: levels of the grid.
        seed: of the probes.

    Raises:
        UsageError: fewer than two samples.
        ScheduleError: the grid does not fit the noise schedule, or the network put out what is not finite.
    """
    times = uniform_lambda(noise, n_levels, t_start=t_start)
    levels = levels_of(times, noise)
    plan = Schedule(n_steps=n_levels, time=times, solver=make_solver("unipc-3", n_levels, noise))
    program = compile_program(plan, noise, prediction)
    generator = torch.Generator().manual_seed(seed)
    sums: list[_Moments] = [_Moments() for _ in times]
    for guided, start in batches:
        states, outputs = [start.detach()], []
        for i, moments in enumerate(sums):
            network = _DataPrediction(guided, noise, prediction)
            outputs.append(_collect(network, states[i], levels, i, moments, generator))
            row = program.terms[i]
            states.append(torch.stack([a * states[j] + b * outputs[j] for j, a, b in row]).sum(0))
    if sums[0].n < 2:
        raise UsageError(f"statistics need at least two samples; got {sums[0].n}")
    lam, alpha = np.array(levels.lam[:-1]), np.array(levels.alpha[:-1])
    k = np.stack([m.diagonal / m.n for m in sums])
    slope = np.gradient(k, lam, axis=0)
    s, b = np.zeros_like(k), np.zeros_like(k)
    for i, moments in enumerate(sums):
        s[i], b[i] = _least_squares(moments, k[i], slope[i], alpha[i], _log_alpha_slope(noise, levels, i))
    return EmpiricalStatistics(lam=lam, l=1.0 - alpha.reshape(-1, *(1,) * (k.ndim - 1)) * k, s=s, b=b)


class _DataPrediction:
    """The data prediction X and the raw output as functions of state and lambda."""

    def __init__(self, guided: Guided, noise: KnownNoise, prediction: Prediction) -> None:
        self.noise = noise
        self._guided, self._prediction = guided, prediction

    def __call__(self, x: torch.Tensor, t: float) -> tuple[torch.Tensor, torch.Tensor]:
        levels = levels_of([t], self.noise)
        on_state, on_output = view_of_output("data", self._prediction, levels.alpha[0], levels.sigma[0], levels.flow)
        output = self._guided(x, t)
        return on_state * x + on_output * output, output

    def at_lam(self, x: torch.Tensor, lam: float) -> torch.Tensor:
        return self(x, float(self.noise.t_from_lam(lam)))[0]


class _Moments:
    """Sums over samples at one level, in float64: first and second moments of (X, x, dX / d lambda), diag(dX/dx)."""

    def __init__(self) -> None:
        self.n = 0
        self._first = self._second = self.diagonal = np.zeros(())

    def add(self, values: tuple[torch.Tensor, torch.Tensor, torch.Tensor], diagonal: torch.Tensor) -> None:
        """Add a batch: tensors (batch, *element)."""
        z = torch.stack(values).detach().double().cpu().numpy()
        self.n += z.shape[1]
        self._first = self._first + z.sum(1)
        self._second = self._second + np.einsum("ab...,cb...->ac...", z, z)
        self.diagonal = self.diagonal + diagonal.double().sum(0).cpu().numpy()

    @property
    def mean(self) -> Array:
        """(3, *element)."""
        return np.asarray(self._first / self.n)

    @property
    def covariance(self) -> Array:
        """(3, 3, *element)."""
        return np.asarray(self._second / self.n - self.mean[:, None] * self.mean[None, :])


def _collect(
    network: _DataPrediction, x: torch.Tensor, levels: Levels, i: int, moments: _Moments, generator: torch.Generator
) -> torch.Tensor:
    """Add the state x of level i to the moments; the raw output there."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        data, output = network(x, levels.t[i])
        probe = 2.0 * torch.randint(2, x.shape, generator=generator).to(x) - 1.0
        (product,) = torch.autograd.grad((data * probe).sum(), x)
    x, data = x.detach(), data.detach()
    with torch.no_grad():
        lam = levels.lam[i]
        low, high = max(lam - _LAM_STEP, levels.lam[0]), min(lam + _LAM_STEP, levels.lam[-2])
        direction = (_log_alpha_slope(network.noise, levels, i) - 1.0) * x + levels.alpha[i] * data
        ends = [network.at_lam(x + (at - lam) * direction, at) for at in (low, high)]
        moments.add((data, x, (ends[1] - ends[0]) / (high - low)), probe * product)
    return output.detach()


def _log_alpha_slope(noise: KnownNoise, levels: Levels, i: int) -> float:
    """The derivative of log alpha by lambda."""
    lam = levels.lam[i]
    low, high = max(lam - _LAM_STEP, levels.lam[0]), min(lam + _LAM_STEP, levels.lam[-2])
    alpha = [float(noise.alpha(noise.t_from_lam(at))) for at in (low, high)]
    return float(np.log(alpha[1] / alpha[0])) / (high - low)


def _least_squares(
    moments: _Moments, k: Array, slope: Array, alpha: float, log_alpha_slope: float
) -> tuple[Array, Array]:
    """Fit s and b of df / d lambda ~ s f + b, where f = k x - X with k = (1 - l) / alpha.

    The same as (sigma eps - l x) / alpha, without the cancellation where alpha is small.
    """
    one = np.ones_like(k)
    f = np.stack([-one, k, 0 * one])
    # d x / d lambda = (d log alpha / d lambda - 1) x + alpha X
    df = np.stack([k * alpha, slope + k * (log_alpha_slope - 1.0), -one])
    mean, covariance = moments.mean, moments.covariance
    variance = np.einsum("a...,ac...,c...->...", f, covariance, f)
    joint = np.einsum("a...,ac...,c...->...", f, covariance, df)
    # A slope from few samples is wild where f hardly varies: one more sample, of slope 0 and the level's mean variance.
    variance = variance + variance.mean() / moments.n
    varies = variance > _SMALLEST_VARIANCE * (mean[0] ** 2 + covariance[0, 0])
    s = np.where(varies, joint / np.where(varies, variance, 1.0), 0.0)
    return s, (df * mean).sum(0) - s * (f * mean).sum(0)
