import gymnasium
import numpy as np
import pytest
import torch
from metarl_envs.bandit import Bandit
from metarl_envs.half_cheetah import HalfCheetahVelocity
from stable_baselines3 import PPO

from metarl.rl.plain_policy import plain_policy
from metarl.rl.policies import policy_for
from metarl.sb3 import ppo_from
from metarl.sb3.policies import save_ppo
from metarl.sim.global_seed import global_seed


def test_a_loaded_model_acts_alike_and_goes_on_learning(generator, tmp_path):
    family = HalfCheetahVelocity(horizon=20)
    policy = policy_for(family, generator, (16, 12), init_std=0.4)
    params = {n: 4 * p for n, p in policy.initial(generator, 1).items() if n != "log_std"}
    params["log_std"] = torch.log(torch.linspace(0.1, 0.6, 6))[None]
    plain = plain_policy(policy, params, family.observation_space, family.action_space)
    save_ppo(plain, tmp_path / "policy.zip", {"family": family.name})
    env = gymnasium.make(f"metarl/{family.name}", task={"velocity": 1.5}, horizon=20)
    model = PPO.load(tmp_path / "policy.zip", env=env, n_steps=40, batch_size=20, device="cpu")
    assert vars(model)["metarl"] == {"family": family.name}

    observations = env.reset(seed=0)[0] + torch.randn(64, 17, generator=generator).numpy()
    expected = policy.distribution(params, torch.from_numpy(observations)[None])
    found = model.predict(observations, deterministic=True)[0]
    assert np.abs(found - expected.mean[0].clamp(-1, 1).numpy()).max() < 1e-6
    own = model.policy.get_distribution(torch.from_numpy(observations)).distribution
    assert (own.stddev - expected.log_std[0].exp()).abs().max() < 1e-6
    # What it explores with is the same law: log-densities of some actions.
    actions = torch.randn(64, 6, generator=generator)
    _, log_probs, _ = model.policy.evaluate_actions(torch.from_numpy(observations), actions)
    torch.testing.assert_close(log_probs.detach(), expected.log_prob(actions)[0])

    before = {n: p.clone() for n, p in model.policy.state_dict().items()}
    with global_seed(0):
        model.learn(80)
    assert model.num_timesteps == 80
    assert all(not torch.equal(p, before[n]) for n, p in model.policy.state_dict().items())


def test_learning_goes_on_from_the_policy_that_was_learned(generator):
    """A bandit: PPO improves the exported policy without losing it first."""
    family = Bandit(arms=3, horizon=16)
    policy = policy_for(family, generator, ())
    params = policy.initial(generator, 1)
    params["network.layers.0.bias"][0] = torch.tensor([0.0, 1.5, 0.0])
    plain = plain_policy(policy, params, family.observation_space, family.action_space)
    model = ppo_from(plain, n_steps=64, batch_size=32, learning_rate=1e-2)
    start = model.policy.get_distribution(torch.ones(1, 1)).distribution.probs[0]
    assert start.detach() == pytest.approx(torch.tensor([0, 1.5, 0]).softmax(0), abs=1e-2)
    task = {"probabilities": [0.1, 0.9, 0.1]}
    model.set_env(gymnasium.make(f"metarl/{family.name}", task=task, arms=3, horizon=16))
    model.get_env().seed(0)
    with global_seed(0):
        model.learn(64 * 4)
    end = model.policy.get_distribution(torch.ones(1, 1)).distribution.probs[0]
    assert end[1] > start[1] + 0.1
