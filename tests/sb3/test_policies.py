import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from metarl_envs.bandit import Bandit
from metarl_envs.half_cheetah import HalfCheetahVelocity
from stable_baselines3 import PPO
from torch import nn

from metarl.deploy.export.policies import export_policy
from metarl.errors import SettingsError
from metarl.rl.plain_policy import plain_policy
from metarl.rl.policies import policy_for
from metarl.sb3 import ppo_from
from metarl.sb3.policies import save_ppo
from metarl.sim import GymTasks, Uniform
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


VECTOR = spaces.Box(-1, 1, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (9, 9, 1), np.uint8)
RANGES = spaces.Box(np.float32([200, 1]), np.float32([400, 1]))


def plain_of(observed, acted, **options):
    attributes = {"observation_space": observed, "action_space": acted, "k": 1.0}
    family = GymTasks(type("Odd", (gymnasium.Env,), attributes), {"k": Uniform(0, 1)}, horizon=2)
    generator = torch.Generator().manual_seed(0)
    policy = policy_for(family, generator, (8,), **options)
    params = policy.initial(generator, 1)
    return plain_policy(policy, params, family.observation_space, family.action_space)


@pytest.mark.parametrize(
    ("observed", "acted"),
    [(VECTOR, RANGES), (spaces.Discrete(4), spaces.Discrete(3)), (spaces.Dict(a=VECTOR), RANGES)],
)
def test_policies_of_linear_layers_are_exported_as_they_act(observed, acted, tmp_path):
    plain = plain_of(observed, acted)
    observations = torch.rand(5, plain.observation_size)
    export_policy(plain, tmp_path / "policy.zip", "sb3", observations, {})  # compares the outputs
    assert (tmp_path / "policy.zip").is_file()


def test_a_file_with_choices_from_five_needs_no_class_of_metarl(tmp_path):
    save_ppo(plain_of(VECTOR, spaces.Discrete(3, start=5)), tmp_path / "policy.zip", {})
    model = PPO.load(tmp_path / "policy.zip", device="cpu")
    assert type(model.action_space) is spaces.Discrete and model.action_space.n == 3


@pytest.mark.filterwarnings("ignore:The actions have no finite bounds")
@pytest.mark.parametrize(
    ("observed", "acted", "options", "text"),
    [
        (IMAGE, RANGES, {}, "onnx or torch"),
        (spaces.Dict(camera=IMAGE, speed=VECTOR), spaces.Discrete(3), {}, "onnx or torch"),
        (VECTOR, RANGES, {"layer_norm": True}, "layer norm"),
        (VECTOR, RANGES, {"network": nn.Linear(3, 2)}, "network of yours"),
        (VECTOR, spaces.MultiDiscrete([2, 3]), {}, "several kinds"),
        (VECTOR, spaces.Box(0, np.inf, (2,)), {}, "finite bounds, and these have none"),
        (VECTOR, spaces.MultiBinary(2), {}, "several kinds"),
        (VECTOR, spaces.Dict(gear=spaces.Discrete(3), gas=RANGES), {}, "several kinds"),
    ],
)
def test_other_policies_are_refused_with_a_format_that_takes_them(
    observed, acted, options, text, tmp_path
):
    plain = plain_of(observed, acted, **options)
    observations = torch.rand(5, plain.observation_size)
    with pytest.raises(SettingsError, match=text):
        export_policy(plain, tmp_path / "policy.zip", "sb3", observations, {})
    assert not list(tmp_path.iterdir())
