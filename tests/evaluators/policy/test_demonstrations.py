import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from autotune.evaluators.policy.demonstrations import Demonstration, record_demonstrations
from autotune.evaluators.policy.training import noise_scheduler, train_policy, training_windows
from autotune.evaluators.policy.transformer import PolicyTransformer


def test_labels_are_clean_on_states_that_noise_led_to() -> None:
    pytest.importorskip("metaworld")
    shown = record_demonstrations(("reach", "push"), 3)
    assert len(shown) == 6
    assert any(one.disturbed.any() for one in shown)
    again = record_demonstrations(("reach",), 2)
    for one, other in zip(shown, again, strict=False):
        np.testing.assert_array_equal(one.actions, other.actions)
    reach = next(one for one in shown[:3] if one.disturbed.any())
    hand, goal = reach.observations[:, :3], reach.observations[:, 18:21]
    heading = np.sign(goal - hand)
    clear = np.abs(goal - hand) > 0.01
    # The expert of reach heads for the goal in every state, in those after a push too.
    assert (np.sign(reach.actions[:, :3]) == heading)[clear].all()


def made(n: int, disturbed: list[int]) -> Demonstration:
    times: NDArray[np.float32] = np.arange(n, dtype=np.float32)
    flags = np.zeros(n, bool)
    flags[disturbed] = True
    return Demonstration(
        observations=times[:, None] + np.float32(100), actions=times[:, None] / np.float32(n), disturbed=flags
    )


def test_windows_begin_with_the_first_observation_and_repeat_the_ends() -> None:
    observations, actions = training_windows([made(6, [])], horizon=4, n_observations=2)
    assert observations.shape == (6, 2, 1)
    assert observations[0].flatten().tolist() == [100.0, 100.0]
    assert observations[3].flatten().tolist() == [102.0, 103.0]
    assert (6 * actions[3]).flatten().tolist() == [2.0, 3.0, 4.0, 5.0]
    assert (6 * actions[0]).flatten().tolist() == [0.0, 0.0, 1.0, 2.0]
    assert (6 * actions[5]).flatten().tolist() == [4.0, 5.0, 5.0, 5.0]


def test_windows_whose_future_was_disturbed_are_left_out() -> None:
    observations, _ = training_windows([made(12, [6])], horizon=4, n_observations=2)
    assert (observations[:, 1, 0] - 100.0).tolist() == [0, 1, 2, 3, 7, 8, 9, 10, 11]


def test_training_learns_what_observations_say() -> None:
    generator = torch.Generator().manual_seed(0)
    observations = torch.randn(400, 2, 5, generator=generator)
    actions = observations[:, -1:, :2].clamp(-1, 1).expand(400, 6, 2).contiguous()
    network = PolicyTransformer(action_dim=2, observation_dim=5, horizon=6, width=32, n_layers=1, n_heads=2)
    scheduler, told = noise_scheduler(), list[int]()
    trained = train_policy(
        network, scheduler, observations, actions, n_steps=600, batch_size=64, learning_rate=3e-3,
        report=lambda step, loss: told.append(step),
    )  # fmt: skip
    noise, levels = torch.randn(actions.shape, generator=generator), torch.arange(400) % 100
    noisy, velocity = (make(actions, noise, levels) for make in (scheduler.add_noise, scheduler.get_velocity))
    right, wrong = (
        float((trained(noisy, levels, seen)[0] - velocity).square().mean())
        for seen in (observations, observations.roll(1, 0))
    )
    assert right < 0.6 * wrong
    assert told == [500]
    assert all(torch.equal(p, p.half().float()) for p in trained.parameters())
