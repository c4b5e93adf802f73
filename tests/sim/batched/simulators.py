"""A simulator of many points on a line, in the manners of several packages."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

LIMIT = 2.0
TIME_LIMIT = 6


class Points:
    """N points x that actions move: x <- x + gain * a; reward -x^2 + offset.

    An episode terminates at |x| > 2 and is truncated after 6 steps. A world that has ended starts
    again, within the step or in the next one.

    Args:
        num_envs: The number of points, N.
        resets: "same_step" or "next_step".
        numpy: Whether arrays are those of NumPy; tensors otherwise.
        final: The name in `info` of the observations before a reset; "" for none.
        parts: Whether observations are a Dict.
        said: Whether the metadata say when worlds are reset.
    """

    def __init__(
        self, num_envs=8, resets="next_step", numpy=False, final="final_obs", parts=False, said=True
    ):
        self.num_envs, self.resets, self.numpy, self.final = num_envs, resets, numpy, final
        box = spaces.Box(-np.inf, np.inf, (2,))
        self.parts = parts
        self.single_observation_space = spaces.Dict(policy=box, critic=box) if parts else box
        self.single_action_space = spaces.Box(-1, 1, (1,))
        modes = {"same_step": AutoresetMode.SAME_STEP, "next_step": AutoresetMode.NEXT_STEP}
        self.metadata = {"autoreset_mode": modes[resets]} if said else {}
        self.gain, self.offset = torch.ones(num_envs), torch.zeros(num_envs)
        self.x = self.reward = torch.zeros(num_envs)
        self.resets_done = 0

    def reset(self, *, seed=None, options=None):
        self.resets_done += 1
        self.generator = torch.Generator().manual_seed(seed)
        self.x, self.steps = self._start(), torch.zeros(self.num_envs)
        self.over = torch.zeros(self.num_envs, dtype=torch.bool)
        return self._seen(self.x), {}

    def step(self, actions):
        actions = torch.as_tensor(actions)
        assert actions.shape == (self.num_envs, 1) and actions.abs().max() <= 1
        assert isinstance(actions, torch.Tensor)
        fresh = self.over
        self.x = torch.where(fresh, self._start(), self.x + self.gain * actions[:, 0])
        self.steps = torch.where(fresh, 0, self.steps + 1)
        terminated = (self.x.abs() > LIMIT) & ~fresh
        truncated = (self.steps >= TIME_LIMIT) & ~fresh
        self.reward[:] = torch.where(fresh, 0, self.offset - self.x**2)  # the same memory each time
        info = {"far": self.x.abs(), "_far": self.steps % 2 == 1, "other": "text"}
        over = terminated | truncated
        if self.resets == "same_step":
            last = self.x
            if self.final:
                info[self.final] = self._seen(last)
            info["final_info"] = {"far": last.abs() + 10, "_far": over}
            self.x = torch.where(over, self._start(), self.x)
            self.steps = torch.where(over, 0, self.steps)
            self.over = torch.zeros_like(over)
        else:
            self.over = over
        ends = (terminated, truncated)
        reward = self.reward
        if self.numpy:
            ends, reward = (end.numpy() for end in ends), reward.numpy()
        return (self._seen(self.x), reward, *ends, info)

    def _start(self):
        return torch.rand(self.num_envs, generator=self.generator) - 0.5

    def _seen(self, x):
        seen = torch.stack([x, x * self.gain], 1)
        seen = seen.numpy().astype(np.float64) if self.numpy else seen
        return {"critic": seen * 0 + 7, "policy": seen} if self.parts else seen


def set_gains(env, tasks):
    """Sets the gains, and offsets where tasks have them; the arrays have the simulator's kind."""
    for name, values in tasks.items():
        assert isinstance(values, np.ndarray if env.numpy else torch.Tensor)
        assert values.shape == (env.num_envs,)
        setattr(env, name, torch.as_tensor(values).float())


def wrapped(env):
    """Returns a simulator in a wrapper that forwards nothing but calls, as those of gymnasium."""
    return SimpleNamespace(reset=env.reset, step=env.step, unwrapped=env)


def carts(mode, worlds=12):
    """Returns gymnasium's cart-poles as one vector environment with this autoreset mode."""
    return gymnasium.make_vec(
        "CartPole-v1", worlds, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}
    )


def set_forces(env, tasks):
    """Sets the force of each of the carts of `carts`."""
    for one, force in zip(env.envs, tasks["force"], strict=True):
        one.unwrapped.force_mag = float(force)
