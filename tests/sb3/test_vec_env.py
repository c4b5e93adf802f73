import warnings

import gymnasium
import numpy as np
import pytest
import torch
from metarl_envs.bandit import Bandit
from metarl_envs.half_cheetah import HalfCheetahVelocity
from metarl_envs.navigation import Navigation2D, Navigation2DSparse
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from metarl.errors import SettingsError
from metarl.sb3 import SB3VecEnv
from metarl.sim import make_vec
from metarl.sim.single_env import SingleEnv
from tests.sim.families import Drift

GOAL = {"goal": [0.3, -0.2]}


def worlds(family, number, **settings):
    return SB3VecEnv(make_vec(family, number, device="cpu", autoreset="disabled"), **settings)


def trajectory(env, actions):
    """All that an environment gives, with the infos that algorithms read."""
    seen = [env.reset()]
    for action in actions:
        observations, rewards, dones, infos = env.step(action)
        seen += [observations, rewards, dones]
        seen += [i["terminal_observation"] for i, d in zip(infos, dones, strict=True) if d]
        seen += [i["TimeLimit.truncated"] for i, d in zip(infos, dones, strict=True) if d]
    return seen


@pytest.mark.parametrize(
    ("family", "number", "task"),
    [
        (Navigation2D(horizon=5), 3, GOAL),  # no randomness: any number of worlds
        (Drift(), 1, {"speed": 0.1}),
        (HalfCheetahVelocity(horizon=5), 1, {"velocity": 1.0}),
    ],
)
def test_trajectories_are_those_of_single_worlds(family, number, task):
    ours = worlds(family, number)
    ours.env_method("set_task", task)
    dummy = DummyVecEnv([lambda: SingleEnv(family, task=task) for _ in range(number)])
    ours.seed(4)
    dummy.seed(4)
    assert ours.observation_space == dummy.observation_space
    assert ours.action_space == dummy.action_space
    size = (12, number, *family.action_space.shape)
    actions = np.random.default_rng(0).uniform(-1, 1, size).astype(np.float32)
    pairs = zip(trajectory(ours, actions), trajectory(dummy, actions), strict=True)
    for first, second in pairs:
        assert np.array_equal(first, second)
        assert getattr(first, "dtype", None) == getattr(second, "dtype", None)


def test_what_ended_and_what_was_cut_off_are_told_apart():
    env = worlds(Navigation2D(horizon=3), 2)
    env.env_method("set_task", {"goal": [0.1, 0.0]}, indices=0)
    env.env_method("set_task", {"goal": [0.5, 0.5]}, indices=[1])
    env.reset()
    step = np.array([[1, 0], [1, 0]], np.float32)
    observations, _, dones, infos = env.step(step)
    assert dones.tolist() == [True, False] and infos[1] == {}
    assert infos[0]["TimeLimit.truncated"] is False
    assert infos[0]["terminal_observation"] == pytest.approx([0.1, 0])
    assert observations == pytest.approx(np.array([[0, 0], [0.1, 0]]))
    env.step(0 * step)
    *_, dones, infos = env.step(0 * step)
    assert dones.tolist() == [False, True] and infos[1]["TimeLimit.truncated"] is True


def test_seeds_fix_episodes_and_tasks():
    runs = []
    for seed in (0, 0, 1):
        env = worlds(Drift(), 2, resample=True)
        env.seed(seed)
        seen = trajectory(env, np.zeros((14, 2, 1), np.float32))
        runs.append((np.concatenate([np.ravel(s) for s in seen]), env.env_method("get_task")))
    assert np.array_equal(runs[0][0], runs[1][0]) and runs[0][1] == runs[1][1]
    assert runs[0][1] != runs[2][1]


def test_tasks_stay_or_are_drawn_again_for_each_episode():
    step = np.zeros((3, 2), np.float32)
    for resample in (False, True):
        env = worlds(Navigation2DSparse(horizon=2), 3, resample=resample)
        env.reset()
        before = [task["goal"].tolist() for task in env.env_method("get_task")]
        env.step(step)
        assert [t["goal"].tolist() for t in env.env_method("get_task")] == before
        env.step(step)
        after = [t["goal"].tolist() for t in env.env_method("get_task")]
        assert all((b == a) != resample for b, a in zip(before, after, strict=True))
    tasks = env.env_method("sample_tasks", 4, indices=0)[0]
    assert len({tuple(t["goal"]) for t in tasks}) == 4


def test_attributes_are_common_to_all_worlds():
    env = worlds(Navigation2D(horizon=2), 3)
    assert env.get_attr("family", [0, 2]) == [Navigation2D(horizon=2)] * 2
    env.set_attr("note", 3)
    assert env.get_attr("note") == [3, 3, 3] and env.has_attr("note")
    assert not env.has_attr("nothing")
    assert env.env_is_wrapped(None) == [False] * 3
    with pytest.raises(SettingsError, match="common"):
        env.set_attr("note", 4, indices=1)
    with pytest.raises(SettingsError, match=r"env_method\(\"set_task\", \{'goal': ...\}\)"):
        env.set_attr("goal", GOAL["goal"])  # it changed nothing, in silence
    with pytest.raises(AttributeError, match="get_task"):
        env.env_method("jump")
    for wrong in (gymnasium.make("CartPole-v1"), "Navigation2D-v1"):
        with pytest.raises(SettingsError, match=r"Expected worlds of `metarl.sim.make_vec`, got"):
            SB3VecEnv(wrong)
    env.set_options({"task": GOAL})
    with pytest.raises(SettingsError, match="set_task"):
        env.reset()


def test_it_is_rendered_as_other_environments_are():
    env = worlds(Navigation2D(horizon=2), 2, render_mode="rgb_array")
    env.reset()
    picture = env.render()
    assert picture.dtype == np.uint8 and picture.shape == (960, 480, 3)
    env.close()
    with pytest.raises(SettingsError, match="rgb_array"):
        worlds(Navigation2D(), 1, render_mode="human")
    with pytest.raises(SettingsError, match="disabled"):
        SB3VecEnv(make_vec(Navigation2D(), 2, device="cpu"))


def test_ppo_learns_to_reach_a_goal():
    env = worlds(Navigation2D(horizon=20), 16)
    env.env_method("set_task", GOAL)
    env = VecMonitor(env)
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=20,
        batch_size=80,
        n_epochs=5,
        learning_rate=3e-3,
        gamma=0.9,
        seed=0,
    )
    before = np.mean(evaluate_policy(model, env, 16)[0])
    model.learn(16 * 20 * 15)
    after = np.mean(evaluate_policy(model, env, 16)[0])
    assert before < -4 and after > -2.5  # standing still: -7.2; straight there: -.7


def test_ppo_takes_numbered_actions():
    env = VecMonitor(worlds(Bandit(arms=3, horizon=8), 4))
    env.env_method("set_task", {"probabilities": torch.tensor([0.0, 1.0, 0.0])})
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=16, learning_rate=1e-2, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(4 * 8 * 12)
    assert model.predict(np.ones((1, 1), np.float32), deterministic=True)[0] == [1]


def test_clipping_where_there_are_no_bounds_is_said():
    class Free(Navigation2D):
        @property
        def action_space(self):
            return gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    with pytest.warns(UserWarning, match=r"clips them to Box\(-1.0, 1.0"):
        env = SB3VecEnv(make_vec(Free(), 2, device="cpu", autoreset="disabled"))
    assert env.action_space.is_bounded()
