"""Policies in own units, from rollouts to updates and files: what learns in units of one learns."""

import copy
import warnings
from dataclasses import replace
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.adaptation import MAML
from metarl.deploy.export.policies import FORMATS, export_policy
from metarl.models.base import task_params
from metarl.rl import ControlProblem, PolicyLearner, policy_for
from metarl.rl.plain_policy import plain_policy
from metarl.rl.rollouts import collect, draw_noise
from metarl.rl.settings import PolicyGradientSettings, PolicySettings
from metarl.rl.trials.recurrent_learner import RL2Algorithm
from metarl.sb3.ppo import PPOAlgorithm
from metarl.sb3.vec_env import SB3VecEnv
from metarl.sim import GymTasks, Uniform, make_vec
from metarl.sim.spaces import action_leaves
from metarl.training.compilation import CompiledGradient
from metarl.training.meta_step import GradientUpdateSettings
from metarl.training.proximal import ProximalSettings
from metarl.training.settings import TrainingSettings
from metarl.training.trust_region import TrustRegionSettings
from tests.sim.gymnasium.odd import odd

MIXED_ACTIONS = spaces.Dict(
    gear=spaces.Discrete(3), gas=spaces.Box(0, 50, (1,), np.float32), lights=spaces.MultiBinary(2)
)
MIXED_OBSERVATIONS = spaces.Dict(
    camera=spaces.Box(0, 255, (8, 8, 1), np.uint8),
    speed=spaces.Box(-np.inf, np.inf, (2,), np.float64),
)


class Follow(gymnasium.Env):
    """A point on a line goes to a goal; observations are shift + factor * units of one."""

    goal = 0.5

    def __init__(self, low=-1.0, high=1.0, factor=1.0, shift=0.0, reward=1.0):
        self.low, self.high, self.factor, self.shift, self.reward = low, high, factor, shift, reward
        bound = 1.5 * factor if (factor, shift) == (1.0, 0.0) else np.inf
        self.observation_space = spaces.Box(-bound, bound, (2,), np.float32)
        self.action_space = spaces.Box(low, high, (1,), np.float32)

    def observed(self):
        seen = np.clip(np.array([self.place, self.place * self.place - 0.5]), -1.5, 1.5)
        return (self.shift + self.factor * seen).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1)
        return self.observed(), {}

    def step(self, action):
        own = 2 * (float(action[0]) - self.low) / (self.high - self.low) - 1
        self.place = float(np.clip(self.place + 0.3 * own, -1.2, 1.2))
        return self.observed(), -self.reward * abs(self.place - self.goal), False, False, {}


