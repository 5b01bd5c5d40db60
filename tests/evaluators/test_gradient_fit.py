"""The fit's own logic, on losses that are quadratics in the program's coefficients: no network runs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autotune.evaluators.fit_parameters import FitParameters
from autotune.evaluators.gradient_fit import FitSettings, fit_parameters
from autotune.evaluators.gradient_run import ProgramTensors
from autotune.spaces.errors import ScheduleError
from autotune.spaces.schedule import Schedule
from autotune.spaces.solver_program import SolverProgram

Array = NDArray[np.float64]

N = 3
TARGET = np.array([0.4, -0.3, 0.2])
TRAIN, HELD_OUT = np.arange(6), np.arange(6, 9)
SETTINGS = FitSettings(rounds=((10, None),) * 6, batch=6, penalty=0.0)


def build(theta: Array) -> SolverProgram:
    """A run of three calls whose outputs have the factors theta, squared plus theta in the last place."""
    outputs = np.diag([theta[0], theta[1], theta[2] + theta[2] ** 2])
    return SolverProgram(
        timesteps=np.array([3.0, 2.0, 1.0]), state_coefs=np.eye(N), output_coefs=outputs, noise_coefs=np.zeros(N)
    )


PARAMETERS = FitParameters(n=N, build=build, finish=lambda theta: Schedule(n_steps=N))


def distance(tensors: ProgramTensors, prompts: NDArray[np.int64], target: Array = TARGET) -> torch.Tensor:
    """How far the factors are from those of `target`, the same for all prompts."""
    goal = torch.tensor(build(target).output_coefs).float()
    return (tensors.output_coefs - goal).flatten().expand(len(prompts), -1)


def test_it_finds_the_minimum() -> None:
    fit = fit_parameters(PARAMETERS, distance, TRAIN, HELD_OUT, SETTINGS)
    np.testing.assert_allclose(fit.theta, TARGET, atol=1e-4)
    assert fit.before == pytest.approx(float(np.linalg.norm(build(TARGET).output_coefs)), rel=1e-5)
    assert fit.after < 1e-3 * fit.before
    assert not fit.stopped


def ill_conditioned(tensors: ProgramTensors, prompts: NDArray[np.int64]) -> torch.Tensor:
    """Factors that almost do the same, and one that does a thousand times more than another."""
    mix = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.02, 0.0], [0.0, 0.0, 0.001]]) @ torch.diag(
        torch.tensor([1.0, 1.0, 1.0])
    )
    return (distance(tensors, prompts).reshape(-1, N, N).diagonal(dim1=1, dim2=2)) @ mix.T


def test_whitening_makes_up_for_parameters_that_do_almost_the_same() -> None:
    """The way there takes few gradients; without it, directions of little effect are left for last."""
    settings = replace(SETTINGS, rounds=((8, None),), damping=1e-9)
    whitened = fit_parameters(PARAMETERS, ill_conditioned, TRAIN, HELD_OUT, settings)
    plain = fit_parameters(PARAMETERS, ill_conditioned, TRAIN, HELD_OUT, replace(settings, damping=1e9))
    assert whitened.after < 1e-3 * whitened.before
    assert whitened.after < 0.1 * plain.after


def test_its_cost_is_counted() -> None:
    """A gradient counts three times; probes come first, held-out prompts at the start and after each iteration."""
    runs = {"plain": 0, "gradient": 0}

    def loss(tensors: ProgramTensors, prompts: NDArray[np.int64]) -> torch.Tensor:
        runs["gradient" if tensors.output_coefs.requires_grad else "plain"] += len(prompts)
        return distance(tensors, prompts)

    fit = fit_parameters(PARAMETERS, loss, TRAIN, HELD_OUT, replace(SETTINGS, rounds=((5, None),), batch=4))
    assert fit.image_runs == runs["plain"] + 3 * runs["gradient"]
    assert runs["gradient"] <= 5 * len(TRAIN)


def test_batches_do_not_change_the_fit() -> None:
    """They bound the memory, nothing else."""
    whole = fit_parameters(PARAMETERS, noisy, TRAIN, HELD_OUT, SETTINGS)
    parts = fit_parameters(PARAMETERS, noisy, TRAIN, HELD_OUT, replace(SETTINGS, batch=4))
    np.testing.assert_allclose(whole.theta, parts.theta, atol=1e-3)


def test_a_penalty_draws_towards_the_plain_solver() -> None:
    free = fit_parameters(PARAMETERS, distance, TRAIN, HELD_OUT, SETTINGS).theta
    held = fit_parameters(PARAMETERS, distance, TRAIN, HELD_OUT, replace(SETTINGS, penalty=100.0)).theta
    assert np.all(np.abs(held) < 0.3 * np.abs(free))
    assert np.all(held * free > 0)


def with_outlier(tensors: ProgramTensors, prompts: NDArray[np.int64]) -> torch.Tensor:
    """One prompt of six wants the opposite of the others."""
    return torch.cat([distance(tensors, prompts[i : i + 1], TARGET if p else -TARGET) for i, p in enumerate(prompts)])


def test_an_outlier_moves_the_mean_square_and_not_the_mean() -> None:
    squared = fit_parameters(PARAMETERS, with_outlier, TRAIN, TRAIN, SETTINGS)
    mean = fit_parameters(PARAMETERS, with_outlier, TRAIN, TRAIN, replace(SETTINGS, squared=False))
    np.testing.assert_allclose(squared.theta[:2], 2 / 3 * TARGET[:2], rtol=0.05)
    np.testing.assert_allclose(mean.theta, TARGET, rtol=0.05)


def overfitting(tensors: ProgramTensors, prompts: NDArray[np.int64]) -> torch.Tensor:
    """The training prompts want all of TARGET, the held-out ones half of it."""
    return distance(tensors, prompts, TARGET if prompts[0] < HELD_OUT[0] else 0.5 * TARGET)


def test_the_best_held_out_parameters_are_the_result_and_not_the_last() -> None:
    fit = fit_parameters(PARAMETERS, overfitting, TRAIN, HELD_OUT, SETTINGS)
    np.testing.assert_allclose(fit.theta, 0.5 * TARGET, atol=0.2)
    last = fit_parameters(PARAMETERS, distance, TRAIN, HELD_OUT, SETTINGS).theta
    assert np.linalg.norm(fit.theta - last) > 0.15
    assert fit.after < 0.3 * fit.before


def test_a_round_without_gain_is_the_last_one() -> None:
    settings = replace(SETTINGS, rounds=((5, None),) * 40)
    scored: list[float] = []
    n_gradients = 0

    def loss(tensors: ProgramTensors, prompts: NDArray[np.int64]) -> torch.Tensor:
        nonlocal n_gradients
        n_gradients += int(tensors.output_coefs.requires_grad)
        values = overfitting(tensors, prompts)
        if prompts[0] >= HELD_OUT[0]:
            scored.append(float(values.square().sum()))
        return values

    fit_parameters(PARAMETERS, loss, TRAIN, HELD_OUT, settings)
    assert int(np.argmin(scored)) < len(scored) - 1
    assert n_gradients < 50


def test_parameters_are_whitened_anew_where_a_round_begins() -> None:
    probed: list[torch.Tensor] = []

    def loss(tensors: ProgramTensors, prompts: NDArray[np.int64]) -> torch.Tensor:
        if prompts[0] < HELD_OUT[0] and not tensors.output_coefs.requires_grad:
            probed.append(tensors.output_coefs)
        return noisy(tensors, prompts)

    settings = replace(SETTINGS, rounds=((2, None), (2, None)))
    fit_parameters(PARAMETERS, loss, TRAIN, HELD_OUT, settings)
    first = fit_parameters(PARAMETERS, noisy, TRAIN, HELD_OUT, replace(settings, rounds=((2, None),))).theta
    assert len(probed) == 2 * (N + 1)
    np.testing.assert_allclose(probed[0], build(np.zeros(N)).output_coefs)
    np.testing.assert_allclose(probed[N + 1], build(first).output_coefs, rtol=1e-6)


@pytest.mark.parametrize(("max_runs", "n_probed"), [(None, 3), (200, 3), (80, 2), (30, 1)])
def test_whitening_takes_a_part_of_the_runs_that_are_left(max_runs: int | None, n_probed: int) -> None:
    """Three prompts would take N + 1 runs each."""
    probed = 0

    def loss(tensors: ProgramTensors, prompts: NDArray[np.int64]) -> torch.Tensor:
        nonlocal probed
        if prompts[0] < HELD_OUT[0] and not tensors.output_coefs.requires_grad:
            probed += len(prompts)
        return distance(tensors, prompts)

    settings = replace(SETTINGS, rounds=((4, None),), n_probed=3)
    fit_parameters(PARAMETERS, loss, TRAIN, HELD_OUT, settings, max_image_runs=max_runs)
    assert probed == n_probed * (N + 1)


@pytest.mark.parametrize("wall", [range(3, 5), range(13, 15), range(21, 24), range(29, 31)])
def test_parameters_without_a_program_are_gone_around(wall: range) -> None:
    """There is none for some of the parameters that are tried, in whitening and in the search."""
    n_built = 0

    def walled(theta: Array) -> SolverProgram:
        nonlocal n_built
        n_built += 1
        if n_built in wall:
            raise ScheduleError("time must decrease strictly")
        return build(theta)

    fit = fit_parameters(replace(PARAMETERS, build=walled), distance, TRAIN, HELD_OUT, SETTINGS)
    assert n_built > wall.stop
    np.testing.assert_allclose(fit.theta, TARGET, atol=2e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [1, 3])
def test_a_loss_that_is_not_finite_costs_one_gradient(value: float, at: int) -> None:
    n_runs = 0

    def loss(tensors: ProgramTensors, prompts: NDArray[np.int64]) -> torch.Tensor:
        nonlocal n_runs
        n_runs += int(tensors.output_coefs.requires_grad)
        values = distance(tensors, prompts)
        return values * value if tensors.output_coefs.requires_grad and n_runs == at + 1 else values

    fit = fit_parameters(PARAMETERS, loss, TRAIN, HELD_OUT, SETTINGS)
    np.testing.assert_allclose(fit.theta, TARGET, atol=5e-3)


def test_a_start_without_a_program_is_left_as_it_is() -> None:
    def nowhere(theta: Array) -> SolverProgram:
        raise ScheduleError("no such formula")

    fit = fit_parameters(replace(PARAMETERS, build=nowhere), distance, TRAIN, HELD_OUT, SETTINGS)
    np.testing.assert_array_equal(fit.theta, np.zeros(N))
    assert fit.before == fit.after == float("inf")


def test_a_perfect_start_stays() -> None:
    def perfect(tensors: ProgramTensors, prompts: NDArray[np.int64]) -> torch.Tensor:
        return distance(tensors, prompts, np.zeros(N))

    fit = fit_parameters(PARAMETERS, perfect, TRAIN, HELD_OUT, SETTINGS)
    np.testing.assert_array_equal(fit.theta, np.zeros(N))
    assert fit.before == fit.after == 0.0


@pytest.mark.parametrize("n_polls", [0, 2, 5, 7])
def test_stop_ends_it_with_the_best_so_far(n_polls: int) -> None:
    polled = 0

    def stop() -> bool:
        nonlocal polled
        polled += 1
        return polled > n_polls

    fit = fit_parameters(PARAMETERS, distance, TRAIN, HELD_OUT, SETTINGS, stop)
    assert fit.stopped
    assert polled <= n_polls + 2  # what is under way is left
    assert fit.after <= fit.before
    assert (fit.after < fit.before) == (n_polls > N + 2)  # whitening polls N + 1 times


def noisy(tensors: ProgramTensors, prompts: NDArray[np.int64]) -> torch.Tensor:
    """Every prompt has a minimum of its own."""
    return torch.stack([distance(tensors, prompts[:1], TARGET * (1.0 + 0.1 * float(p)))[0] for p in prompts])


def test_the_seed_decides_everything() -> None:
    settings = replace(SETTINGS, rounds=((10, 4),) * 6, batch=2)
    first = fit_parameters(PARAMETERS, noisy, TRAIN, HELD_OUT, settings)
    np.random.seed(5)
    torch.manual_seed(5)
    second = fit_parameters(PARAMETERS, noisy, TRAIN, HELD_OUT, settings)
    np.testing.assert_array_equal(first.theta, second.theta)
    assert (first.before, first.after, first.image_runs) == (second.before, second.after, second.image_runs)
    other = fit_parameters(PARAMETERS, noisy, TRAIN, HELD_OUT, replace(settings, seed=1))
    assert not np.array_equal(first.theta, other.theta)


@pytest.mark.parametrize("last", [4, None])
def test_a_round_with_more_prompts_goes_on_where_one_gained_nothing(last: int | None) -> None:
    """Rounds see as many prompts as they say, the earlier ones' among them."""
    seen: list[set[int]] = []

    def loss(tensors: ProgramTensors, prompts: NDArray[np.int64]) -> torch.Tensor:
        if tensors.output_coefs.requires_grad:
            seen.append(set(prompts.tolist()))
        return distance(tensors, prompts, -TARGET if prompts[0] < HELD_OUT[0] else TARGET)  # the wrong way

    settings = replace(SETTINGS, rounds=((3, 2), (3, 2), (3, last)), batch=9)
    fit = fit_parameters(PARAMETERS, loss, TRAIN, HELD_OUT, settings)
    assert fit.after == fit.before
    assert [len(prompts) for prompts in seen] == [2] * 3
    seen.clear()
    fit_parameters(PARAMETERS, loss, TRAIN, HELD_OUT, replace(settings, rounds=((3, 2), (3, last))))
    assert [len(prompts) for prompts in seen] == [2] * 3 + [last or len(TRAIN)] * 3
    assert seen[0] < seen[-1] <= set(TRAIN.tolist())
