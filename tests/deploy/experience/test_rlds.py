"""Logs of RLDS, whose last step has an observation alone."""

import gymnasium
import numpy as np
import pytest

from metarl.deploy.experience.trajectories import read_trajectories
from metarl.deploy.robot.spaces import ControlSpaces
from metarl.errors import ShapeError
from metarl.sim.spaces import flat_actions, flat_observations

SPACES = ControlSpaces(
    flat_observations(gymnasium.spaces.Box(-9, 9, (2,))),
    flat_actions(gymnasium.spaces.Box(-1, 1, (1,))),
)


def arrays():
    """Two episodes of 3 and 2 steps: one terminates, the other is cut off by a time limit."""
    observations = np.arange(14.0).reshape(7, 2) / 2
    return {
        "observation": observations,
        "action": np.array([[0.1], [0.2], [0.3], [np.nan], [0.4], [0.5], [np.nan]]),
        "reward": np.array([1.0, 2.0, 3.0, 99.0, 4.0, 5.0, 99.0]),
        "discount": np.ones(7),
        "is_first": np.array([1, 0, 0, 0, 1, 0, 0], bool),
        "is_last": np.array([0, 0, 0, 1, 0, 0, 1], bool),
        "is_terminal": np.array([0, 0, 0, 1, 0, 0, 0], bool),
    }


def steps(log):
    return [{name: value[t] for name, value in log.items()} for t in range(len(log["reward"]))]


FORMS = {
    "arrays": arrays,
    "steps": lambda: steps(arrays()),
    "episodes of steps": lambda: [
        {"steps": steps(arrays())[:4], "episode_metadata": {"robot": 1}},
        {"steps": steps(arrays())[4:]},
    ],
    "episodes of arrays": lambda: [
        {name: value[:4] for name, value in arrays().items()},
        {name: value[4:] for name, value in arrays().items()},
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_the_last_step_is_an_observation_alone(form):
    first, second = read_trajectories(FORMS[form](), SPACES)
    np.testing.assert_array_equal(first.observations, arrays()["observation"][:4])
    np.testing.assert_array_equal(second.observations, arrays()["observation"][4:])
    assert (first.rewards.tolist(), second.rewards.tolist()) == ([1, 2, 3], [4, 5])
    np.testing.assert_allclose(np.asarray(second.actions).ravel(), [0.4, 0.5])
    assert (first.terminated, first.ended) == (True, True)
    assert (second.terminated, second.ended) == (False, True)


def test_an_episode_that_has_not_ended_keeps_its_last_action():
    log = {name: value[4:6] for name, value in arrays().items()}
    (one,) = read_trajectories(log, SPACES)
    assert (one.terminated, one.ended, one.rewards.tolist()) == (False, False, [4, 5])
    assert one.observations.shape == (2, 2)


def test_observations_with_parts_are_joined():
    space = gymnasium.spaces.Dict({
        "arm": gymnasium.spaces.Box(-9, 9, (2,)), "grip": gymnasium.spaces.Box(-9, 9, (1,)),
    })  # fmt: skip
    spaces = ControlSpaces(flat_observations(space), SPACES.action)
    log = steps(arrays())[:4]
    for step in log:
        step["observation"] = {"arm": step["observation"], "grip": np.array([7.0])}
    (one,) = read_trajectories([{"steps": log}], spaces)
    np.testing.assert_array_equal(one.observations[:, :2], arrays()["observation"][:4])
    np.testing.assert_array_equal(one.observations[:, 2], 7.0)


def test_what_is_no_episode_is_refused():
    with pytest.raises(ShapeError, match="of one length, got 7, 7 and 6"):
        read_trajectories({**arrays(), "is_terminal": np.zeros(6, bool)}, SPACES)
    with pytest.raises(ShapeError, match="Expected a step before the last one"):
        read_trajectories({name: value[3:4] for name, value in arrays().items()}, SPACES)
