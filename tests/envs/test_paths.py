import numpy as np
import pytest
import torch
from metarl_envs.navigation import Navigation2D, Navigation2DSparse
from metarl_envs.paths import navigation_picture, positions, walked

from metarl.adaptation import MAML
from metarl.rl.policies import policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.settings import PolicyGradientSettings
from metarl.sim import ControlTasks


def learner(family, std=1.0):
    policy = policy_for(family, torch.Generator().manual_seed(0), hidden=(4,), init_std=std)
    return PolicyLearner(MAML(policy, 0.1), family, PolicyGradientSettings(trajectories=7))


def test_paths_start_at_the_origin_and_move_by_steps(generator):
    family = Navigation2D(horizon=9)
    tasks = family.sample(2, generator)
    found = walked(learner(family), tasks, 2, generator, shown=3)
    assert len(found) == 2
    for task, goal in zip(found, tasks.values["goal"], strict=True):
        np.testing.assert_array_equal(task.goal, goal)
        assert list(task.steps) == list(task.returns) == [0, 1, 2]
        for paths in task.steps.values():
            assert [path.shape for path in paths] == [(10, 2)] * 3
            for path in paths:
                assert (path[0] == 0).all() and 0 < np.abs(np.diff(path, axis=0)).max() < 0.11


def test_the_returns_are_those_of_the_paths(generator):
    family = Navigation2D(horizon=9)
    (task,) = walked(learner(family), family.sample(1, generator), 0, generator, shown=7)
    walk = [-np.linalg.norm(path[1:] - task.goal, axis=1).sum() for path in task.steps[0]]
    assert task.returns[0] == pytest.approx(np.mean(walk), rel=1e-4)


def test_a_path_ends_where_its_episode_does(generator):
    family = Navigation2D(horizon=9)
    at_goal = ControlTasks({"goal": torch.zeros(1, 2)})  # reached by standing nearly still
    maml = learner(family, std=1e-3)
    rollouts = next(iter(maml.rollouts(at_goal, 0, generator)))
    lengths = rollouts.mask[0].sum(1).int().tolist()
    assert [len(path) - 1 for path in positions(rollouts, 0)] == lengths
    assert min(lengths) == 1


def test_many_steps_are_thinned_to_four_columns(generator):
    family = Navigation2DSparse(horizon=4)
    maml = learner(family)
    (task,) = walked(maml, family.sample(1, generator), 30, generator)
    assert len(task.steps) == 4 and min(task.steps) == 0 and max(task.steps) == 30
    assert task.radius == family.radius
    picture = navigation_picture(maml, family.sample(2, generator), 1, generator)
    assert picture.name == "paths" and len(picture.figure.axes) == 4
