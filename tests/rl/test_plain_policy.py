import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from metarl.errors import SettingsError
from metarl.rl.plain_policy import PlainGaussian, plain_policy
from metarl.rl.policies import CategoricalPolicy, GaussianPolicy

OBSERVED = spaces.Box(-np.inf, np.inf, (3,), np.float32)


@pytest.fixture
def policies(generator):
    """A Gaussian policy, and parameters of two tasks."""
    policy = GaussianPolicy(3, 2, generator, (5, 4), activation="tanh", min_std=0.1)
    params = policy.initial(generator, 2)
    params = {n: p + torch.randn(p.shape, generator=generator) for n, p in params.items()}
    params["log_std"][1, 0] = -9.0  # below the least deviation
    return policy, params


@pytest.mark.parametrize("task", [0, 1])
def test_a_plain_policy_gives_the_same_clipped_to_the_limits(policies, generator, task):
    policy, params = policies
    actions = spaces.Box(np.float32([-1, -0.2]), np.float32([1, np.inf]))
    plain = plain_policy(policy, params, OBSERVED, actions, task)
    observations = torch.randn(9, 3, generator=generator)
    expected = policy.distribution(params, observations.expand(2, 9, 3))
    action, mean, std = plain(observations)
    torch.testing.assert_close(mean, expected.mean[task])
    torch.testing.assert_close(std, expected.log_std[task].exp().expand(9, 2))
    assert std.min() >= 0.0999
    assert torch.equal(action, mean.clamp(torch.tensor([-1.0, -0.2]), torch.tensor([1.0, 1.0])))
    assert (action != mean).any() and (action == mean).any()
    assert plain.expects().startswith("2 numbers between [-1.0, -0.2] and 1, ")
    assert not [p for p in plain.parameters() if p.requires_grad]


def test_numbered_actions_are_the_likeliest(generator):
    policy = CategoricalPolicy(3, 4, generator, ())
    params = policy.initial(generator, 1)
    plain = plain_policy(policy, params, OBSERVED, spaces.Discrete(4))
    observations = torch.randn(9, 3, generator=generator)
    expected = policy.distribution(params, observations[None])
    action, log_probs = plain(observations)
    assert torch.equal(action, expected.mode()[0])
    torch.testing.assert_close(log_probs, expected.logits[0].log_softmax(-1))
    assert "0 to 3" in plain.expects()


def test_it_is_a_copy(policies):
    policy, params = policies
    plain = plain_policy(policy, params, OBSERVED, spaces.Box(-1, 1, (2,)))
    assert isinstance(plain, PlainGaussian)
    before = plain(torch.ones(1, 3))[1]
    for p in params.values():
        p += 1
    assert torch.equal(plain(torch.ones(1, 3))[1], before)
    assert plain.observation_size == 3 and len(plain.linear) == 3
    assert isinstance(list(plain.network.children())[1], nn.Tanh)


def test_other_policies_are_refused():
    with pytest.raises(SettingsError, match="got Module"):
        plain_policy(nn.Module(), {}, OBSERVED, spaces.Discrete(2))
