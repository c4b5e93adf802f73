"""Exports of policies for actions of several kinds, and of those that see images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from metarl_envs.navigation import Navigation2D

from metarl.adaptation.algorithms import MAMLAlgorithm
from metarl.deploy.export import check
from metarl.deploy.export.adaptation import export_adaptation
from metarl.deploy.export.control import control_graphs
from metarl.deploy.export.policies import FORMATS, export_policy
from metarl.deploy.exported.runtime import OnnxAdaptation
from metarl.rl.joint_policy import JointPolicy
from metarl.rl.plain_policy import plain_policy
from metarl.rl.policy_network import PolicyNetwork
from metarl.rl.problem import ControlProblem
from metarl.rl.settings import PolicyGradientSettings, PolicySettings
from metarl.rl.trials.play import AgentInput
from metarl.rl.trials.recurrent_learner import RL2Algorithm
from metarl.sim.spaces import flat_actions, flat_observations
from tests.deploy.export.test_adaptation import assert_same, needs_onnx, policy_learner, raw

STEPS = 4
ACTIONS = spaces.Dict(
    {
        "gear": spaces.Discrete(3),
        "lights": spaces.MultiBinary(2),
        "move": spaces.Box(np.float32([200, -3]), np.float32([400, 5])),
    }
)


class Joint(Navigation2D):
    """Navigation by a gear, two switches and a move in other units."""

    published_units = False
    low, high = torch.tensor([200.0, -3.0]), torch.tensor([400.0, 5.0])

    @property
    def action_space(self):
        return flat_actions(ACTIONS)

    def step(self, state, actions, tasks, noise):
        move = 2 * (actions[:, 3:] - self.low) / (self.high - self.low) - 1
        return super().step(state, move * actions[:, :1] / 2, tasks, noise)


class Seen(Navigation2D):
    """Navigation that is seen by a camera of 9 x 8 bytes, too."""

    published_units = False

    @property
    def observation_space(self):
        camera = spaces.Box(0, 255, (9, 8), np.uint8)
        place = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        return flat_observations(spaces.Dict({"camera": camera, "place": place}))

    def observe(self, state, tasks):
        place = state["position"]
        grid = torch.stack(
            torch.meshgrid(torch.linspace(-1, 1, 9), torch.linspace(-1, 1, 8), indexing="ij"), -1
        )
        apart = (grid - place[:, None, None]).square().sum(-1)
        return torch.cat(((255 * torch.exp(-apart)).round().flatten(1), place), 1)


class SeenJoint(Joint, Seen):
    """Both."""


FAMILIES = {"joint": Joint, "images": Seen, "both": SeenJoint}
OPTIONS = PolicySettings(cnn=(3, 4))


def problem_of(name, generator):
    gradients = PolicyGradientSettings(trajectories=3, clip=0.2)
    return ControlProblem(
        FAMILIES[name](horizon=7), generator, gradients, hidden=(8,), policy=OPTIONS
    )


def started_learner(name, generator):
    """A learner whose running statistics have values."""
    learner = MAMLAlgorithm(0.02, steps=STEPS).build(problem_of(name, generator))
    inputs = learner.collect(learner.family.sample(1, generator), generator, 0)
    learner.after_update(learner(inputs).carry)
    assert isinstance(learner.policy, JointPolicy) == (name != "images")
    assert isinstance(learner.policy.network, PolicyNetwork) == (name != "joint")
    return learner


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_adaptation_is_the_learners(name, generator, tmp_path):
    needs_onnx()
    learner = started_learner(name, generator)
    inputs = learner.collect(learner.family.sample(1, generator), generator, 1)
    assert export_adaptation(learner, tmp_path / "out") < 1e-5
    found, units = OnnxAdaptation(tmp_path / "out"), learner.policy.units
    for step in range(STEPS):
        found.adapt(**raw(inputs.experience[step].rollouts, units))
        assert_same(found.theta, inputs.path[step])
    observations = raw(inputs.experience[0].rollouts, units)["observations"][:, 2]
    distribution = learner.policy.distribution(
        inputs.path[-1], units.observe(torch.from_numpy(observations))[None]
    )
    bounds = (
        torch.from_numpy(b)
        for b in (learner.family.action_space.low, learner.family.action_space.high)
    )
    expected = units.act(distribution.mode()[0]).clamp(*bounds)
    np.testing.assert_allclose(found.act(observations), expected, rtol=1e-5, atol=1e-5)
    parts = found.metadata["action"]["parts"]
    if name == "images":
        assert parts is None
        return
    assert [(p["kind"], p["size"]) for p in parts] == [
        ("categorical", 3), ("bernoulli", 2), ("gaussian", 2),
    ]  # fmt: skip
    samples = found.act(np.repeat(observations, 40, 0), generator=np.random.default_rng(0))
    assert set(np.unique(samples[:, 0])) == {0, 1, 2} and set(np.unique(samples[:, 1:3])) == {0, 1}
    assert len(np.unique(samples[:, 3])) > 40


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("to", ["torch", pytest.param("onnx", marks=pytest.mark.slow)])
def test_the_policy_alone_acts_as_the_learners(name, to, generator, tmp_path):
    if to == "onnx":
        needs_onnx()
    learner = started_learner(name, generator)
    family = learner.family
    params, rollouts = learner.adapted(family.sample(1, generator), 1, generator)
    policy = plain_policy(learner.policy, params, family.observation_space, family.action_space)
    observations = learner.policy.units.raw_observations(rollouts.observations.flatten(0, 2))
    path = tmp_path / {"torch": "policy.pt2", "onnx": "policy.onnx"}[to]
    assert export_policy(policy, path, to, observations, {"family": name}) < 1e-3
    action = FORMATS[to][1](path, observations[:5].numpy())["action"]
    own = learner.policy.units.observe(observations[:5])[None]
    mode = learner.policy.units.act(learner.policy.distribution(params, own).mode()[0])
    bounds = (torch.from_numpy(b) for b in (family.action_space.low, family.action_space.high))
    np.testing.assert_allclose(action, mode.clamp(*bounds), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("memory", ["gru", "attention"])
def test_a_recurrent_policy_acts_as_the_learners(name, memory, generator, tmp_path):
    needs_onnx()
    learner = RL2Algorithm(2, units=6, memory=memory, heads=2).build(problem_of(name, generator))
    family, policy = learner.family, learner.policy
    learner.after_update(learner(learner.collect(family.sample(2, generator), generator, 0)).carry)
    export_adaptation(learner, tmp_path / "out")
    found, state = OnnxAdaptation(tmp_path / "out"), policy.begin({"any": torch.zeros(1)})
    action = torch.zeros(1, family.action_space.shape[0])
    bounds = [torch.from_numpy(b) for b in (family.action_space.low, family.action_space.high)]
    world = {"position": torch.zeros(1, 2)}
    for step in range(2 * family.horizon):
        observation = family.observe(world, {})
        reward = torch.tensor([0.1 * step])
        ended = torch.tensor([float(step == family.horizon)])
        given = AgentInput(observation, action, reward, ended, torch.tensor([float(step > 0)]))
        with torch.no_grad():
            played = policy.act(state, given, policy.noise((1,), generator))
        state, mode = played.state, played.record.behaviour.mode()
        outer = mode if policy.units is None else policy.units.act(mode)
        outer = outer.clamp(*bounds)
        own = found.act(observation[0].numpy(), float(reward), bool(ended))
        np.testing.assert_allclose(own, outer[0], rtol=1e-5, atol=1e-5)
        units = policy.units
        action = outer
        if units is not None and units.actions is not None:
            action = (outer - units.actions.shift) / units.actions.scale
        world = family.step(world, outer, {}, torch.zeros(1))


def test_steps_are_compared_on_actions_of_the_policy(monkeypatch):
    """On actions that are all near 0, ten steps of this policy diverge."""
    generator = torch.Generator().manual_seed(0)
    learner = policy_learner(Navigation2D(horizon=6), MAMLAlgorithm(0.1), generator)
    dict(learner.policy.named_parameters())["log_std"].data.fill_(-4.0)
    start, graphs = control_graphs(learner, 6, generator)
    for graph in graphs[1], graphs[3]:
        own = graph.function
        monkeypatch.setattr(check, "_program", lambda _, own=own: lambda inputs: own(*inputs))
        assert check.difference_of(graph, Path("step.pt2"), start, 0) == 0
