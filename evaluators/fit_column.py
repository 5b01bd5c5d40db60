"""The fit job: a schedule's column, fitted by gradient through the pipeline to the converged run."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autotune.evaluators.fit_parameters import parameters_of
from autotune.evaluators.gradient_fit import FitSettings, Prompts, fit_parameters
from autotune.evaluators.gradient_run import ProgramTensors, run_with_gradient
from autotune.evaluators.solver_scheduler import SolverProgramScheduler
from autotune.spaces.column_fit import ColumnFit, FitColumn, FitTarget
from autotune.spaces.condition import Condition
from autotune.spaces.errors import ScheduleError
from autotune.spaces.schedule import Schedule

SETTINGS: Mapping[FitColumn, FitSettings] = {
    FitColumn.COMPENSATION: FitSettings(rounds=((15, 10),), batch=10, penalty=0.0),
    FitColumn.SOLVER: FitSettings(
        rounds=((20, None), (20, None)), batch=16, penalty=1e-3, squared=False, n_probed=4, damping=1e-3
    ),
    FitColumn.CORRECTION: FitSettings(
        rounds=((20, 8), (20, 16), (20, None)), batch=16, penalty=1e-3, squared=False, n_probed=4, damping=1e-3
    ),
}
"""DC-Solver's 10 prompts (Zhao et al. 2024, arXiv 2409.03755); corrections have more to learn.

From UniPC-2 in 8 calls of mini-flux, .0746 off on held-out prompts, corrections came to .0263 in four rounds of 10
gradients over 22 prompts, of which the third gained nothing (2500 runs), to .0201 in two rounds of 25 (4400), and to
.0193 in three of 20 over 8, 16 and 22 (4100): few prompts do until the fit comes close. There one probed prompt in
place of four left .0211, with 3300 runs. Times and factors of 5 calls, with 12 prompts to train on, came to .116 in
four rounds of 10, to .110 in two of 20, and to .126 where the first of these saw 8 prompts.
"""

QUICK_GRADIENTS = 10
QUICK_TRAIN: Mapping[FitColumn, int] = {FitColumn.COMPENSATION: 6, FitColumn.SOLVER: 6, FitColumn.CORRECTION: 12}
"""Gradients of a quick fit, and prompts of each, which every start draws anew.

