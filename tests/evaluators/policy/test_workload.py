"""The trained policy in real episodes."""

import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from autotune.evaluators.load import LoadedModel, load_model
from autotune.evaluators.policy.simulator import TASKS
from autotune.evaluators.policy.workload import ACTION_ERROR, N_TIMED
from autotune.evaluators.worker import Worker
from autotune.spaces.column_fit import FitColumn
from autotune.spaces.errors import EvaluatorError, ScheduleError, UsageError
from autotune.spaces.evaluation import Failure, FailureKind, Fidelity, Measurement
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_step import SolverStep
from autotune.spaces.solvers import make_solver

pytest.importorskip("metaworld")

EPISODES = Fidelity(name="calibration", prompts=2 * TASKS, seeds=tuple(range(10)))


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model("mini-policy", device="cpu")


@pytest.fixture(scope="module")
def worker(model: LoadedModel) -> Worker:
    return Worker(model)


def measured(worker: Worker, schedule: Schedule, fidelity: Fidelity = EPISODES) -> Measurement:
    outcome = worker.score(schedule, fidelity)
    assert isinstance(outcome, Measurement)
    return outcome


def ddim(worker: Worker, n: int) -> Schedule:
    solver = make_solver("euler", n, worker.condition.noise_schedule)
    return Schedule(n_steps=n, time=worker.own_timesteps(n), solver=solver)


@pytest.mark.slow
def test_the_policy_does_its_tasks_with_the_full_run(worker: Worker) -> None:
    full = measured(worker, Schedule(n_steps=100))
    assert full.mean("success") >= 0.8
    assert full.quality[ACTION_ERROR] == (0.0,) * 10  # it is its own reference, from the same noise
    assert len(full.latency_ms) == 1
    assert full.network_calls == 100


def test_a_few_steps_do_the_tasks_too_and_noise_taken_for_actions_does_not(worker: Worker) -> None:
    few = measured(worker, ddim(worker, 8))
    assert few.mean("success") >= 0.8
    assert few.relative_latency < 0.4
    assert set(few.quality) == {"success", ACTION_ERROR}
    solver = make_solver("euler", 1, worker.condition.noise_schedule)
    noise = measured(worker, Schedule(n_steps=1, time=(5.0,), solver=solver), EPISODES.first(5))
    assert noise.mean("success") <= 0.2
    assert min(noise.quality[ACTION_ERROR]) > 0.5


def test_the_same_schedule_has_the_same_episodes(worker: Worker, model: LoadedModel) -> None:
    one, other = (measured(each, ddim(worker, 4), EPISODES.first(5)) for each in (worker, Worker(model)))
    assert one.quality["success"] == other.quality["success"]
    # The references were made in batches of different sizes.
    assert one.quality[ACTION_ERROR] == pytest.approx(other.quality[ACTION_ERROR], rel=1e-4)


def test_latency_is_that_of_single_chunks(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    act = type(worker._pipe).__call__

    def watched(pipe: object, observations: torch.Tensor, **options: object) -> object:
        if options["num_inference_steps"] == 3:  # not the baseline's, which may be due for another timing
            sizes.append(len(observations))
        return act(worker._pipe, observations, **options)

    measured(worker, ddim(worker, 2), EPISODES.first(5))  # the reference is there now
    monkeypatch.setattr(type(worker._pipe), "__call__", watched)
    measured(worker, ddim(worker, 3), EPISODES.first(5))
    assert sizes[: 1 + N_TIMED] == [5, *[1] * N_TIMED]
    assert max(sizes) == 5


def test_nothing_is_fitted_to_a_stochastic_run(worker: Worker) -> None:
    assert not worker.converges
    with pytest.raises(ScheduleError, match="converged run"):
        worker.fit(ddim(worker, 4), FitColumn.SOLVER, EPISODES)


def test_an_unknown_task_names_the_known_ones(worker: Worker) -> None:
    with pytest.raises((UsageError, EvaluatorError), match="reach, push"):
        worker.score(Schedule(n_steps=2), Fidelity(name="calibration", prompts=("juggle",), seeds=(0,)))


def test_without_the_simulator_the_error_says_what_to_install(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "metaworld", None)
    with pytest.raises(UsageError, match=r"pip install 'diffusion-autotune\[policy\]'"):
        Worker(model)


def test_rewards_of_images_are_refused(model: LoadedModel) -> None:
    class Reward:
        name, identity = "hps", "0"

        def score(self, images: torch.Tensor, prompts: Sequence[str], device: torch.device) -> tuple[float, ...]:
            return (0.0,) * len(prompts)

    with pytest.raises(UsageError, match="hps judge images"):
        Worker(model, rewards=[Reward()])


def test_what_searchers_ask_for_is_measured_on_a_policy_too(model: LoadedModel) -> None:
    worker = Worker(replace(model, preset=replace(model.preset, n_steps=8)))
    edges, costs = worker.edge_costs(EPISODES, 2), worker.cost_model(EPISODES)
    assert edges.n_calls == 8
    assert set(edges.leaf_errors) == {"self_attn", "cross_attn", "ff"}
    assert costs.relative_latency(Schedule(n_steps=8)) == pytest.approx(1.0, rel=0.05)
    assert costs.relative_latency(Schedule(n_steps=4)) < 0.7
    assert worker.branch_tables(EPISODES, 2).mean["cosine"].shape == (24, 8, 8)


def test_actions_that_are_no_numbers_are_a_failure(worker: Worker) -> None:
    row = SolverStep(view="data", domain="lambda", order=1, output_gain=100.0)
    outcome = worker.score(Schedule(n_steps=48, time=worker.own_timesteps(48), solver=(row,) * 48), EPISODES.first(5))
    assert isinstance(outcome, Failure)
    assert outcome.kind is FailureKind.NAN
