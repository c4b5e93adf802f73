"""One task in 20 unit systems: what learns in units of one learns in any."""

from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.adaptation import MAML
from metarl.rl import PolicyLearner, policy_for
from metarl.rl.settings import PolicyGradientSettings
from metarl.sim import GymTasks, Uniform
from metarl.training.settings import TrainingSettings
from metarl.training.trust_region import TrustRegionSettings

ONE = (-1.0, 1.0)
SYSTEMS = {
    "actions 0..0.01": (((0.0, 0.01),), 1.0, 0.0, 1.0),
    "actions 200..400": (((200.0, 400.0),), 1.0, 0.0, 1.0),
    "actions -300..300": (((-300.0, 300.0),), 1.0, 0.0, 1.0),
    "actions 0..1": (((0.0, 1.0),), 1.0, 0.0, 1.0),
    "actions -0.001..0.001": (((-1e-3, 1e-3),), 1.0, 0.0, 1.0),
    "actions 5..6 and -40..0": (((5.0, 6.0), (-40.0, 0.0)), 1.0, 0.0, 1.0),
    "actions -1..1 and 0..300": ((ONE, (0.0, 300.0)), 1.0, 0.0, 1.0),
    "observations x 1000": ((ONE,), 1e3, 0.0, 1.0),
    "observations + 1e5": ((ONE,), 1.0, 1e5, 1.0),
    "observations - 1e5": ((ONE,), 1.0, -1e5, 1.0),
    "observations x 1e-4": ((ONE,), 1e-4, 0.0, 1.0),
    "observations x 1e4 + 1e5": ((ONE,), 1e4, 1e5, 1.0),
    "observations x 1e3 and x 1e-4": ((ONE,), (1e3, 1e-4), 0.0, 1.0),
    "observations x 1e-4 - 5 and + 1e5": ((ONE,), (1e-2, 1.0), (-5.0, 1e5), 1.0),
    "rewards x 1000": ((ONE,), 1.0, 0.0, 1e3),
    "rewards x 1e-4": ((ONE,), 1.0, 0.0, 1e-4),
    "mixed 1": (((200.0, 400.0),), 1e3, 0.0, 1e3),
    "mixed 2": (((0.0, 0.01), (-300.0, 300.0)), 1e-4, 0.0, 1e-3),
    "mixed 3": (((-300.0, 300.0),), (1e3, 1.0), (0.0, 1e5), 1e5),
    "mixed 4": (((5.0, 6.0), (0.0, 0.01)), 1.0, 1e5, 1e-2),
}


class Reach(gymnasium.Env):
    """Points on a line go to a goal; actions, observations and rewards have other units."""

    goal = 0.5

    def __init__(self, ranges=(ONE,), factor=1.0, shift=0.0, reward=1.0):
        self.low, self.high = (np.array(side) for side in zip(*ranges, strict=True))
        self.factor, self.shift, self.reward = np.array(factor), np.array(shift), reward
        plain = (factor, shift) == (1.0, 0.0)
        bound = 1.5 if plain else np.inf
        self.observation_space = spaces.Box(-bound, bound, (2,), np.float32)
        self.action_space = spaces.Box(
            self.low.astype(np.float32), self.high.astype(np.float32), dtype=np.float32
        )

    def observed(self):
        seen = np.array([self.place, self.place**2 - 0.5])
        return (self.shift + self.factor * seen).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1)
        return self.observed(), {}

    def step(self, action):
        own = 2 * (np.asarray(action, float) - self.low) / (self.high - self.low) - 1
        self.place = float(np.clip(self.place + 0.3 * own.mean(), -1.2, 1.2))
        return self.observed(), -self.reward * abs(self.place - self.goal), False, False, {}


def final_return(ranges=(ONE,), factor=1.0, shift=0.0, reward=1.0, seed=0):
    """Trains and returns the mean return after one step on test tasks, in plain rewards."""
    build = partial(Reach, ranges, factor, shift, reward)
    family = GymTasks(build, {"goal": Uniform(-0.9, 0.9)}, horizon=12)
    generator = torch.Generator().manual_seed(seed)
    policy = policy_for(family, generator, hidden=(16,), activation="tanh", init_std=0.7)
    gradients = PolicyGradientSettings(trajectories=10)
    learner = PolicyLearner(MAML(policy, 0.2), family, gradients)
    training = TrainingSettings()
    update = TrustRegionSettings(fisher_trajectories=4, max_kl=0.02).build(learner, training)
    for iteration in range(40):
        inputs = learner.collect(family.sample(8, generator), generator, iteration)
        learner.after_update(update(inputs, iteration).carry)
    tasks = family.split("test").sample(40, torch.Generator().manual_seed(1))
    *_, last = learner.returns(tasks, 1, torch.Generator().manual_seed(2))
    return last.mean().item() / reward


@pytest.mark.slow
def test_every_unit_system_learns_as_well_as_the_plain_one():
    plain = {n: [final_return((ONE,) * n, seed=seed) for seed in range(3)] for n in (1, 2)}
    found = {name: (len(system[0]), final_return(*system)) for name, system in SYSTEMS.items()}
    print(plain, found)
    for name, (count, value) in found.items():
        mean, deviation = np.mean(plain[count]), max(np.std(plain[count], ddof=1), 0.15)
        assert mean > -4.5
        # Four standard errors of a difference between one run and the mean of three.
        assert value > mean - 4 * deviation * (1 + 1 / 3) ** 0.5, (name, value, plain[count])
