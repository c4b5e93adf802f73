"""Steps that an exported policy observes itself, and actions of several kinds."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from metarl_envs.navigation import Navigation2D

import metarl
from metarl.deploy.adapters.control_adapter import ControlAdapter
from metarl.deploy.exported.episodes import counted_from_0
from metarl.deploy.exported.exported_adapter import ExportedAdapter
from metarl.deploy.loading import adapter_of
from metarl.errors import NonFiniteError, SettingsError, ShapeError, SimulationError
from metarl.sim.single_env import SingleEnv
from metarl.sim.spaces import flat_actions
from tests.deploy.conftest import HORIZON, exported_policy


class Choices(Navigation2D):
    """Navigation by a gear from 1 and a direction from 5."""

    published_units = False

    @property
    def action_space(self):
        return flat_actions(spaces.MultiDiscrete([3, 4], start=[1, 5]))

    def step(self, state, actions, tasks, noise):
        return super().step(state, actions - 1, tasks, noise)


@pytest.fixture(scope="module")
def choices(tmp_path_factory):
    return exported_policy(Choices(horizon=HORIZON), tmp_path_factory.mktemp("choices") / "out")


def observations(count):
    return np.linspace(-0.3, 0.05, 2 * count, dtype=np.float32).reshape(count, 2)


def play(adapter, episodes=2, left_out=()):
    """Observes episodes, except for some steps."""
    for _ in range(episodes):
        seen = observations(HORIZON + 1)
        for t in range(HORIZON):
            action = adapter.act(seen[t])
            if t not in left_out:
                adapter.observe(seen[t + 1], action, float(t), False, t == HORIZON - 1)


def test_steps_that_nobody_observed_cut_the_episodes(robot):
    exported, own = metarl.load(robot.folder), adapter_of(robot.learner)
    play(own, left_out=(2,))
    play(exported, left_out=(2,))
    logs = [adapter._recorder._logs for adapter in (exported, own)]
    assert [len(log) for log in logs[0]] == [len(log) for log in logs[1]] == [2, 3] * 2
    for one, other in zip(*logs, strict=True):
        np.testing.assert_array_equal(one.observations, other.observations)
        assert one.ended == other.ended
    with pytest.warns(RuntimeWarning, match="2 were followed by another one without `observe`"):
        assert exported.adapt().episodes == 4


def test_ends_that_nobody_noted_warn(robot):
    exported = metarl.load(robot.folder)
    for seen in observations(6).reshape(3, 2, 2):
        exported.observe(seen[1], exported.act(seen[0]), float(seen[0, 0]), False, False)
        exported.observe(seen[0], exported.act(seen[1]), float(seen[1, 0]), False, False)
    with pytest.warns(RuntimeWarning, match="2 began with another observation"):
        exported.adapt()


def test_what_is_no_step_is_refused_and_the_others_stay(robot):
    exported = metarl.load(robot.folder)
    play(exported)
    seen = observations(2)
    action = exported.act(seen[0])
    for arguments, error in (
        ((seen[1], action, np.nan, False, False), SimulationError),
        ((seen[1], action, 1.0, "no", False), SimulationError),
        ((seen[1] * np.nan, action, 1.0, False, False), NonFiniteError),
        ((seen[1, :1], action, 1.0, False, False), ShapeError),
        (({"place": 1}, action, 1.0, False, False), ShapeError),
    ):
        with pytest.raises(error):
            exported.observe(*arguments)
    with pytest.raises(ShapeError, match="Expected an observation of numbers"):
        exported.act({"place": 1})
    exported.abandon()
    assert exported.adapt().examples == 2 * HORIZON
    with pytest.raises(SettingsError, match="act and observe first"):
        exported.adapt()


def test_a_step_that_a_refused_adaptation_had_is_kept(robot):
    exported = metarl.load(robot.folder)
    seen = observations(HORIZON + 2)
    for t in range(HORIZON + 1):  # longer than the graphs are
        exported.observe(seen[t + 1], exported.act(seen[t]), float(t), False, t == HORIZON)
    for _ in range(2):
        with pytest.raises(ShapeError, match="--horizon"):
            exported.adapt()


def test_an_action_within_the_bounds_is_that_of_act(robot):
    exported, same = (metarl.load(robot.folder, seed=1) for _ in range(2))
    low, high = robot.learner.family.low.numpy(), robot.learner.family.high.numpy()
    clipped = 0
    for t in range(HORIZON):
        seen = observations(HORIZON + 1)
        action = exported.act(seen[t])
        robots = np.clip(action, low, high)
        clipped += not np.array_equal(robots, action)
        ends = False, t == HORIZON - 1
        exported.observe(seen[t + 1], robots, float(t), *ends)
        same.observe(seen[t + 1], same.act(seen[t]), float(t), *ends)
    assert clipped
    exported.adapt()
    same.adapt()
    for name, value in same.state().items():
        assert torch.equal(exported.state()[name], value)


def test_actions_of_an_older_theta_do_not_count(robot):
    exported = metarl.load(robot.folder)
    play(exported)
    seen = observations(3)
    action = exported.act(seen[0])
    exported.adapt()
    exported.observe(seen[1], action, 1.0, False, False)
    exported.observe(seen[2], exported.act(seen[1]), 0.0, False, False)
    exported.adapt()
    with pytest.raises(SettingsError, match="got 0 steps"):
        exported.adapt()


def test_equal_rewards_and_a_single_step_say_nothing(robot):
    exported, seen = metarl.load(robot.folder), observations(3)
    exported.observe(seen[1], exported.act(seen[0]), 1.0, False, False)
    with pytest.raises(SettingsError, match="at least two steps"):
        exported.adapt()
    exported.observe(seen[2], exported.act(seen[1]), 1.0, False, True)
    with pytest.warns(RuntimeWarning, match="All steps have the reward 1"):
        exported.adapt()


def test_choices_begin_where_those_of_the_environment_do(choices):
    own, exported = adapter_of(choices.learner, seed=1), metarl.load(choices.folder)
    assert isinstance(own, ControlAdapter) and isinstance(exported, ExportedAdapter)
    seen = observations(1)[0]
    own.explore = exported.explore = False
    np.testing.assert_array_equal(own.act(seen), exported.act(seen))
    own.explore = exported.explore = True
    own.reset()
    exported.reset()
    env, log = SingleEnv(choices.learner.family), []
    for seed in range(2):
        first, _ = env.reset(seed=seed)
        rows, actions, rewards = [first], [], []
        for _ in range(HORIZON):
            actions.append(own.act(rows[-1]))
            observation, reward, *_ = env.step(actions[-1])
            rows.append(observation)
            rewards.append(reward)
        ends = np.arange(HORIZON) == HORIZON - 1
        log.append(
            {
                "observations": np.stack(rows), "actions": np.stack(actions),
                "rewards": np.array(rewards), "truncated": ends,
            }
        )  # fmt: skip
    assert min(np.min(one["actions"][:, 1]) for one in log) >= 5
    own.reset()
    own.adapt(log, behaviour="start")
    exported.adapt(log, behaviour="start")
    for name, value in own.state().items():
        torch.testing.assert_close(exported.state()[name], value, rtol=1e-5, atol=1e-5)
    log[0]["actions"] = log[0]["actions"] * 0
    with pytest.raises(ShapeError, match="choices from"):
        exported.adapt(log, behaviour="start")


def test_numbers_among_the_choices_stay_as_they_are():
    from metarl.deploy.experience.trajectories import Trajectory

    parts = [
        {"kind": "gaussian", "size": 2},
        {"kind": "categorical", "size": 3, "first": 4},
        {"kind": "bernoulli", "size": 2},
    ]
    rows = np.float32([[0.25, -70, 6, 0, 1], [0.5, 9, 4, 1, 1]])
    one = Trajectory(np.zeros((3, 1)), list(rows), np.zeros(2), False, True)
    (found,) = counted_from_0([one], {"action": {"parts": parts}})
    np.testing.assert_array_equal(found.actions, [[0.25, -70, 2, 0, 1], [0.5, 9, 0, 1, 1]])
