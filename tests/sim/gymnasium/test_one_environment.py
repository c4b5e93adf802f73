"""An environment that exists once: one episode after another, counted and timed."""

import gymnasium
import numpy as np
import pytest
import torch

from metarl.adaptation import MAML
from metarl.errors import SettingsError
from metarl.rl import PolicyLearner, policy_for
from metarl.rl.settings import PolicyGradientSettings
from metarl.sim import GymTasks, Uniform, check_family, make_vec
from metarl.sim.gymnasium.clock import Clock
from tests.sim.gymnasium.environments import Slide


class Robot(gymnasium.Env):
    """Records what is done with it; falls after five steps."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self):
        self.speed, self.calls, self.closed = 0.1, [], False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.calls.append(("reset", round(self.speed, 6)))
        self.place, self.steps = self.np_random.uniform(-0.1, 0.1), 0
        return np.array([self.place], np.float32), {}

    def step(self, action):
        self.calls.append("step")
        self.steps += 1
        assert self.steps <= 5, "stepped after its end"
        self.place += self.speed + 0.1 * float(action[0])
        return np.array([self.place], np.float32), self.place, self.steps == 5, False, {}

    def close(self):
        self.closed = True


def family(robot, **settings):
    settings = {"horizon": 8, "worlds": 1, **settings}
    return GymTasks(lambda: robot, {"speed": Uniform(0.1, 0.5)}, **settings)


def test_one_object_plays_all_episodes_with_a_reset_before_each(generator):
    robot = Robot()
    tasks = family(robot)
    settings = PolicyGradientSettings(trajectories=3)
    policy = policy_for(tasks, generator, (8,), normalize_observations=False)
    learner = PolicyLearner(MAML(policy, 0.1), tasks, settings)
    robot.calls.clear()
    drawn = tasks.sample(2, generator)
    inputs = learner.collect(drawn, generator, 0)
    speeds = [round(v, 6) for v in drawn.values["speed"].tolist()]
    episode = lambda speed: [("reset", speed)] + ["step"] * 5  # noqa: E731
    one_step = [c for speed in speeds for c in 3 * episode(speed)]
    assert robot.calls == 2 * one_step
    assert inputs.environment_steps.tolist() == [30, 30]
    learner.after_update(learner(inputs).carry)
    assert learner.environment_steps == robot.calls.count("step") == 60
    scalars = learner.performance()
    assert scalars["perf/environment_seconds"] > 0 and scalars["perf/environment_hz"] > 0
    learner.worlds.get.__self__._envs.popitem()[1].close()
    assert not robot.closed


def test_the_rollouts_are_those_of_many_worlds(generator):
    one = family(Robot())
    many = GymTasks(Robot, {"speed": Uniform(0.1, 0.5)}, horizon=8)
    policy = policy_for(many, generator, (8,))
    drawn, found = many.sample(2, generator), []
    for tasks in (one, many):
        learner = PolicyLearner(MAML(policy, 0.1), tasks, PolicyGradientSettings(trajectories=3))
        found.append(list(learner.rollouts(drawn, 1, torch.Generator().manual_seed(5))))
    for a, b in zip(*found, strict=True):
        for name in ("observations", "actions", "rewards", "mask", "terminated"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=1e-5, rtol=1e-5)
        assert a.steps().tolist() == [15, 15]


class Time:
    """A time that passes by waiting only."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def test_a_rate_is_kept_and_reported():
    time = Time()
    clock = Clock(20.0, time, time.sleep)
    starts = []
    with clock.reset():
        time.now += 2.0
    for duration in (0.01, 0.02, 0.0, 0.04):
        with clock.step():
            starts.append(time.now - 102.0)
            time.now += duration
    assert starts == pytest.approx([0.0, 0.05, 0.1, 0.15])
    assert (clock.steps, clock.resets, clock.late) == (4, 1, 0)
    assert clock.seconds == pytest.approx(2.19)
    assert clock.measured()["perf/environment_hz"] == pytest.approx(4 / 0.19)


def test_late_steps_are_counted_and_told():
    time = Time()
    clock = Clock(10.0, time, time.sleep)
    with clock.reset():
        pass
    with pytest.warns(RuntimeWarning, match=r"50 of 51 steps started too late for .* 10 Hz"):
        for _ in range(51):
            with clock.step():
                time.now += 0.15
    assert clock.late == 50
    assert clock.measured()["perf/late_steps"] == 50
    assert clock.measured()["perf/environment_hz"] == pytest.approx(1 / 0.15)


def test_a_rate_holds_back_real_steps():
    env = make_vec(family(Robot(), rate=100.0), 1, device="cpu", autoreset="disabled")
    env.reset(seed=0)
    for _ in range(5):
        env.step(torch.zeros(1, 1))
    assert env.clock.seconds >= 0.04
    assert env.clock.measured()["perf/environment_hz"] < 130


def test_what_one_environment_cannot_do_is_refused():
    tasks = family(Robot())
    check_family(tasks)
    with pytest.raises(SettingsError, match=r"at most 1 world of .* exists once, got 3"):
        make_vec(tasks, 3, device="cpu")
    for settings, message in (
        ({"worlds": 2}, "`worlds` of None .* or 1, without workers, got 2"),
        ({"workers": 1}, "without workers, got 1 and 1"),
        ({"worlds": None, "rate": 5.0}, "A `rate` is kept for one environment"),
        ({"rate": 0.0}, "`rate` above 0"),
    ):
        with pytest.raises(SettingsError, match=message):
            family(Robot(), **settings)
    with pytest.raises(SettingsError, match="attributes; slope would build it again"):
        GymTasks(Slide, {"slope": Uniform(0, 1)}, horizon=3, worlds=1)
    with pytest.raises(SettingsError, match="exists once, in render mode None"):
        tasks.painting()
