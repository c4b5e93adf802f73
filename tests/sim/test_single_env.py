import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers import HumanRendering
from metarl_envs.navigation import Navigation2D

import metarl.gymnasium_ids
from metarl.errors import SettingsError, ShapeError, SimulationError
from metarl.gymnasium_ids import register_families
from metarl.sim import TensorVectorEnv, check_family, make_vec
from metarl.sim.single_env import SingleEnv, bounded, make_worlds
from tests.sim.families import Cart, Drift
from tests.sim.test_episode_ends import Framed


def episode(env, seed, actions):
    """Everything that an episode gives, in one flat list."""
    observation, info = env.reset(seed=seed)
    seen = [observation, *info["task"].values()]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        seen += [observation, reward, terminated, truncated]
        if terminated or truncated:
            break
    return seen


def equal(first, second):
    return len(first) == len(second) and all(
        np.array_equal(a, b) for a, b in zip(first, second, strict=True)
    )


def test_it_is_the_same_world_as_one_of_tensors():
    task = {"speed": 0.1}
    env = SingleEnv(Drift(), task=task)
    worlds = make_vec(Drift(), 1, device="cpu", autoreset="disabled")
    worlds.set_tasks({"speed": torch.tensor([0.1])})
    actions = np.linspace(-1, 1, 6, dtype=np.float32)[:, None]
    single = episode(env, 5, actions)
    observation, _ = worlds.reset(seed=5)
    expected = [observation[0].numpy(), np.float32(0.1)]
    for action in actions:
        observation, reward, terminated, truncated, _ = worlds.step(torch.tensor(action[None]))
        expected += [observation[0].numpy(), reward.item(), bool(terminated)]
        expected += [bool(truncated) and not bool(terminated)]
    assert equal(single, expected[: len(single)])
    assert isinstance(single[3], float) and single[-2:] in ([True, False], [False, True])


def test_a_seed_fixes_tasks_and_noise_and_goes_on_from_there():
    actions = np.zeros((6, 1), np.float32)
    env, other = SingleEnv(Drift()), SingleEnv(Drift())
    first = episode(env, 3, actions)
    second = episode(env, None, actions)
    assert not equal(first, second) and first[1] != second[1]  # another task
    assert equal(first, episode(other, 3, actions))
    assert equal(second, episode(other, None, actions))
    assert not equal(first, episode(env, 4, actions))
    # Without any seed, the operating system gives one.
    assert not equal(
        episode(SingleEnv(Drift()), None, actions), episode(SingleEnv(Drift()), None, actions)
    )


def test_tasks_are_drawn_from_the_split_unless_one_is_given():
    for split in ("train", "test"):
        env = SingleEnv("Navigation2D-v1", split=split, horizon=3)
        goals = {float(env.reset(seed=s)[1]["task"]["goal"][0]) for s in range(8)}
        own = Navigation2D(part=split).sample(4000, torch.Generator().manual_seed(0)).values["goal"]
        gaps = [np.abs(own[:, 0].numpy() - g).min() for g in goals]
        assert len(goals) == 8 and max(gaps) < 0.002
    env = SingleEnv("Navigation2D-v1", task={"goal": [0.1, -0.2]}, observe_task=True)
    for seed in (0, None):
        observation, info = env.reset(seed=seed)
        assert info["task"]["goal"] == pytest.approx([0.1, -0.2])
        assert observation == pytest.approx([0, 0, 0.1, -0.2])
    assert env.observation_space.contains(observation)


def test_other_libraries_sample_and_set_tasks():
    env = gymnasium.make("metarl/Navigation2D-v1", horizon=2).unwrapped
    env.reset(seed=0)
    tasks = env.sample_tasks(3)
    assert len({tuple(t["goal"]) for t in tasks}) == 3
    env.set_task(tasks[1])
    env.reset()
    assert (env.get_task()["goal"] == tasks[1]["goal"]).all()
    env.reset(options={"task": tasks[2]})
    assert (env.reset()[1]["task"]["goal"] == tasks[2]["goal"]).all()


def test_the_task_changes_the_rewards_and_the_physics():
    rewards = []
    for mass in (1.0, 4.0):
        env = SingleEnv(Cart(), task={"mass": mass})
        env.reset(seed=0)
        rewards.append(env.step(np.ones(1, np.float32))[1])
    assert rewards[0] == pytest.approx(4 * rewards[1], rel=1e-4)
    # Cart's actuator has no limit: others need one, but what they send is not scaled.
    assert env.action_space.low == -1 and env.action_space.high == 1
    env.reset(seed=0)
    assert env.step(np.full(1, 3, np.float32))[1] == pytest.approx(3 * rewards[1], rel=1e-4)


def test_an_episode_ends_at_the_horizon_or_at_the_end_of_the_task():
    env = SingleEnv("Navigation2D-v1", task={"goal": [0.1, 0.0]}, horizon=2)
    env.reset(seed=0)
    assert env.step(np.array([1.0, 0.0]))[2:4] == (True, False)
    env.reset()
    assert env.step(np.zeros(2))[2:4] == (False, False)
    assert env.step(np.zeros(2))[2:4] == (False, True)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((-np.inf, np.inf), (-1, 1)),
        ((-3, np.inf), (-3, 1)),
        ((5, np.inf), (5, 6)),
        ((-np.inf, -5), (-6, -5)),
        ((-np.inf, 0.25), (-1, 0.25)),
    ],
)
def test_infinite_bounds_of_actions_leave_room_next_to_finite_ones(bounds, expected):
    low, high = bounds
    space = bounded(gymnasium.spaces.Box(low, high, (1,), np.float32))
    assert isinstance(space, gymnasium.spaces.Box)
    assert (space.low.item(), space.high.item()) == expected
    assert space.contains(space.sample())