class Mixed(gymnasium.Env):
    """A picture and two speeds; a gear, gas and lights: the reward is that they are right."""

    observation_space, action_space = MIXED_OBSERVATIONS, MIXED_ACTIONS
    gear = 1.0

    def seen(self):
        camera = self.np_random.integers(0, 256, (8, 8, 1), np.uint8)
        return {"camera": camera, "speed": self.np_random.normal(1e4, 1e3, 2)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.seen(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        right = (action["gear"] == round(self.gear)) + (action["gas"][0] > 40)
        return self.seen(), float(right + action["lights"].mean()), False, False, {}


def family(horizon=8, **units):
    return GymTasks(partial(Follow, **units), {"goal": Uniform(0.3, 0.9)}, horizon=horizon)


MIXED = GymTasks(Mixed, {"gear": Uniform(0, 2)}, horizon=5)
ODD = {"low": 200.0, "high": 400.0, "factor": 1e-4, "shift": 5.0}


def learner_of(tasks, seed=0, **options):
    policy = policy_for(tasks, torch.Generator().manual_seed(seed), (16,), "tanh", **options)
    return PolicyLearner(MAML(policy, 0.1), tasks, PolicyGradientSettings(trajectories=4))


def iterate(learner, update, iterations=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for iteration in range(iterations):
        tasks = learner.family.sample(3, generator)
        inputs = learner.collect(tasks, generator, iteration)
        result = update(inputs, iteration)
        assert result.finite
        learner.after_update(result.carry)
    return inputs, result


def test_units_of_one_have_no_maps():
    assert policy_for(family(), torch.Generator()).units is None
    pair = (spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2))
    assert policy_for(pair, torch.Generator()).units is None


def test_rollouts_are_in_the_policys_units_and_worlds_in_their_own():
    tasks = family(**ODD)
    learner = learner_of(tasks)
    generator = torch.Generator().manual_seed(0)
    learner.collect(tasks.sample(3, generator), generator, 0)  # starts the statistics
    noise = draw_noise(learner.policy, tasks, 3, 4, generator)
    env = make_vec(tasks, 12, device="cpu", autoreset="disabled")
    got = []
    step = env.step

    def watched(actions):
        got.append(actions)
        return step(actions)

    env.step, env.observer = watched, lambda *_: None
    params = task_params(learner.policy, 3)
    rollouts = collect(env, learner.policy, params, tasks.sample(3, generator).values, noise)
    own = rollouts.actions.flatten(0, 1)
    torch.testing.assert_close(torch.stack(got, 1), 300 + 100 * own)
    torch.testing.assert_close(rollouts.behaviour.sample(noise.actions), rollouts.actions)
    assert rollouts.observations.abs().max() < 6
    behaviour = learner.policy.distribution(params, rollouts.observations)
    torch.testing.assert_close(behaviour.mean, rollouts.behaviour.mean)


def test_statistics_change_after_the_update_only_and_are_of_all_rollouts():
    learner = learner_of(family(**ODD))
    update = GradientUpdateSettings().build(learner, TrainingSettings(outer_lr=1e-3))
    scale = learner.policy.units.observations
    inputs, _ = iterate(learner, update, 1)
    calibration, each = 3 * 4 * 8, 3 * 4 * 8
    assert scale.statistics.count == calibration + 2 * each
    assert learner.environment_steps == calibration + 2 * each
    assert inputs.moments["observations"].count.tolist() == [2 * 4 * 8] * 3
    before = copy.deepcopy(scale.state_dict())
    generator = torch.Generator().manual_seed(5)
    list(learner.returns(learner.family.sample(2, generator), 1, generator))
    learner.collect(learner.family.sample(3, generator), generator, 1)
    assert all(torch.equal(before[n], v) for n, v in scale.state_dict().items())


def test_the_statistics_start_alike_for_any_number_of_tasks_at_once():
    states = []
    for chunk in (None, 1, 2):
        learner = learner_of(family(**ODD))
        learner.task_chunk_size = chunk
        generator = torch.Generator().manual_seed(5)
        list(learner.returns(learner.family.sample(3, generator), 0, generator))
        assert learner.environment_steps == 3 * 4 * 8
        states.append(learner.policy.units.state_dict())
    for state in states[1:]:
        torch.testing.assert_close(state, states[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("update", ["trpo", "promp"])
def test_mixed_spaces_learn_with_every_update(update):
    learner = learner_of(MIXED)
    training = TrainingSettings(**({} if update == "trpo" else {"outer_lr": 3e-3}))
    settings = TrustRegionSettings() if update == "trpo" else ProximalSettings(2)
    before = [p.clone() for p in learner.policy.parameters()]
    inputs, result = iterate(learner, settings.build(learner, training))
    assert all((p != old).any() for p, old in zip(learner.policy.parameters(), before, strict=True))
    rollouts = inputs.experience[0].rollouts
    assert rollouts.observations[..., :64].max() <= 1
    (gear,) = (leaf.start for leaf in action_leaves(MIXED.action_space) if leaf.name == "gear")
    assert set(rollouts.actions[..., gear].unique().tolist()) == {0, 1, 2}
    assert {n for n in result.metrics if n.startswith("units/")} == {
        "units/observation_mean", "units/observation_deviation", "units/observations_clipped",
        "units/actions_clipped",
    }  # fmt: skip
    if update == "trpo":
        assert 0 < result.metrics["meta/kl"].mean() <= 0.01


def test_a_captured_meta_gradient_carries_the_moments_too():
    learner = learner_of(MIXED)
    generator = torch.Generator().manual_seed(0)
    inputs = learner.collect(MIXED.sample(2, generator), generator, 0)
    params = list(learner.parameters())
    captured = CompiledGradient(learner, params, lambda graph, _: graph)
    gradients, result = captured(inputs, 2)
    expected = learner(inputs)
    torch.testing.assert_close(result.losses, expected.losses.detach())
    own = torch.autograd.grad(expected.losses.sum() / 2, params)
    torch.testing.assert_close(gradients, list(own))
    moments = result.carry["moments"]["observations"]
    torch.testing.assert_close(moments, inputs.moments["observations"], rtol=0, atol=0)


def test_rl2_learns_in_own_units_with_mixed_spaces():
    generator = torch.Generator().manual_seed(0)
    problem = ControlProblem(
        MIXED, generator, PolicyGradientSettings(trajectories=2, clip=0.2), hidden=()
    )
    learner = RL2Algorithm(episodes=2, units=8).build(problem)
    training = TrainingSettings(outer_lr=1e-3)
    inputs, result = iterate(learner, ProximalSettings(2).build(learner, training))
    units = learner.policy.units
    assert units.observations.entries.tolist() == [64, 65]
    assert units.rewards.started
    observed = inputs.trials.record.inputs[..., :66]
    assert observed.abs().max() <= 10
    # [o, a_{t-1} (3 choices one-hot, gas, 2 lights), r_{t-1}, d_{t-1}]
    assert inputs.trials.record.inputs.shape[-1] == 66 + 6 + 2
    assert inputs.trials.record.observation is None
    assert "units/reward_size" in result.metrics
    first = learner.policy.distribution(learner.policy.unroll(inputs.trials.record.inputs))
    assert first.log_prob(inputs.trials.actions).isfinite().all()


def test_a_resumed_learner_has_the_statistics_and_an_old_one_has_none():
    learner, other = (learner_of(family(**ODD), seed) for seed in (0, 3))
    update = GradientUpdateSettings().build(learner, TrainingSettings(outer_lr=1e-3))
    iterate(learner, update)
    weights = learner.state_dict()
    other.load_state_dict(weights)
    tasks = learner.family.sample(2, torch.Generator().manual_seed(2))
    found = [
        torch.stack(list(one.returns(tasks, 1, torch.Generator().manual_seed(3))))
        for one in (learner, other)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    old = learner_of(family(**ODD))
    old.load_state_dict({n: v for n, v in weights.items() if ".units." not in n})
    assert old.policy.units is None


@pytest.mark.parametrize("high", [(400.0,), (1.0,)])
@pytest.mark.parametrize("far", [90.0, 1.05])
def test_entries_of_an_older_learner_are_those_that_it_standardised(far, high, monkeypatch):
    """Narrow bounds such as 0.95 to 1.05 counted as a scale."""
    seen = spaces.Box(np.array([0.95, 0.95], np.float32), np.array([1.05, far], np.float32))
    env = odd(seen, spaces.Box(-1, np.array(high, np.float32)))
    tasks = GymTasks(env, {"k": Uniform(0, 1)}, horizon=4)
    with monkeypatch.context() as context:
        context.setattr("metarl.rl.units.WIDTH", 0.0)
        old = learner_of(tasks)
    new = learner_of(tasks, seed=1)
    assert new.policy.units.observations.entries.tolist() == [0, 1]
    batch, generator = tasks.sample(2, torch.Generator()), torch.Generator().manual_seed(0)
    expected = torch.stack(list(old.returns(batch, 1, generator.manual_seed(0))))
    new.load_state_dict(old.state_dict())
    observation = torch.tensor([[1.0, 30.0]])
    units = [one.policy.units for one in (old, new)]
    maps = [torch.clone if own is None else own.observe for own in units]
    assert torch.equal(maps[0](observation), maps[1](observation))
    found = torch.stack(list(new.returns(batch, 1, generator.manual_seed(0))))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("tasks", [family(**ODD), MIXED], ids=["odd", "mixed"])
def test_files_take_and_give_the_environments_units(to, tasks, tmp_path):
    if to == "onnx":
        pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    if to == "sb3" and tasks is MIXED:
        pytest.skip("Stable-Baselines3 has no such policy")
    learner = learner_of(tasks)
    generator = torch.Generator().manual_seed(0)
    params, rollouts = learner.adapted(tasks.sample(1, generator), 1, generator)
    plain = plain_policy(learner.policy, params, tasks.observation_space, tasks.action_space)
    own = rollouts.observations.flatten(0, 2)
    observations = learner.policy.units.raw_observations(own)
    path = tmp_path / {"sb3": "policy.zip", "onnx": "p.onnx", "torch": "p.pt2"}[to]
    assert export_policy(plain, path, to, observations, {"a": "b"}) < 1e-2  # of actions of 300
    distribution = learner.policy.distribution(params, own.unsqueeze(0))
    expected = learner.policy.units.act(distribution.mode())[0]
    space = tasks.action_space
    assert isinstance(space, spaces.Box)
    expected = expected.clamp(torch.from_numpy(space.low), torch.from_numpy(space.high))
    torch.testing.assert_close(plain(observations)[0], expected, rtol=1e-4, atol=1e-3)


def test_ppo_learns_in_own_units_with_honest_returns():
    tasks = family(**ODD, reward=1000.0)
    gradients = PolicyGradientSettings(trajectories=4)
    problem = ControlProblem(tasks, torch.Generator(), gradients, (8,))
    learner = PPOAlgorithm().build(problem)
    assert learner.units == {"scale_actions": True, "normalize": True}
    generator = torch.Generator().manual_seed(0)
    found = torch.stack(list(learner.returns(tasks.sample(1, generator), 1, generator)))
    assert (found < -500).all() and (found > -20_000).all()


def test_stable_baselines_reaches_every_choice_and_every_bound():
    worlds = make_vec(MIXED, 2, device="cpu", autoreset="disabled")
    env = SB3VecEnv(worlds, scale_actions=True)
    assert env.action_space == spaces.Box(-1, 1, MIXED.action_space.shape, np.float32)
    space, got, step = MIXED.action_space, [], worlds.step
    assert isinstance(space, spaces.Box) and space.shape is not None

    def watched(actions):
        got.append(torch.as_tensor(actions).numpy())
        return step(actions)

    worlds.step = watched
    env.reset()
    env.step(np.stack((-np.ones(space.shape), np.ones(space.shape))).astype(np.float32))
    np.testing.assert_allclose(got[0], np.stack((space.low, space.high)))


@pytest.mark.parametrize(
    ("units", "options", "message"),
    [
        ({"low": 200.0, "high": 400.0}, {"scale_actions": False}, "% of the actions were outside"),
        ({"factor": 1e6}, {"normalize_observations": False}, "Observations of up to"),
        ({"reward": 1e8}, {}, "Rewards have an average size of"),
    ],
)
def test_unsuitable_units_are_reported_once(units, options, message):
    learner = learner_of(family(**units), **options)
    generator = torch.Generator().manual_seed(0)
    tasks = learner.family.sample(2, generator)
    with pytest.warns(UserWarning, match=message) as caught:
        for iteration in range(2):
            learner.collect(tasks, generator, iteration)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learner_of(family(**units), **options).collect(tasks, generator, 3)


def warnings_of(tasks, generator, words):
    """Returns the warnings of two iterations that have these words."""
    learner = learner_of(tasks)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for iteration in range(2):
            learner.collect(tasks.sample(2, generator), generator, iteration)
    return [str(w.message) for w in caught if words in str(w.message)]


def test_observations_far_beyond_their_bounds_are_reported():
    """Bounds of -1..1 say that nothing is to be standardised; the numbers say something else."""
    low, high = np.array([-1, -np.inf], np.float32), np.array([1, np.inf], np.float32)
    space = spaces.Box(low, high)
    generator = torch.Generator().manual_seed(0)
    text = "entry 0 is up to 500 in size and declared as -1 to 1"
    for number, message in ((500.0, text), (9, "")):
        env = odd(space, seen=lambda env, n=number: np.array([n, 1e6 * n + env.t], np.float32))
        tasks = GymTasks(env, {"k": Uniform(0, 1)}, horizon=3)
        texts = warnings_of(tasks, generator, "Observations leave")
        assert len(texts) == bool(message) and all(message in text for text in texts)


@pytest.mark.parametrize(
    ("start", "step", "message"),
    [
        (1.7e9, 0.1, "entry 1 from 1.7e+09, where the numbers of float32 are 1.3e+02 apart"),
        (4.5e6, 0.6, r"entry 1 from 4500001, where the numbers of float32 are 0.5 apart"),
        (-(2**30), 20, r"entry 1 from -1.07374"), (1e6, 100, ""), (101325.0, 0, ""), (9.81, 0, ""),
        (1.0, 6e-8, ""),
    ],
)  # fmt: skip
def test_observations_whose_digits_float32_loses_are_reported(start, step, message):
    space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    env = odd(space, seen=lambda env: np.array([env.t, start + step * env.t]))
    tasks = GymTasks(env, {"k": Uniform(0, 1)}, horizon=5)
    texts = warnings_of(tasks, torch.Generator(), "hardly differ")
    assert len(texts) == bool(message) and all(message in text for text in texts)


def test_actions_without_bounds_are_reported_at_the_start():
    pair = (spaces.Box(-1, 1, (2,), np.float32), spaces.Box(-np.inf, np.inf, (3,), np.float32))
    with pytest.warns(UserWarning, match="no finite bounds in the entries 0, 1, 2"):
        assert policy_for(pair, torch.Generator()).units is None
    policy_for(pair, torch.Generator(), scale_actions=False)


def test_published_families_keep_their_units_unless_asked():
    from metarl_envs.half_cheetah import HalfCheetahVelocity

    problem = ControlProblem(HalfCheetahVelocity(), torch.Generator(), PolicyGradientSettings())
    assert problem.network().units is None
    asked = replace(problem, policy=PolicySettings(normalize_observations=True))
    units = asked.network().units
    assert units is not None and units.observations is not None and units.observations.learns
