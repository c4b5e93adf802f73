"""Environments whose parts are given."""

import gymnasium
import numpy as np
from gymnasium import spaces

F32 = np.float32
PAIR = spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(2))


def odd(observed=None, acted=None, *, seen=None, step=None, reset=None, **attributes):
    """A class of environments whose parts are given; it refuses actions outside of its space."""

    class Odd(gymnasium.Env):
        observation_space = spaces.Box(-1, 1, (2,), F32) if observed is None else observed
        action_space = spaces.Box(-1, 1, (1,), F32) if acted is None else acted
        k = 0.5

        def look(self):
            if seen is not None:
                return seen(self)
            self.observation_space.seed(int(self.np_random.integers(1000)))
            return self.observation_space.sample()

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.t = 0
            return reset(self) if reset else (self.look(), {})

        def step(self, action):
            assert self.action_space.contains(action), (action, self.action_space)
            self.t += 1
            return step(self) if step else (self.look(), self.k, False, False, {})

    for name, value in attributes.items():
        setattr(Odd, name, value)
    return Odd


def ended(terminated=False, truncated=False, reward=None, info=None):
    """What a step returns, with functions of the environment for its ends."""

    def step(env):
        ends = (end(env) if callable(end) else end for end in (terminated, truncated))
        number = env.k if reward is None else reward(env)
        return env.look(), number, *ends, {} if info is None else info(env)

    return step
