"""Gymnasium environments for tests: one that does all as it should, and its faulty variants."""

import os
import re
import sys
import time

import gymnasium
import numpy as np
from gymnasium import spaces


class Slide(gymnasium.Env):
    """A place moves by the action, a speed and noise, until it leaves [-1, 1].

    Args:
        slope: What is added to the speed; kept under another name.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, slope=0.0):
        self.speed = 0.0
        self._slope = slope
        self.stepped = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(-0.5, 0.5), 0
        return self.observed(), {}

    def step(self, action):
        assert action in self.action_space
        self.stepped += 1
        self.steps += 1
        move = 0.5 * action[0] + self.speed + self._slope + 0.1 * self.np_random.uniform()
        self.place += move
        return self.observed(), float(move), bool(abs(self.place) > 1), False, {}

    def observed(self):
        return np.array([self.place, self.steps], np.float32)

    # The convention of garage and Meta-World

    def sample_tasks(self, count):
        return [{"velocity": v} for v in self.np_random.uniform(-0.2, 0.2, count)]

    def set_task(self, task):
        self.speed = task["velocity"]


class Faulty(Slide):
    """Goes wrong in its second step in tasks of a speed above 0.1."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def step(self, action):
        result = super().step(action)
        if self.steps < 2 or self.speed <= 0.1:
            return result
        observation, reward, terminated, truncated, info = result
        if self.fault == "raise":
            raise RuntimeError("the gearbox broke")
        if self.fault == "exit":  # as a window does that is closed
            sys.exit(3)
        if self.fault == "hang":
            time.sleep(1000)
        if self.fault == "spin":  # keeps Python's lock
            re.match("(a+)+$", 60 * "a" + "b")
        if self.fault == "die":
            os._exit(7)
        if self.fault == "four":
            return observation, reward, terminated, info
        if self.fault == "reward":
            return observation, np.array([reward]), terminated, truncated, info
        if self.fault == "shape":
            return observation[:1], reward, terminated, truncated, info
        if self.fault == "nan":
            return observation * np.nan, reward, terminated, truncated, info
        assert self.fault == "cut"
        return observation, reward, False, True, info


class Spaces(gymnasium.Env):
    """Shows its `x` as every number of an observation, in spaces of any kind."""

    x = 0.0

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space
        self.got = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observed(), {}

    def step(self, action):
        self.got.append(action)
        return self.observed(), 0.0, False, False, {}

    def observed(self, space=None):
        space = space or self.observation_space
        if isinstance(space, spaces.Dict):
            return {name: self.observed(part) for name, part in space.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(map(self.observed, space))
        if isinstance(space, spaces.Discrete):
            return int(self.x)
        return np.full(space.shape or (), self.x, space.dtype)


class Painted(Slide):
    """Paints its place as a bright column of a dark picture; its size may differ between tasks."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012

    def __init__(self, render_mode=None, width=60, fault=""):
        super().__init__()
        self.render_mode, self.width, self.fault = render_mode, width, fault

    def reset(self, *, seed=None, options=None):
        super().reset(seed=None if self.fault == "chance" else seed)
        return self.observed(), {}

    def render(self):
        if self.fault == "raise" or (self.fault == "late" and self.steps > 1):
            raise RuntimeError("the screen broke")
        if self.fault == "list":
            return []
        picture = np.zeros((30, self.width, 3), np.uint8)
        picture[:, int((self.place + 2) / 4 * (self.width - 1))] = 255
        return picture[..., :1] if self.fault == "grey" else picture
