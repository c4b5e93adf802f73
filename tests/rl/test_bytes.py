"""Rollouts of images keep bytes, and everything computed from them is as with floats."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.adaptation import MAML
from metarl.rl import PolicyGradientSettings, PolicyLearner, policy_for
from metarl.sim import GymTasks, Uniform

IMAGES = spaces.Box(0, 255, (9, 10, 3), np.uint8)


class Camera(gymnasium.Env):
    """Pictures of random bytes; `kind` is their type."""

    observation_space = IMAGES
    action_space = spaces.Discrete(3)
    light, factor = 1.0, 1

    def seen(self):
        return self.np_random.integers(0, 256, IMAGES.shape, dtype=np.uint8) * self.factor

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.seen(), {}

    def step(self, action):
        self.t += 1
        return self.seen(), float(action) * self.light, self.t >= 4, False, {}


class Faint(Camera):
    """Returns fractions in place of the bytes that it declares."""

    factor = 0.1


class Mixed(Camera):
    """A picture and a number."""

    observation_space = spaces.Dict(image=IMAGES, speed=spaces.Box(-1, 1, (1,), np.float32))

    def seen(self):
        return {"image": super().seen(), "speed": np.zeros(1, np.float32)}


def learner_of(kind):
    family = GymTasks(kind, {"light": Uniform(0.5, 2)}, horizon=6)
    generator = torch.Generator().manual_seed(0)
    policy = policy_for(family, generator, (8,), cnn=(4,))
    return family, PolicyLearner(MAML(policy, 0.1), family, PolicyGradientSettings(trajectories=3))


def results(monkeypatch, packed):
    """Rollouts, losses and gradients of an iteration, with bytes or without."""
    if not packed:
        monkeypatch.setattr("metarl.sim.episode.as_bytes", lambda seen: seen)
    family, learner = learner_of(Camera)
    generator = torch.Generator().manual_seed(1)
    inputs = learner.collect(family.sample(2, generator), generator, 0)
    losses = learner.forward(inputs).losses
    losses.sum().backward()
    gradients = [p.grad for p in learner.parameters() if p.grad is not None]
    return inputs.experience, losses.detach(), gradients


def test_an_iteration_is_the_same_to_the_bit(monkeypatch):
    experience, losses, gradients = results(monkeypatch, True)
    others, same_losses, same_gradients = results(monkeypatch, False)
    for batch, other in zip(experience, others, strict=True):
        rollouts, plain = batch.rollouts, other.rollouts
        assert (rollouts.seen.dtype, plain.seen.dtype) == (torch.uint8, torch.float32)
        assert torch.equal(rollouts.observations, plain.observations)
        assert rollouts.observations.max() <= 1
        assert torch.equal(rollouts.final_observations, plain.final_observations)
        assert torch.equal(batch.advantages, other.advantages)
    assert torch.equal(losses, same_losses)
    assert all(torch.equal(a, b) for a, b in zip(gradients, same_gradients, strict=True))


@pytest.mark.parametrize("kind", [Faint, Mixed])
def test_what_bytes_cannot_hold_stays_in_floats(kind):
    family, learner = learner_of(kind)
    generator = torch.Generator().manual_seed(1)
    rollouts = next(iter(learner.rollouts(family.sample(2, generator), 0, generator)))
    assert rollouts.seen.dtype == torch.float32
    values = rollouts.observations[..., :270] * 255
    assert (values - values.round()).abs().max() > 0.01 or kind is Mixed


def test_a_policy_in_the_units_of_the_environment_sees_the_bytes_as_numbers():
    family, learner = learner_of(Camera)
    learner.policy.units = None
    generator = torch.Generator().manual_seed(1)
    rollouts = next(iter(learner.rollouts(family.sample(2, generator), 0, generator)))
    assert rollouts.seen.dtype == torch.float32 and rollouts.seen.max() > 200
