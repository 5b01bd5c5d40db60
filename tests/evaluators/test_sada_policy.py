"""SADA's criterion and estimates on scripted steps, against the formulas written out for equal steps."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from autotune.evaluators.noise import divides_by_alpha, noise_schedule_of
from autotune.evaluators.sada_policy import SadaPolicy
from autotune.evaluators.small_flux import small_flux_inventory
from autotune.spaces.cache_policy import CachePolicy, PolicyKind
from autotune.spaces.noise_schedule import Flow

ALPHA = 0.5
POSITIONS = np.array([1.0, 0.8, 0.6, 0.4, 0.2])
H, ROW = -0.2, 4


class Script:
    """Four computed calls of two branches with random outputs, slopes and states; the fifth call is asked about."""

    def __init__(self, kind: PolicyKind, *, flow: bool = False, **numbers: Any) -> None:
        rng = torch.Generator().manual_seed(2)
        self.outputs = torch.randn(ROW, 2, 3, 4, generator=rng)  # unconditional and conditional
        self.slopes = torch.randn(ROW, 1, 3, 4, generator=rng)  # guided, as the scheduler gets them
        samples = torch.randn(ROW + 1, 1, 3, 4, generator=rng)
        noise: Any = Flow(mu=0.0, dynamic=False)
        if not flow:
            noise = SimpleNamespace(alpha=lambda t: np.full(len(t), ALPHA), sigma=lambda t: ALPHA * np.array(t))
        self.states = samples / (1.0 if flow else ALPHA)
        policy = CachePolicy(kind=kind, **numbers)
        prediction: Any = "velocity" if flow else "noise"
        self.policy = SadaPolicy(policy, small_flux_inventory(), noise, prediction)
        self.policy.begin((1000.0 * POSITIONS if flow else POSITIONS).tolist())
        for row in range(ROW):
            given = self.policy.run(lambda output: (output,), (self.outputs[row],), {}, row=row, call=0, batch=2)
            assert torch.equal(given[0], self.outputs[row])
            self.policy.see_step(self.slopes[row], samples[row], (samples[row + 1],))

    def figure(self) -> float | None:
        return self.policy._figure(ROW)

    def estimate(self) -> torch.Tensor:
        estimate: torch.Tensor = self.policy._estimate(ROW, self.policy._outputs[0])[0]
        return estimate

    def extrapolated(self, *weights: float) -> torch.Tensor:
        """The last state, and these weights of the last slopes, newest first, in steps."""
        terms = [w * H * self.slopes[ROW - 1 - i] for i, w in enumerate(weights)]
        return self.states[ROW - 1] + torch.stack(terms).sum(dim=0)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))


STATE_WEIGHTS = {
    (PolicyKind.SADA, 2): (1.5, -0.5),
    (PolicyKind.SADA, 3): (23 / 12, -16 / 12, 5 / 12),
    (PolicyKind.SADA_RELEASED, 1): (0.625, 0.75, -0.375),
}


@pytest.mark.parametrize(("kind", "order"), STATE_WEIGHTS)
@pytest.mark.parametrize("flow", [False, True])
def test_the_criterion_is_the_product_of_extrapolation_error_and_curvature(
    kind: PolicyKind, order: int, flow: bool
) -> None:
    script = Script(kind, flow=flow, order=order)
    newest, middle, oldest = script.slopes[3], script.slopes[2], script.slopes[1]
    curvature = newest - 2 * middle + oldest
    if kind is PolicyKind.SADA_RELEASED and flow:
        expected = 1.0 - float(curvature.mean() / curvature.abs().mean())
    else:
        error = script.states[ROW] - script.extrapolated(*STATE_WEIGHTS[kind, order])
        expected = 1.0 + cosine(error, curvature)
    assert abs(expected - 1.0) > 0.01
    assert script.figure() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("order", "weights"), [(2, (2.0, -1.0)), (3, (3.0, -3.0, 1.0))])
@pytest.mark.parametrize("flow", [False, True])
def test_a_skipped_output_is_the_extrapolation_of_the_last(order: int, weights: tuple[float, ...], flow: bool) -> None:
    script = Script(PolicyKind.SADA, flow=flow, order=order)
    expected = sum(w * script.outputs[ROW - 1 - i] for i, w in enumerate(weights))
    torch.testing.assert_close(script.estimate(), expected, rtol=1e-4, atol=1e-4)


def test_as_released_the_data_are_those_of_the_last_noise_at_the_extrapolated_state() -> None:
    script = Script(PolicyKind.SADA_RELEASED)
    data = script.extrapolated(0.625, 0.75, -0.375) - POSITIONS[ROW] * script.outputs[ROW - 1]
    expected = (script.states[ROW] - data) / POSITIONS[ROW]
    torch.testing.assert_close(script.estimate(), expected, rtol=1e-4, atol=1e-4)


def test_as_released_a_flow_goes_on_from_two_velocities() -> None:
    script = Script(PolicyKind.SADA_RELEASED, flow=True)
    expected = 2 * script.outputs[3] - script.outputs[2]
    torch.testing.assert_close(script.estimate(), expected, rtol=1e-5, atol=1e-5)


def test_settled_the_data_of_the_last_calls_are_interpolated() -> None:
    script = Script(PolicyKind.SADA_MULTISTEP, order=2, settled=ROW, max_skips=2)
    assert script.figure() == 0.0
    data = [script.states[i] - POSITIONS[i] * script.outputs[i] for i in (3, 2, 1)]
    expected = (script.states[ROW] - (3 * data[0] - 3 * data[1] + data[2])) / POSITIONS[ROW]
    torch.testing.assert_close(script.estimate(), expected, rtol=1e-4, atol=1e-4)


def test_settled_as_released_four_data_are_interpolated() -> None:
    script = Script(PolicyKind.SADA_RELEASED_MULTISTEP, settled=ROW, max_skips=3)
    assert script.figure() == 0.0
    data = [script.states[i] - POSITIONS[i] * script.outputs[i] for i in (3, 2, 1, 0)]
    expected = (script.states[ROW] - (4 * data[0] - 6 * data[1] + 4 * data[2] - data[3])) / POSITIONS[ROW]
    torch.testing.assert_close(script.estimate(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("flow", [False, True])
def test_before_it_settles_the_released_rule_is_step_wise(flow: bool) -> None:
    script = Script(PolicyKind.SADA_RELEASED_MULTISTEP, flow=flow, settled=ROW + 1, max_skips=3)
    step_wise = Script(PolicyKind.SADA_RELEASED, flow=flow)
    assert script.figure() == step_wise.figure()
    assert torch.equal(script.estimate(), step_wise.estimate())


def test_settled_as_released_a_flow_still_goes_on_from_two_velocities() -> None:
    script = Script(PolicyKind.SADA_RELEASED_MULTISTEP, flow=True, settled=ROW, max_skips=3)
    assert script.figure() == 0.0
    torch.testing.assert_close(script.estimate(), 2 * script.outputs[3] - script.outputs[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [DDIMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize(("kind", "order"), [(PolicyKind.SADA, 2), (PolicyKind.SADA_RELEASED, 1)])
def test_states_are_extrapolated_whatever_the_scheduler_divides_them_by(
    make: Any, kind: PolicyKind, order: int
) -> None:
    """On Gaussian data, whose noise is known exactly, Adams-Bashforth is off by a small part of a step."""
    scheduler, std = make(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012), 0.5
    scheduler.set_timesteps(30)
    noise, times = noise_schedule_of(scheduler), scheduler.timesteps.tolist()
    alpha, sigma = noise.alpha(times), noise.sigma(times)
    by_alpha = divides_by_alpha(scheduler)
    assert by_alpha is (make is EulerDiscreteScheduler)
    policy = SadaPolicy(CachePolicy(kind=kind, order=order), small_flux_inventory(), noise, "noise", by_alpha=by_alpha)
    policy.begin(times)
    sample = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    errors = []
    for row, t in enumerate(scheduler.timesteps):
        if row > 3:
            assert policy._state is not None
            step = policy._state - policy._steps[0].state
            errors.append(float((policy._extrapolated_state(row) - policy._state).norm() / step.norm()))
        given = scheduler.scale_model_input(sample, t)
        output = given * sigma[row] / (alpha[row] ** 2 * std**2 + sigma[row] ** 2)
        policy._row = row
        result = scheduler.step(output, t, sample)
        policy.see_step(output, sample, result)
        sample = result.prev_sample
    assert np.median(errors) < 0.05
