"""Fitting a program's parameters by gradient: distillation of a converged run into few steps."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from autotune.evaluators.fit_parameters import FitParameters
from autotune.evaluators.gradient_run import ProgramTensors, flatten
from autotune.evaluators.peak_memory import is_out_of_memory
from autotune.spaces.errors import ScheduleError
from autotune.spaces.solver_program import SolverProgram

Array = NDArray[np.float64]
Prompts: TypeAlias = NDArray[np.int64]
Build = Callable[[Array], SolverProgram]
Residuals = Callable[[ProgramTensors, Prompts], torch.Tensor]
"""(m, d): what the prompts with these m indices end up off by; the norm of a row is its relative deviation."""

WHITENING_SHARE = 0.125
"""Of the runs that are left, where they are limited, a round spends at most this share on whitening, or one prompt."""

_PROBE = 1e-5
_PERFECT = 1e-12
"""A squared deviation at the rounding errors of float32."""

_LESS = 4096.0
"""By how much less a loss is scaled whose gradient overflows."""

_WORST = 10.0
"""What parameters without a finite result are taken for, in units of the deviation at the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How long and how carefully a fit goes.

    Each of `rounds` is a number of gradients, taken by L-BFGS (Liu & Nocedal 1989) with a `memory` of so many steps,
    and the prompts that they are of, at most so many (None for all), `batch` at a time. A round starts from the best
    parameters so far and moves ones that are whitened there: `n_probed` prompts tell what each does to the result, and
    those that do the same share one step (each costs a run per parameter). Directions that do less than `damping` of
    the mean hardly move. `penalty` times the mean square of the parameters, whitened at the start, where their unit is
    the deviation there, is added to the loss relative to it. After each iteration the held-out prompts are scored: the
    best parameters there are the result. A round without gain there is the last one, if the next would see the same
    prompts. With `squared`, loss and score are the mean square of the relative deviation, else its mean, which single
    outliers do not rule. `probe` is how far the whitening moves parameters: in half precision by more, as what a small
    move does is lost in rounding there. Where memory is short of a batch, the fit goes on with half of it.
    """

    rounds: tuple[tuple[int, int | None], ...]
    batch: int
    penalty: float
    squared: bool = True
    memory: int = 50
    n_probed: int = 1
    damping: float = 1e-2
    probe: float = 1e-3
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Fitted parameters; held-out deviation before and after, root mean square or mean as the settings say.

    `image_runs` counts runs over a prompt; one with gradients counts as three.
    """

    theta: Array
    before: float
    after: float
    image_runs: int
    stopped: bool


def fit_parameters(
    parameters: FitParameters,
    residuals: Residuals,
    train: Prompts,
    held_out: Prompts,
    settings: FitSettings,
    stop: Callable[[], bool] = lambda: False,
    max_image_runs: int | None = None,
) -> Fit:
    """Minimise the deviation over the prompts `train`, from theta = 0, stopped early on `held_out`.

    `stop` is polled before each gradient; once true, or where another one would pass `max_image_runs`, the fit ends
    with the best parameters so far.

    Raises:
        ScheduleError: `max_image_runs` is too few to score the start.
    """
    rng = np.random.default_rng(settings.seed)
    train = rng.permutation(train)
    if max_image_runs is not None and max_image_runs < len(held_out):
        raise ScheduleError(f"a fit needs {len(held_out)} image runs to score its start; {max_image_runs} are left")
    return _Fitter(parameters, residuals, train, held_out, settings, stop, max_image_runs).run()


class _Ended(Exception):
    """The round, or with it the fit, is over."""


