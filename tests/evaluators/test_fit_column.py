"""Fits of a column through a real pipeline, and the job of the worker around them."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from autotune.evaluators import fit_column as fit_column_module
from autotune.evaluators.gradient_fit import FitSettings
from autotune.evaluators.load import load_model
from autotune.evaluators.worker import Worker
from autotune.search.cache_plans import even_actions, on_sites
from autotune.spaces.column_fit import FitColumn
from autotune.spaces.errors import EvaluatorError, FitMemoryError, ScheduleError
from autotune.spaces.evaluation import Fidelity, Measurement
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.solvers import make_solver
from autotune.storage.database import Database

from .mini_pipelines import denoiser_of, state

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse")
PROMPTS = Fidelity(name="calibration", prompts=tuple(f"a photo of a {c}" for c in CLASSES), seeds=tuple(range(8)))
QUICK = {
    FitColumn.COMPENSATION: FitSettings(rounds=((3, 6),), batch=6, penalty=0.0),
    FitColumn.SOLVER: FitSettings(rounds=((8, None),), batch=6, penalty=1e-3, squared=False),
    FitColumn.CORRECTION: FitSettings(rounds=((8, None),), batch=4, penalty=1e-3, squared=False),
}  # fmt: skip
CASES = {
    FitColumn.COMPENSATION: ("unipc-2", 6), FitColumn.SOLVER: ("unipc-2", 4), FitColumn.CORRECTION: ("ab2", 4),
}  # fmt: skip


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    database = Database.open(str(tmp_path_factory.mktemp("fit") / "a.db"))
    made = Worker(load_model("mini-flux"), artifacts=database.artifacts)
    made.reference(PROMPTS)
    return made


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer iterations than a study takes."""
    monkeypatch.setattr(fit_column_module, "SETTINGS", QUICK)


def plan_of(worker: Worker, solver: str, n: int) -> Schedule:
    noise = worker.condition.noise_schedule
    time = worker.own_timesteps(n)
    return Schedule(n_steps=n, time=time, solver=make_solver(solver, n, noise))


def measured(worker: Worker, schedule: Schedule, column: FitColumn) -> float:
    """Deviation on the prompts that the fit held out, as the fit averages it."""
    outcome = worker.score(schedule, PROMPTS)
    assert isinstance(outcome, Measurement)
    deviations = np.array(outcome.quality["deviation"][3::4])
    return float(np.sqrt(np.mean(deviations**2)) if QUICK[column].squared else deviations.mean())


def counting(worker: Worker) -> tuple[Callable[[], int], Any]:
    """How often the network was called since, and the hook to take off."""
    calls: list[int] = []
    return lambda: len(calls), denoiser_of(worker._pipe).register_forward_pre_hook(lambda *_: calls.append(1))


@pytest.mark.parametrize("column", QUICK)
def test_a_fit_brings_held_out_prompts_closer_and_is_made_once(worker: Worker, column: FitColumn) -> None:
    plan = plan_of(worker, *CASES[column])
    before = state(worker._pipe)
    fit = worker.fit(plan, column, PROMPTS)
    assert state(worker._pipe) == before
    assert fit.after < (0.97 if column is FitColumn.COMPENSATION else 0.8) * fit.before
    assert getattr(fit.schedule, column) != getattr(plan, column)
    assert replace(fit.schedule, **{name: getattr(plan, name) for name in ("time", "solver", column)}) == plan
    assert not fit.stopped
    # What the fit saw is what a user of the schedule gets.
    assert measured(worker, plan, column) == pytest.approx(fit.before, rel=1e-4)
    assert measured(worker, fit.schedule, column) == pytest.approx(fit.after, rel=1e-4)
    n_calls, hook = counting(worker)
    assert worker.fit(plan, column, PROMPTS) == fit
    assert n_calls() == 0
    hook.remove()


def test_a_quick_fit_brings_much_of_the_gain_for_a_part_of_the_runs(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_column_module, "QUICK_GRADIENTS", 3)
    plan = plan_of(worker, *CASES[FitColumn.CORRECTION])
    whole, quick = (worker.fit(plan, FitColumn.CORRECTION, PROMPTS, quick=quick) for quick in (False, True))
    assert quick.image_runs < 0.6 * whole.image_runs
    assert quick.before == whole.before
    assert whole.after < quick.after < 0.8 * quick.before


def test_a_fit_makes_up_for_what_a_cache_gets_wrong(worker: Worker) -> None:
    """Two of five calls forecast all blocks: what the coefficients were made for is not what comes."""
    plan = plan_of(worker, "unipc-2", 5)
    cached = replace(plan, cache=on_sites(even_actions(5, 3), worker.inventory, worker.inventory.outermost))
    fit = worker.fit(cached, FitColumn.SOLVER, PROMPTS)
    assert fit.schedule.cache == cached.cache
    assert fit.after < 0.8 * fit.before
    assert measured(worker, fit.schedule, FitColumn.SOLVER) == pytest.approx(fit.after, rel=1e-4)
    without = worker.fit(plan, FitColumn.SOLVER, PROMPTS).schedule
    assert fit.after < measured(worker, replace(without, cache=cached.cache), FitColumn.SOLVER)