At 8 steps one of times and factors leaves .46 of the error of mini-flux and .56 of that of mini-pixart on other
prompts, after 256 runs over one; with 12 prompts .42 and .43 after 440, with 4 .50 and .61 after 190. Fits that each go
on from the last one leave at 5 steps of mini-flux .62, .59, .59, .59 with the same 6, but .62, .62, .52, .51 with 4
drawn anew, and at 8 steps .65, .41, .34, .30 with the same 6, .65, .44, .38, .31 with 6 drawn anew. A joint study of
20,000 calls came as far with 4 (.439 of the hypervolume on calibration prompts) as with 6 (.440).
Corrections have more to learn: at 5 steps .53, .48, .42, .37 with the same 12, after 420 each, but .66, .61, .61, .61
with the same 6, after 250.
"""

CHECKPOINT_ABOVE = 50_000_000
"""Networks with more parameters keep no activations for the backward pass, but compute them again."""


def fit_column(
    pipe: Any,
    schedule: Schedule,
    column: FitColumn,
    *,
    condition: Condition,
    embeddings: Mapping[str, torch.Tensor],
    seeds: Sequence[int],
    reference: torch.Tensor,
    arguments: Mapping[str, Any],
    settings: FitSettings,
    guided: bool = False,
    stop: Callable[[], bool] = lambda: False,
    max_image_runs: int | None = None,
) -> ColumnFit:
    """Fit `column` so that the final latents come close to the converged run's: all steps at once, unlike DC-Solver.

    Args:
        pipe: the pipeline, without a schedule applied.
        schedule: with a solver; the other columns stay as they are, and are run.
        column: to be fitted.
        condition: what the schedule is for.
        embeddings: call arguments in place of the prompts, one row per seed.
        seeds: of the starting noise; every fourth prompt is held out for early stopping.
        reference: (n, channels, height, width) final latents of the converged run.
        arguments: the pipeline call's others.
        settings: see `settings_of`; batches are the condition's at most, and probes as wide as its precision asks for.
        guided: the run has classifier-free guidance.
        stop: polled between iterations; once true, the best so far is returned.
        max_image_runs: what it may cost; before more, too, the best so far is returned.

    Raises:
        ScheduleError: the schedule has no solver or a stochastic one, or too few steps for the column.
    """
    noise, prediction = condition.noise_schedule, condition.prediction
    parameters = parameters_of(schedule, column, noise, prediction, guided=guided)
    scheduler = SolverProgramScheduler.from_schedule(schedule, pipe.scheduler, noise, prediction)
    if scheduler.program.noise_coefs.any():
        raise ScheduleError("a column is fitted to a deterministic run; got a stochastic solver; set stochastic to 0")
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    columns = other_columns(schedule)
    checkpointed = _is_checkpointed(denoiser, columns)
    run = partial(run_with_gradient, pipe, scheduler, columns=columns, checkpointed=checkpointed, gained=guided)
    scale = reference.flatten(1).norm(dim=1, keepdim=True)

    def residuals(tensors: ProgramTensors, prompts: NDArray[np.int64]) -> torch.Tensor:
        chosen = prompts.tolist()
        rows = {name: tensor[chosen] for name, tensor in embeddings.items()}
        latents = run(tensors, rows, [seeds[i] for i in chosen], arguments)
        return torch.div((latents.cpu() - reference[chosen]).flatten(1), scale[chosen])

    probe = max(settings.probe, torch.finfo(denoiser.dtype).eps ** 0.5)
    settings = replace(settings, batch=min(settings.batch, condition.batch_size), probe=probe)
    train, held_out = _split(len(seeds))
    with _frozen(denoiser):
        fit = fit_parameters(parameters, residuals, train, held_out, settings, stop, max_image_runs)
    fitted = parameters.finish(fit.theta)
    return ColumnFit(
        schedule=fitted, before=fit.before, after=fit.after, image_runs=fit.image_runs, stopped=fit.stopped
    )


def _is_checkpointed(denoiser: torch.nn.Module, columns: Schedule | None) -> bool:
    """Whether activations are computed twice; ScheduleError where they must be and can't, under other columns."""
    checkpointed = sum(p.numel() for p in denoiser.parameters()) > CHECKPOINT_ABOVE
    if checkpointed and columns is not None:
        raise ScheduleError(
            f"a network of more than {CHECKPOINT_ABOVE:,} parameters is differentiated without cache and guidance "
            f"columns, since its activations don't fit; fit the schedule without them"
        )
    return checkpointed


def other_columns(schedule: Schedule) -> Schedule | None:
    """The columns that a fit runs and leaves alone, cache and guidance; None if there are none."""
    if schedule.cache is None and schedule.guidance is None:
        return None
    plans = (schedule.cache, schedule.unconditional_cache)
    return Schedule(n_steps=schedule.n_steps, cache=plans[0], unconditional_cache=plans[1], guidance=schedule.guidance)


def settings_of(column: FitColumn, quick: bool, seed: int = 0) -> FitSettings:
    """How a column is fitted; `seed` draws the prompts of a quick fit, which probes one of them."""
    settings = SETTINGS[column]
    if not quick:
        return settings
    rounds = ((QUICK_GRADIENTS, QUICK_TRAIN[column]),)
    return replace(settings, rounds=rounds, n_probed=1, damping=1e-2, seed=seed)


def settings_hash(column: FitTarget, quick: bool) -> str:
    """What tells fits by other settings apart; those of tables are the code's version."""
    settings = settings_of(column, quick) if isinstance(column, FitColumn) and column in SETTINGS else None
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:16]


def _split(n: int) -> tuple[Prompts, Prompts]:
    """Prompts to train on and to hold out; fewer than four are both."""
    prompts = np.arange(n)
    if n < 4:
        return prompts, prompts
    held_out = prompts[3::4]
    return np.setdiff1d(prompts, held_out), held_out


@contextlib.contextmanager
def _frozen(module: torch.nn.Module) -> Iterator[None]:
    """The module with weights that need no gradients; a user's pipeline comes with weights that do."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)
