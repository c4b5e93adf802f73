from itertools import product

import pytest
import torch
from metarl_envs import TabularMDP
from metarl_envs.navigation import Navigation2D

from metarl.errors import ShapeError, SimulationError
from metarl.models.base import task_params
from metarl.rl.baseline import LinearBaseline
from metarl.rl.experience import estimate_advantages
from metarl.rl.policies import policy_for
from metarl.rl.returns import discounted_returns
from metarl.rl.rollouts import alive, collect, draw_noise
from metarl.rl.settings import PolicyGradientSettings
from metarl.sim import TorchVectorEnv, WorldNoise
from metarl.trees import take_tasks, tensors_of
from tests.sim.families import Drift
from tests.sim.test_episode_ends import Framed

FAMILY = Navigation2D(horizon=30)
T, N = 3, 5


@pytest.fixture
def policy():
    return policy_for(FAMILY, torch.Generator().manual_seed(1), hidden=(8,))


def params_of(policy, generator):
    """Parameters that differ from task to task."""
    return {
        n: p.detach() + 0.3 * torch.randn(p.shape, generator=generator)
        for n, p in task_params(policy, T).items()
    }


def rolled(policy, generator):
    params = params_of(policy, generator)
    tasks = FAMILY.sample(T, generator).values
    noise = draw_noise(policy, FAMILY, T, N, generator)
    env = TorchVectorEnv(FAMILY, T * N, autoreset="disabled")
    return params, tasks, noise, collect(env, policy, params, tasks, noise)


def test_each_world_walks_by_the_policy_of_its_task(policy, generator):
    params, tasks, noise, rollouts = rolled(policy, generator)
    for t in range(T):
        own = {n: p[t : t + 1] for n, p in params.items()}
        for n in range(N):
            position = torch.zeros(2)
            for h in range(FAMILY.horizon):
                torch.testing.assert_close(rollouts.observations[t, n, h], position)
                distribution = policy.distribution(own, position.view(1, 1, 2))
                action = distribution.sample(noise.actions[t, n, h].view(1, 1, 2)).flatten()
                torch.testing.assert_close(
                    rollouts.actions[t, n, h], action.detach(), rtol=1e-4, atol=1e-5
                )
                position = position + 0.1 * action.detach().clamp(-1, 1)
                reward = -(position - tasks["goal"][t]).norm()
                torch.testing.assert_close(rollouts.rewards[t, n, h], reward)
                done = ((position - tasks["goal"][t]).abs() < 0.01).all()
                assert rollouts.terminated[t, n, h] == done
                if done:
                    assert rollouts.mask[t, n, h + 1 :].sum() == 0
                    assert rollouts.rewards[t, n, h + 1 :].abs().sum() == 0
                    break
            else:
                torch.testing.assert_close(rollouts.final_observations[t, n], position)
                assert rollouts.mask[t, n].all()


def test_behaviour_is_what_the_policy_gives_there(policy, generator):
    params, _, _, rollouts = rolled(policy, generator)
    again = policy.distribution(params, rollouts.observations)
    torch.testing.assert_close(again.kl(rollouts.behaviour), torch.zeros(T, N, FAMILY.horizon))
    torch.testing.assert_close(
        again.log_prob(rollouts.actions), rollouts.behaviour.log_prob(rollouts.actions)
    )


def test_a_task_gets_the_same_rollouts_alone(policy, generator):
    params, tasks, noise, together = rolled(policy, generator)
    for t in range(T):
        env = TorchVectorEnv(FAMILY, N, autoreset="disabled", seed=99)
        own = take_tasks((params, tasks, noise), t, t + 1)
        alone = collect(env, policy, *own)
        torch.testing.assert_close(alone.rewards[0], together.rewards[t], rtol=1e-4, atol=1e-5)


def test_returns_and_steps_count_the_episode_alone():
    terminated = torch.tensor([[[False, True, False, True]], [[False] * 4]])
    assert alive(terminated).tolist() == [[[1, 1, 0, 0]], [[1, 1, 1, 1]]]


