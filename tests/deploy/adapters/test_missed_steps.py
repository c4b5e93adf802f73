"""Steps that nobody observed, ends that nobody noted, and too few steps."""

import warnings
from contextlib import nullcontext

import numpy as np
import pytest

import metarl
from metarl.deploy.robot.safety import RollBack
from metarl.errors import SettingsError
from tests.deploy.adapters.test_control_adapter import play, point


def three_parts(adapter, drift=0.0):
    """Observes four steps after each of three resets, of which no end is noted.

    Args:
        adapter: The adapter.
        drift: Change of the observation before the next action.

    Yields:
        The observation after four steps.
    """
    for _ in range(3):
        observation, _ = point().reset(seed=0)
        for _ in range(4):
            action = adapter.act(observation)
            observation = observation + 0.01
            adapter.observe(observation, action, float(observation[0]), False, False)
            observation = observation + drift
        yield observation


def test_steps_that_nobody_observed_are_no_part_of_an_episode(point_run):
    adapter = metarl.load(point_run[1], rollback=RollBack())
    env = point()
    for seed in range(2):
        observation, _ = env.reset(seed=seed)
        for step in range(6):
            adapter.act(observation)  # to look at it: the same observation is no other step
            action = adapter.act(observation)
            observation, reward, terminated, truncated, _ = env.step(action)
            if step != 2:
                adapter.observe(observation, action, reward, terminated, truncated)
    assert adapter._recorder.returns[False] == []  # no return of a whole episode is known
    play(adapter, point(), 1)
    assert len(adapter._recorder.returns[False]) == 1
    logs = adapter._recorder._logs
    found = [(len(log), log.ended) for log in logs]
    assert found == [(2, False), (3, True)] * 2 + [(6, True)]
    with pytest.warns(RuntimeWarning, match="Of the actions of `act`, 2 were followed by another"):
        assert adapter.adapt().episodes == 5
    play(adapter, point(), 1)
    adapter.adapt()  # without a warning


def test_a_reset_without_an_end_is_noticed(point_run):
    adapter = metarl.load(point_run[1])
    for observation in three_parts(adapter):
        adapter.act(observation)  # the robot is reset before this is observed
    assert [len(log) for log in adapter._recorder._logs] == [4, 4]
    with pytest.warns(RuntimeWarning, match="2 were followed by another one"):
        assert adapter.adapt().examples == 12


@pytest.mark.parametrize("again", [False, True])  # whether the robot is read again to act
def test_a_loop_that_notes_no_end_is_noticed(again, point_run):
    adapter = metarl.load(point_run[1])
    list(three_parts(adapter, drift=again * 1e-3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert adapter.adapt().examples == 12
    said = [str(w.message) for w in caught]
    if again:
        assert not said
    else:
        assert len(said) == 1 and "Of 12 steps, 2 began with another observation" in said[0]


def observed_twice(adapter, again):
    """Plays an episode of which some steps are observed more than once."""
    observation, _ = point().reset(seed=0)
    for step in range(6):
        action = adapter.act(observation)
        observation = observation + 0.01
        for _ in range(1 + again * (step in (1, 2))):
            adapter.observe(observation, action, float(step), False, step == 5)


def test_steps_that_are_observed_more_than_once_warn(point_run, memory_run):
    adapter = metarl.load(point_run[1])
    observed_twice(adapter, 2)
    with pytest.warns(RuntimeWarning, match="Of 10 observed steps, 4 repeat the one before"):
        adapter.adapt()
    observed_twice(adapter, 0)
    adapter.adapt()  # without a warning
    with pytest.warns(RuntimeWarning, match="An observed step repeats the one before"):
        observed_twice(metarl.load(memory_run[1]), 1)


def test_an_operator_who_holds_still_repeats_no_message(point_run):
    adapter = metarl.load(point_run[1])
    observed_twice(adapter, 0)
    observation, _ = point().reset(seed=0)
    adapter.act(observation)
    for _ in range(3):
        adapter.observe(observation, np.zeros(2), 0.0, False, False)
        observation = observation + 1e-3
    assert adapter._recorder.repeats == 0


def test_a_held_action_is_no_reset(point_run):
    adapter = metarl.load(point_run[1])
    observation, _ = point().reset(seed=0)
    for step in range(6):
        lost = step in (2, 3)
        with pytest.warns(RuntimeWarning, match="held") if step == 2 else nullcontext():
            action = adapter.act(np.full(2, np.nan) if lost else observation)
        observation = observation + 0.01
        adapter.observe(observation * (np.nan if step == 1 else 1), action, 1.0, False, step == 5)
    assert adapter.held == 2 and adapter._recorder.jumps == 0


def test_one_step_teaches_nothing(point_run):
    adapter = metarl.load(point_run[1])
    log = {"observations": np.zeros((2, 2)), "actions": np.zeros((1, 2)), "rewards": np.ones(1)}
    with pytest.raises(SettingsError, match="at least two steps"):
        adapter.adapt(log, behaviour="start")
    for reward in (1.0, 2.0):
        adapter.act(np.zeros(2))
        adapter.observe(np.zeros(2), None, reward, True, False)
        if adapter.environment_steps == 1:
            with pytest.raises(SettingsError, match="at least two steps"):
                adapter.adapt()
    assert adapter.adapt().examples == 2  # what was refused is still there
