import pytest
import torch

from autotune.evaluators.policy.transformer import PolicyTransformer, sinusoid

from .small_policy import make_policy, observations


def test_an_action_depends_on_earlier_actions_and_on_observations_up_to_its_own_time() -> None:
    network = make_policy().transformer
    sample = torch.randn(1, 10, 4, generator=torch.Generator().manual_seed(2)).requires_grad_(True)
    seen = observations(1).requires_grad_(True)
    for time in (0, 1, 9):
        output = network(sample, 7.0, seen)[0]
        on_actions, on_seen = torch.autograd.grad(output[0, time].sum(), (sample, seen))
        actions_used = on_actions[0].abs().sum(1) > 0
        assert actions_used.tolist() == [i <= time for i in range(10)]
        # Observation 0 is of the chunk's first action, observation 1 of the second.
        assert (on_seen[0].abs().sum(1) > 0).tolist() == [True, time >= 1]


def test_the_noise_level_matters_and_may_differ_within_a_batch() -> None:
    network = make_policy().transformer
    sample, seen = torch.randn(2, 10, 4), observations()
    both = network(sample, torch.tensor([3.0, 90.0]), seen)[0]
    for i, level in enumerate((3.0, 90.0)):
        alone = network(sample[i : i + 1], level, seen[i : i + 1])[0]
        torch.testing.assert_close(both[i : i + 1], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(both[0], network(sample, 90.0, seen)[0][0], rtol=0.01)


def test_observations_are_standardised_inside() -> None:
    network = make_policy().transformer
    sample, seen = torch.randn(2, 10, 4), observations()
    plain = network(sample, 5.0, seen)[0]
    mean, std = torch.linspace(-1, 1, 26), torch.linspace(0.1, 2, 26)
    network.observation_mean.copy_(mean)
    network.observation_std.copy_(std)
    torch.testing.assert_close(network(sample, 5.0, seen * std + mean)[0], plain, rtol=1e-4, atol=1e-5)


def test_the_default_has_the_layers_of_the_published_policy() -> None:
    with torch.device("meta"):
        network = PolicyTransformer()
    assert len(network.blocks) == 8
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(2.25e6, rel=0.01)


def test_a_sinusoid_tells_all_levels_apart() -> None:
    codes = sinusoid(torch.arange(100), 32)
    assert codes.shape == (100, 32)
    distances = torch.cdist(codes, codes) + 9.0 * torch.eye(100)
    assert distances.min() > 0.05
