from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.errors import SettingsError, ShapeError
from metarl.models import MLP, task_params
from metarl.rl.joint_policy import JointPolicy, action_parts
from metarl.rl.policies import CategoricalPolicy, GaussianPolicy, policy_for
from metarl.trees import take_tasks

TASKS, SIZE = 3, 4
OBSERVATIONS = spaces.Box(-1, 1, (SIZE,), np.float32)


MIXED = spaces.Dict(
    gear=spaces.Discrete(3), gas=spaces.Box(-1, 1, (2,), np.float32), lights=spaces.MultiBinary(2)
)


@pytest.fixture(params=["gaussian", "categorical", "joint", "layer-norm"])
def policy(request, generator):
    if request.param == "joint":
        return policy_for((OBSERVATIONS, MIXED), generator, hidden=(8, 8))
    if request.param == "layer-norm":
        pair = (OBSERVATIONS, spaces.MultiDiscrete([3, 2]))
        return policy_for(pair, generator, hidden=(8, 8), layer_norm=True)
    if request.param == "gaussian":
        return GaussianPolicy(SIZE, 2, generator, hidden=(8, 8))
    return CategoricalPolicy(SIZE, 3, generator, hidden=(8, 8))


@pytest.fixture
def params(policy, generator):
    """Parameters that differ between the tasks."""
    drawn = [policy.initial(generator) for _ in range(TASKS)]
    return {n: torch.stack([d[n] for d in drawn]) for n in drawn[0]}


@pytest.mark.parametrize("batch", [(5,), (5, 6), (1,)])
def test_shapes(policy, params, batch, generator):
    observations = torch.randn(TASKS, *batch, SIZE, generator=generator)
    distribution = policy.distribution(params, observations)
    noise = policy.noise((TASKS, *batch), generator)
    actions = distribution.sample(noise)
    assert actions.shape == (TASKS, *batch, *policy.action_shape)
    assert distribution.log_prob(actions).shape == (TASKS, *batch)
    assert distribution.entropy().shape == (TASKS, *batch)
    assert distribution.mode().shape == actions.shape
    assert distribution.log_prob(actions).dtype == torch.float32


def test_each_task_has_a_policy_of_its_own(policy, params, generator):
    observations = torch.randn(TASKS, 5, SIZE, generator=generator)
    actions = policy.distribution(params, observations).mode()
    together = policy.distribution(params, observations).log_prob(actions)
    for t in range(TASKS):
        alone = policy.distribution(take_tasks(params, t, t + 1), observations[t : t + 1])
        torch.testing.assert_close(alone.log_prob(actions[t : t + 1]), together[t : t + 1])
    same = observations[:1].expand_as(observations)
    assert not torch.equal(*policy.distribution(params, same).log_prob(actions)[:2])


def test_samples_of_one_batch_dimension_are_those_of_two(policy, params, generator):
    observations = torch.randn(TASKS, 5, 6, SIZE, generator=generator)
    noise = policy.noise((TASKS, 5, 6), generator)
    two = policy.distribution(params, observations).sample(noise)
    one = policy.distribution(params, observations.flatten(1, 2)).sample(noise.flatten(1, 2))
    torch.testing.assert_close(two.flatten(1, 2), one)


def test_all_parameters_take_part_and_have_the_names_of_the_module(policy, params, generator):
    names = dict(policy.named_parameters())
    assert {n: p.shape for n, p in policy.initial(generator).items()} == {
        n: p.shape for n, p in names.items()
    }
    observations = torch.randn(TASKS, 50, SIZE, generator=generator)
    own = task_params(policy, TASKS)
    actions = policy.distribution(own, observations).sample(policy.noise((TASKS, 50), generator))
    policy.distribution(own, observations).log_prob(actions.detach()).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in names.values())


def test_the_same_generator_gives_the_same_parameters_and_noise(policy):
    draws = [
        (policy.initial(g)["network.layers.0.weight"], policy.noise((3, 2), g))
        for g in (torch.Generator().manual_seed(7), torch.Generator().manual_seed(7))
    ]
    torch.testing.assert_close(draws[0], draws[1], rtol=0, atol=0)