def test_the_number_of_worlds_must_fit(policy, generator):
    noise = draw_noise(policy, FAMILY, T, N, generator)
    env = TorchVectorEnv(FAMILY, T * N + 1, autoreset="disabled")
    with pytest.raises(ShapeError, match="3 tasks x 5 trajectories = 15 worlds, got 16"):
        collect(env, policy, task_params(policy, T), FAMILY.sample(T, generator).values, noise)


def test_observations_that_are_not_finite_are_told(policy, generator):
    params, tasks, noise, _ = rolled(policy, generator)
    tasks["goal"][1, 0] = torch.nan
    env = TorchVectorEnv(FAMILY, T * N, autoreset="disabled")
    with pytest.raises(SimulationError, match="World 5"):
        collect(env, policy, params, tasks, noise)


def test_noise_has_the_tasks_leading(policy, generator):
    noise = draw_noise(policy, FAMILY, T, N, generator)
    assert noise.actions.shape == (T, N, 30, 2)
    assert noise.reset.shape == (T, N, FAMILY.reset_noise)
    assert noise.steps.shape == (T, N, 30, FAMILY.step_noise)
    assert isinstance(WorldNoise(noise.reset, noise.steps), tuple)


@pytest.mark.parametrize("trajectories", [1, N])
@pytest.mark.parametrize("family", [Drift(horizon=12), TabularMDP()], ids=["Gaussian", "tabular"])
def test_rollouts_are_those_of_worlds_that_are_stepped(
    family, trajectories, generator, monkeypatch
):
    policy = policy_for(family, generator, hidden=(8,))
    params = params_of(policy, generator)
    tasks = family.sample(T, generator).values
    noise = draw_noise(policy, family, T, trajectories, generator)

    def rolled():
        env = TorchVectorEnv(family, T * trajectories, autoreset="disabled")
        return collect(env, policy, params, tasks, noise)

    found = rolled()
    monkeypatch.setattr(TorchVectorEnv, "episode", TorchVectorEnv.run_step_by_step)
    expected = rolled()
    assert found.terminated.any() == isinstance(family, Drift)
    pairs = zip(tensors_of(found), tensors_of(expected), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("bootstrap", [False, True])
def test_the_state_after_a_truncation_by_the_family_is_valued_if_asked(generator, bootstrap):
    family = Framed(horizon=12)
    policy = policy_for(family, generator, hidden=(8,))
    tasks = family.sample(T, generator).values
    noise = draw_noise(policy, family, T, N, generator)
    env = TorchVectorEnv(family, T * N, autoreset="disabled")
    params = {n: p.detach() for n, p in task_params(policy, T).items()}
    rollouts = collect(env, policy, params, tasks, noise)
    lengths = rollouts.mask.sum(2).long()
    assert not rollouts.terminated.any() and lengths.min() < 12  # cut off before the horizon
    settings = PolicyGradientSettings(
        discount=0.9, gae_lambda=0.0, normalize_advantages=False, bootstrap=bootstrap
    )
    advantages = estimate_advantages(rollouts, settings).advantages
    returns = discounted_returns(rollouts.rewards, rollouts.mask, 0.9)
    baseline = LinearBaseline.fit(rollouts.observations, returns, rollouts.mask)
    for t, n in product(range(T), range(N)):
        end = int(lengths[t, n])
        observations = torch.cat(
            (rollouts.observations[t, n, :end], rollouts.final_observations[t, n].unsqueeze(0))
        ).expand(T, 1, -1, -1)  # fmt: skip
        values = baseline.values(observations)[t, 0]
        # A_t = r_t + gamma V(s_{t+1}) - V(s_t), with V = 0 after the end unless it is valued
        after = values[1:].clone()
        after[-1] *= bootstrap
        expected = rollouts.rewards[t, n, :end] + 0.9 * after - values[:-1]
        torch.testing.assert_close(advantages[t, n, :end], expected, rtol=1e-4, atol=1e-4)
        assert (advantages[t, n, end:] == 0).all()