class _Fitter:
    """One fit; `z` are the parameters whitened in this round, theta = origin + basis @ z."""

    def __init__(
        self,
        parameters: FitParameters,
        residuals: Residuals,
        train: Prompts,
        held_out: Prompts,
        settings: FitSettings,
        stop: Callable[[], bool],
        max_image_runs: int | None,
    ) -> None:
        self._parameters, self._residuals, self._settings = parameters, residuals, settings
        self._all, self._train, self._held_out, self._stop = train, train[:0], held_out, stop
        self._max_runs = float("inf") if max_image_runs is None else max_image_runs
        self._image_runs, self._n_left, self._stopped = 0, 0, False
        self._batch, self._scale = settings.batch, 1.0
        self._best, self._best_theta = float("inf"), np.zeros(parameters.n)
        self._unit: float | None = None
        self._to_whitened: Array | None = None

    def run(self) -> Fit:
        before = self._score(self._best_theta)
        self._best, gained = before, True
        if 0.0 < before < float("inf"):
            for n_gradients, n_prompts in self._settings.rounds:
                train, found = self._all[:n_prompts], self._best
                if self._stopped or (len(train) == len(self._train) and not gained):
                    break
                self._train, self._n_left = train, n_gradients
                self._round(before)
                gained = self._best < found
        return Fit(
            theta=self._best_theta,
            before=before,
            after=self._best,
            image_runs=self._image_runs,
            stopped=self._stopped,
        )

    def _round(self, unit: float) -> None:
        """Minimise from the best parameters so far, whitened in this unit."""
        self._origin = self._best_theta
        self._basis = unit * self._whitening(self._origin)
        if self._to_whitened is None:
            self._to_whitened = np.asarray(np.linalg.inv(self._basis))
        start, options = np.zeros(self._parameters.n), {"maxls": 10, "maxcor": self._settings.memory}
        with contextlib.suppress(_Ended):
            minimize(self._loss, start, jac=True, method="L-BFGS-B", callback=self._keep, options=options)

    def _whitening(self, theta: Array) -> Array:
        """Equal effects -> parameters: the inverse root of the Gauss-Newton matrix at theta, (n, n), symmetric.

        Where there are runs for fewer prompts than there should be, directions are damped by as much more.
        """
        wanted, probe, columns = self._settings.n_probed, self._settings.probe, []
        affordable = WHITENING_SHARE * (self._max_runs - self._image_runs) / (len(theta) + 1)
        probed = self._train[: max(1, int(min(wanted, affordable)))]
        for row in theta + probe * np.vstack([np.zeros(len(theta)), np.eye(len(theta))]):
            if self._polled(len(probed)):
                return np.eye(len(theta))
            columns.append(self._ends(row, probed).ravel())
        here = columns.pop(0)
        effects = [(column - here) / probe if column.shape == here.shape else 0.0 * here for column in columns]
        jacobian = np.nan_to_num(np.array(effects), posinf=0.0, neginf=0.0)
        strengths, directions = np.linalg.eigh(jacobian @ jacobian.T / len(probed))
        mean = float(strengths.mean())
        if not mean > 0.0:
            return np.eye(len(theta))
        damping = self._settings.damping * max(1.0, wanted / len(probed))
        scales = 1.0 / np.sqrt(np.maximum(strengths, 0.0) + damping * mean)
        return np.asarray(directions * scales @ directions.T)

    @torch.no_grad()
    def _ends(self, theta: Array, prompts: Prompts) -> Array:
        """The residuals (m, d); not a number where there is no program."""
        try:
            tensors = ProgramTensors.unflatten(flatten(self._parameters.build(theta)).float())
        except ScheduleError:
            return np.full((len(prompts), 1), np.nan)
        self._image_runs += len(prompts)
        parts = [prompts[i : i + self._batch] for i in range(0, len(prompts), self._batch)]
        return np.concatenate([self._residuals(tensors, part).double().numpy() for part in parts])

    def _loss(self, z: Array) -> tuple[float, Array]:
        """The loss relative to its value at the start, and its gradient."""
        # The score of the iteration that the gradient ends comes on top.
        if self._polled(3 * len(self._train) + len(self._held_out)) or self._n_left == 0:
            raise _Ended
        self._n_left -= 1
        settings = self._settings
        theta = torch.tensor(self._origin + self._basis @ z, requires_grad=True)
        try:
            total, gradient = self._total(theta)
            if np.isfinite(total) and not np.all(np.isfinite(gradient)):  # it was scaled up too far
                self._scale /= _LESS
                total, gradient = self._total(theta)
        except ScheduleError:
            return _WORST, np.zeros_like(z)
        if not (np.isfinite(total) and np.all(np.isfinite(gradient))):
            return _WORST, np.zeros_like(z)
        unit = self._unit = max(total, _PERFECT) if self._unit is None else self._unit
        assert self._to_whitened is not None
        penalty, whitened = settings.penalty / len(z), self._to_whitened @ theta.detach().numpy()
        gradient = gradient / unit + 2.0 * penalty * self._to_whitened.T @ whitened
        return total / unit + penalty * float(whitened @ whitened), self._basis.T @ gradient

    def _total(self, theta: torch.Tensor) -> tuple[float, Array]:
        """The loss of all prompts and its gradient, a batch at a time."""
        total, gradient, first = 0.0, np.zeros(len(theta)), 0
        while first < len(self._train):
            prompts = self._train[first : first + self._batch]
            found = self._gradient(theta, prompts)
            if found is None:
                self._batch = len(prompts) // 2
                continue
            total, gradient, first = total + found[0], gradient + found[1], first + len(prompts)
        return total, gradient

    def _gradient(self, theta: torch.Tensor, prompts: Prompts) -> tuple[float, Array] | None:
        """The loss of some prompts and its gradient; None where memory is short of more than one.

        What a mean over all elements hands back to each is too small for float16, so it is scaled up on its way.
        """
        try:
            flat = _Compile.apply(theta, self._parameters.build)  # type: ignore[no-untyped-call]
            residuals = self._residuals(ProgramTensors.unflatten(flat), prompts)
            squares = residuals.square().sum(dim=1)
            losses = squares if self._settings.squared else squares.clamp_min(_PERFECT).sqrt()
            loss = losses.sum() / len(self._train)
            scale = self._scale * 2.0 ** round(math.log2(len(self._train) * residuals.shape[1]))
            (gradient,) = torch.autograd.grad(scale * loss, theta)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if len(prompts) == 1 or not is_out_of_memory(error):
                raise
            return None
        self._image_runs += 3 * len(prompts)
        return float(loss.detach()), gradient.numpy() / scale

    def _keep(self, z: Array) -> None:
        """Score on the held-out prompts after an iteration."""
        theta = self._origin + self._basis @ z
        score = self._score(theta)
        if score < self._best:
            self._best, self._best_theta = score, theta

    def _score(self, theta: Array) -> float:
        squares = np.square(self._ends(theta, self._held_out)).sum(axis=1)
        value = float(np.sqrt(squares.mean()) if self._settings.squared else np.sqrt(squares).mean())
        return value if np.isfinite(value) else float("inf")

    def _polled(self, n_next: int) -> bool:
        """Whether to end before `n_next` more runs."""
        self._stopped = self._stop() or self._image_runs + n_next > self._max_runs
        return self._stopped


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
        return ctx.jacobian.T @ grads[0].double(), None
