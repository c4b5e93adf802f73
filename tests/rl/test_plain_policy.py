import warnings

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from metarl.errors import SettingsError
from metarl.rl.plain_policy import PlainGaussian, plain_policy
from metarl.rl.policies import CategoricalPolicy, GaussianPolicy, policy_for
from metarl.sim import GymTasks, Uniform
from tests.sim.gymnasium.odd import odd

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
    actions = spaces.Box(np.float32([-np.inf, -0.2]), np.float32([np.inf, 1]))
    plain = plain_policy(policy, params, OBSERVED, actions, task)
    observations = torch.randn(9, 3, generator=generator)
    expected = policy.distribution(params, observations.expand(2, 9, 3))
    action, mean, std = plain(observations)
    torch.testing.assert_close(mean, expected.mean[task])
    torch.testing.assert_close(std, expected.log_std[task].exp().expand(9, 2))
    assert std.min() >= 0.0999
    # An infinite bound clips nothing, as in training.
    assert torch.equal(
        action, mean.clamp(torch.tensor([-np.inf, -0.2]), torch.tensor([np.inf, 1.0]))
    )
    assert (action != mean).any() and (action == mean).any() and (action[:, 0].abs() > 1).any()
    assert plain.expects().startswith("2 numbers between [-inf, -0.2] and [inf, 1.0], ")
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


@pytest.mark.parametrize(
    ("space", "text"),
    [
        (spaces.Discrete(3, start=5), "from 0 to 2, to which 5 is to be added: the environment's "),
        (spaces.MultiDiscrete([3, 2], start=[1, 0]), "2 choices from 0 to 2, 1 (the environment a"),
        (spaces.MultiBinary(2), "a vector of 2 switches (0 or 1);"),
        (
            spaces.Dict(gear=spaces.Discrete(2), gas=spaces.Box(0, 9, (1,))),
            "from 0 to 1, gas: 1 number; ",
        ),
        (spaces.Box(0, 9, (2,), np.int64), "The environment takes the nearest whole numbers."),
        (spaces.Box(-np.inf, np.inf, (2,)), "2 numbers without bounds, "),
    ],
)
def test_it_says_what_the_environment_takes(space, text, generator):
    env = odd(spaces.Box(-1, 1, (3,)), space)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The actions have no finite bounds")
        family = GymTasks(env, {"k": Uniform(0, 1)}, horizon=2)
        policy = policy_for(family, generator, ())
    params = policy.initial(generator, 1)
    plain = plain_policy(policy, params, family.observation_space, family.action_space)
    assert text in plain.expects()


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