def test_a_large_network_is_not_fitted_under_a_cache(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_column_module, "CHECKPOINT_ABOVE", 1000)
    plan = plan_of(worker, "unipc-2", 4)
    cached = replace(plan, cache=on_sites(even_actions(4, 2), worker.inventory, worker.inventory.outermost))
    with pytest.raises(ScheduleError, match="without cache and guidance columns"):
        worker.fit(cached, FitColumn.SOLVER, PROMPTS)


def test_no_more_images_are_drawn_together_than_in_a_study(worker: Worker) -> None:
    model = load_model("mini-flux")
    small = Worker(replace(model, preset=replace(model.preset, batch_size=2)))
    small._references = worker._references
    drawn: list[int] = []
    hook = denoiser_of(small._pipe).register_forward_pre_hook(
        lambda module, args, kwargs: drawn.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    fit = small.fit(plan_of(small, "ab2", 4), FitColumn.COMPENSATION, PROMPTS)
    hook.remove()
    assert max(drawn) == 2
    whole = worker.fit(plan_of(worker, "ab2", 4), FitColumn.COMPENSATION, PROMPTS)
    assert fit.after == pytest.approx(whole.after, rel=1e-2)


def test_a_fit_that_ran_out_of_time_is_not_kept(worker: Worker) -> None:
    plan = plan_of(worker, "ab2", 3)
    stopped = worker.fit(plan, FitColumn.COMPENSATION, PROMPTS, timeout_s=0.0)
    assert stopped.stopped
    assert stopped.after == stopped.before
    assert stopped.image_runs == 2  # the held-out prompts, once
    whole = worker.fit(plan, FitColumn.COMPENSATION, PROMPTS)
    assert not whole.stopped
    assert whole.image_runs > stopped.image_runs


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_steps_are_refused(worker: Worker, n: int) -> None:
    with pytest.raises(ScheduleError, match=f"compensation needs at least 3 steps, the polynomial's points; got {n}"):
        worker.fit(plan_of(worker, "euler", n), FitColumn.COMPENSATION, PROMPTS)


@pytest.mark.parametrize("column", QUICK)
def test_a_schedule_without_a_solver_or_with_noise_is_refused(worker: Worker, column: FitColumn) -> None:
    with pytest.raises(ScheduleError, match="time and solver are needed"):
        worker.fit(Schedule(n_steps=4), column, PROMPTS)
    step = SolverStep(view="data", domain="lambda", order=1, stochastic=1.0)
    plan = replace(plan_of(worker, "euler", 4), solver=(step,) * 4)
    with pytest.raises(ScheduleError, match="deterministic run; got a stochastic solver"):
        worker.fit(plan, column, PROMPTS)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(torch.OutOfMemoryError("CUDA out of memory"), FitMemoryError), (RuntimeError("CUDA fault"), EvaluatorError)],
)
def test_a_network_that_fails_is_the_evaluators_error_but_for_memory(
    worker: Worker, error: Exception, kind: type[Exception]
) -> None:
    def fail(*_: object) -> None:
        raise error

    before = state(worker._pipe)
    hook = denoiser_of(worker._pipe).register_forward_pre_hook(fail)
    with pytest.raises(kind, match=f"the compensation of a schedule can't be fitted: {error}"):
        worker.fit(plan_of(worker, "euler", 5), FitColumn.COMPENSATION, PROMPTS)
    hook.remove()
    assert state(worker._pipe) == before


@pytest.mark.parametrize("failing", [False, True])
def test_weights_that_take_gradients_get_none_and_go_on_to_take_them(worker: Worker, failing: bool) -> None:
    """As in a pipeline that the user has loaded."""
    weights = list(denoiser_of(worker._pipe).parameters())
    for weight in weights[1:]:
        weight.requires_grad_(True)

    def fail_if_asked(*_: object) -> None:
        if failing:
            raise ZeroDivisionError

    hook = denoiser_of(worker._pipe).register_forward_pre_hook(fail_if_asked)
    plan = plan_of(worker, "euler", 3 + failing)
    with pytest.raises(ZeroDivisionError) if failing else contextlib.nullcontext():
        worker.fit(plan, FitColumn.COMPENSATION, PROMPTS)
    hook.remove()
    assert all(weight.grad is None for weight in weights)
    assert [weight.requires_grad for weight in weights] == [False] + [True] * (len(weights) - 1)
    for weight in weights:
        weight.requires_grad_(False)