def test_the_deviation_starts_where_asked_and_has_a_floor(generator):
    policy = GaussianPolicy(SIZE, 2, generator, init_std=0.5, min_std=0.1)
    observations = torch.zeros(1, 1, SIZE)
    params = task_params(policy, 1)
    std = policy.distribution(params, observations).log_std.exp()
    torch.testing.assert_close(std, torch.full((1, 1, 2), 0.5))
    params["log_std"] = torch.full((1, 2), -50.0)
    std = policy.distribution(params, observations).log_std.exp()
    torch.testing.assert_close(std, torch.full((1, 1, 2), 0.1))


def test_the_spaces_choose_the_policy(generator):
    box = spaces.Box(-1, 1, (2,), np.float32)
    gaussian = policy_for((OBSERVATIONS, box), generator, hidden=(7,), init_std=0.3)
    assert isinstance(gaussian, GaussianPolicy)
    assert gaussian.action_shape == (2,)
    assert gaussian.network.sizes == (SIZE, 7, 2)
    assert gaussian.init_std == 0.3
    family = SimpleNamespace(observation_space=OBSERVATIONS, action_space=spaces.Discrete(5))
    categorical = policy_for(family, generator)
    assert isinstance(categorical, CategoricalPolicy)
    assert categorical.network.sizes == (SIZE, 100, 100, 5)


@pytest.mark.parametrize(
    "pair",
    [
        (spaces.Text(5), spaces.Discrete(2)),
        (OBSERVATIONS, spaces.Graph(OBSERVATIONS, None)),
        (OBSERVATIONS, spaces.Discrete(3, start=1)),
    ],
)
def test_other_spaces_are_refused(pair, generator):
    with pytest.raises(SettingsError, match="Expected"):
        policy_for(pair, generator)


@pytest.mark.parametrize("init_std, min_std", [(0.0, 1e-6), (1.0, 0.0), (0.1, 0.2), (-1.0, -2.0)])
def test_deviations_that_cannot_be_are_refused(init_std, min_std, generator):
    with pytest.raises(SettingsError, match="_std"):
        GaussianPolicy(SIZE, 2, generator, init_std=init_std, min_std=min_std)
    parts, network = action_parts(MIXED), MLP((SIZE, 7), generator)
    with pytest.raises(SettingsError, match="_std"):
        JointPolicy(parts, network, generator, init_std=init_std, min_std=min_std)


def test_policies_without_continuous_actions_ignore_the_deviation(generator):
    for space in (spaces.Discrete(3), spaces.MultiDiscrete([3, 2])):
        policy = policy_for((OBSERVATIONS, space), generator, init_std=0.0)
        assert "log_std" not in dict(policy.named_parameters())


def test_observations_of_another_size_are_refused(policy, params):
    with pytest.raises(ShapeError, match="Expected inputs"):
        policy.distribution(params, torch.zeros(TASKS, 5, SIZE + 1))


@pytest.mark.parametrize("discrete", [False, True])
def test_a_policy_of_a_users_network(discrete, generator):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 8), torch.nn.LayerNorm(8), torch.nn.Tanh(), torch.nn.Linear(8, 2)
    )
    actions = spaces.Discrete(2) if discrete else spaces.Box(-1, 1, (2,))
    policy = policy_for((spaces.Box(-1, 1, (3,)), actions), generator, network=net)
    observations = torch.randn(4, 6, 5, 3, generator=generator)
    params = task_params(policy, 4)
    outputs = net(observations)
    flat = policy.fixed(params)(observations.flatten(1, 2))
    full = policy.distribution(params, observations)
    if discrete:
        torch.testing.assert_close(full.logits, outputs)
        torch.testing.assert_close(flat.logits, outputs.flatten(1, 2))
    else:
        torch.testing.assert_close(full.mean, outputs)
        torch.testing.assert_close(flat.mean, outputs.flatten(1, 2))
    assert policy.initial(generator, 4)["network.0.weight"].shape == (4, 8, 3)
    with pytest.raises(
        SettingsError, match=r"from observations \[N, 3\] to \[N, 2\], got \(3, 8\)"
    ):
        policy_for((spaces.Box(-1, 1, (3,)), actions), generator, network=net[:1])