def test_gymnasium_makes_worlds_of_tensors_too():
    settings = {"horizon": 4, "split": "test", "numpy": False}
    worlds = gymnasium.make_vec("metarl/Navigation2D-v1", num_envs=3, **settings)
    assert isinstance(worlds, TensorVectorEnv) and worlds.family == Navigation2D(4, "test")
    assert len(worlds.get_tasks()["goal"].unique(dim=0)) == 3
    worlds = make_worlds(Navigation2D(), 2, task={"goal": [1, 2]}, numpy=False)
    assert worlds.get_tasks()["goal"].tolist() == [[1, 2], [1, 2]]
    with pytest.raises(SettingsError, match="make_renderer"):
        gymnasium.make_vec("metarl/Navigation2D-v1", num_envs=3, render_mode="rgb_array")


def test_importing_metarl_is_enough_and_loads_no_family():
    code = (
        "import sys, gymnasium, metarl; assert 'metarl/Bandit-v1' in gymnasium.registry; "
        "assert not {'torch', 'mujoco', 'metarl_envs'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_a_plug_in_whose_name_gymnasium_refuses_is_left_out(monkeypatch):
    class Point:
        def __init__(self, name):
            self.name = name

    names = [Point("not a name!"), Point("Fine-v7")]
    monkeypatch.setattr(metarl.gymnasium_ids, "entry_points", lambda group: names)
    with pytest.warns(RuntimeWarning, match="not a name!"):
        register_families()
    assert "metarl/Fine-v7" in gymnasium.registry
    del gymnasium.registry["metarl/Fine-v7"]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"gaol": [0, 0]}, "Did you mean 'goal'"),
        ({}, "Expected a task value 'goal'"),
        ([0.3, -0.2], r"as a dict, \{'goal': \.\.\.\}, got \[0\.3, -0\.2\]"),
        (1.0, r"as a dict, \{'goal': \.\.\.\}, got 1\.0"),
        ({"goal": [0.0]}, r"shape \(2,\), got \(1,\)"),
        ({"goal": "left"}, "Expected numbers"),
        ({"goal": [0.0, float("nan")]}, "Expected finite numbers"),
    ],
)
def test_a_task_of_another_kind_is_refused(task, message):
    with pytest.raises(ShapeError, match=message):
        SingleEnv("Navigation2D-v1", task=task)


def test_what_cannot_work_is_refused():
    with pytest.raises(SettingsError, match="rgb_array"):
        SingleEnv("Navigation2D-v1", render_mode="human")
    with pytest.raises(SettingsError, match="horizon"):
        SingleEnv(Navigation2D(), horizon=3)
    with pytest.raises(SettingsError, match="'speed'"):
        SingleEnv("Navigation2D-v1", speed=3)
    env = SingleEnv("Navigation2D-v1", horizon=3)
    with pytest.raises(SimulationError, match="reset"):
        env.step(np.zeros(2))
    with pytest.raises(SettingsError, match="Did you mean 'task'"):
        env.reset(options={"tasks": {}})
    with pytest.warns(UserWarning, match="render_mode"):
        env.render()
    env.reset()
    with pytest.raises(ShapeError, match="actions of shape"):
        env.step(np.zeros(3))
    with pytest.raises(SimulationError, match="nan"):
        for _ in range(3):
            env.step(np.full(2, np.nan))


def test_gymnasium_shows_a_window(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with pytest.warns(UserWarning, match="HumanRendering wrapper is being applied"):
        env = gymnasium.make("metarl/Navigation2D-v1", render_mode="human", width=64, height=64)
    assert isinstance(env, HumanRendering) and env.render_mode == "human"
    pygame = pytest.importorskip("pygame", reason="needs gymnasium[classic-control]")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    assert pygame.surfarray.array3d(pygame.display.get_surface()).std() > 1
    env.close()


def test_a_truncation_by_the_family_is_no_termination():
    env = SingleEnv(Framed(), task={"speed": 0.1})
    env.reset(seed=0)
    steps = [env.step([1.0]) for _ in range(5)]
    cut = [step[3] for step in steps]
    assert any(cut) and not any(step[2] for step in steps)
    first = cut.index(True)
    for observation, reward, *_ in steps[first + 1 :]:  # it stays as it ended and earns nothing
        assert np.array_equal(observation, steps[first][0]) and reward == 0


def test_seeds_of_numpy_are_those_of_python():
    """`for seed in np.arange(5)` had ended with an error of torch or gymnasium."""
    seed = np.int64(3)
    one, other = SingleEnv(Drift()), SingleEnv(Drift())
    assert np.array_equal(one.reset(seed=seed)[0], other.reset(seed=3)[0])
    worlds = [make_vec(Drift(), 2, device="cpu", seed=s) for s in (seed, 3)]
    assert torch.equal(*(w.get_tasks()["speed"] for w in worlds))
    assert torch.equal(worlds[0].reset(seed=seed)[0], worlds[1].reset(seed=3)[0])
    check_family(Drift(), seed=seed)
    for wrong in (1.5, -1, "1", [1, 2]):
        with pytest.raises(SettingsError, match=r"Expected .*`seed`"):
            worlds[0].reset(seed=wrong)
