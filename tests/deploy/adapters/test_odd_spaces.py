"""Runs in environments with unusual spaces: actions and logs are those of the spaces."""

import warnings

import numpy as np
import pytest
import torch
from gymnasium import spaces

import metarl
from metarl.adaptation import MAML
from metarl.deploy.export.control import control_graphs
from metarl.deploy.export.notes import control_notes
from metarl.deploy.exported.episodes import spaces_of
from metarl.errors import SettingsError, ShapeError
from metarl.rl import PolicyGradientSettings, PolicyLearner, policy_for
from metarl.rl.plain_policy import plain_policy
from metarl.sim import GymTasks, Uniform
from metarl.sim.space_descriptions import decode_space, encode_space
from metarl.sim.spaces import flat_actions
from tests.deploy.conftest import train
from tests.sim.gymnasium.odd import F32, odd
from tests.sim.gymnasium.test_odd_environments import MIXED, NESTED

STEPS = 4
BOX = spaces.Box(-1, 1, (2,), F32)
CASES = {
    "choices from 2": (BOX, spaces.Discrete(4, start=2)),
    "several choices": (BOX, spaces.MultiDiscrete([3, 2], start=[1, 5])),
    "switches": (BOX, spaces.MultiBinary([2, 3])),
    "nested": (NESTED, MIXED),
    "tuples": (spaces.Tuple((BOX, spaces.Discrete(3))), spaces.Tuple((BOX, spaces.Discrete(3)))),
    "whole numbers": (BOX, spaces.Box(-3, 7, (2,), np.int64)),
    "16 bits": (BOX, spaces.Box(-5, 5, (2,), np.float16)),
    "a single value": (BOX, spaces.Box(np.array([1, -5], F32), np.array([1, 5], F32))),
}

NUMBERS = ("nested", "tuples", "whole numbers", "16 bits", "a single value")


def run_in(env, folder):
    family = GymTasks(env, {"k": Uniform(0.4, 0.6)}, horizon=STEPS)
    policy = policy_for(family, torch.Generator().manual_seed(0), (4,))
    learner = PolicyLearner(MAML(policy, inner_lr=0.1), family, PolicyGradientSettings(2))
    return train(learner, family, folder)[1]


def played(adapter, env, episodes):
    """Episodes as a user records them: a row per step."""
    logs = []
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        seen, actions, rewards = [observation], [], []
        for step in range(STEPS):
            action = adapter.act(observation)  # which the environment refuses if it is none
            observation, reward, terminated, _, _ = env.step(action)
            reward += 0.1 * step
            adapter.observe(observation, action, reward, terminated, step == STEPS - 1)
            seen.append(observation)
            actions.append(action)
            rewards.append(reward)
        logs.append({"observations": seen, "actions": actions, "rewards": rewards})
    return logs


def columns(rows):
    """Rows as data sets have them: arrays in the structure of the space."""
    if isinstance(rows[0], dict):
        return {name: columns([row[name] for row in rows]) for name in rows[0]}
    if isinstance(rows[0], tuple):
        return tuple(columns(list(part)) for part in zip(*rows, strict=True))
    return np.asarray(rows)


@pytest.mark.parametrize("case", CASES)
def test_actions_and_logs_are_those_of_the_space(case, tmp_path):
    observed, acted = CASES[case]
    env = odd(observed, acted)
    folder = run_in(env, tmp_path)
    adapter = metarl.load(folder)
    logs = played(adapter, env(), 3)
    adapter.adapt()  # without a warning: all actions are those that it sampled
    expected = adapter.state()
    with warnings.catch_warnings():
        if case in NUMBERS:  # which are clipped
            warnings.filterwarnings("ignore", ".*at the bounds")
        for form in (
            logs,
            [{n: columns(rows) for n, rows in log.items()} for log in logs],
            [{n: tuple(rows) for n, rows in log.items()} for log in logs],
        ):
            other = metarl.load(folder)
            report = other.adapt(form, behaviour="start")
            assert report.examples == 3 * STEPS
            for name, value in other.state().items():
                assert torch.isfinite(value).all()
                if case in ("choices from 2", "several choices", "switches"):
                    torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-3)


def test_environments_that_round_numbers_are_noticed(tmp_path):
    switches = spaces.Box(0, 1, (2,), F32)
    folder = run_in(odd(BOX, switches), tmp_path / "numbers")
    for acted in (spaces.MultiBinary(2), spaces.MultiDiscrete([2, 2])):
        with pytest.raises(SettingsError, match="the environment takes choices"):
            metarl.load(folder).run(odd(BOX, acted)(), 1, 0)
    whole = odd(BOX, spaces.Box(0, 1, (2,), np.int64))
    with pytest.warns(RuntimeWarning, match="takes whole numbers .* actions are rounded"):
        metarl.load(folder).run(whole(), 1, 0)
    chosen = run_in(odd(BOX, spaces.MultiBinary(2)), tmp_path / "choices")
    metarl.load(chosen).run(whole(), 1, 0)  # choices are whole numbers


def test_parts_that_are_missing_are_named(tmp_path):
    env = odd(*CASES["nested"])
    adapter = metarl.load(run_in(env, tmp_path))
    (log,) = played(adapter, env(), 1)
    wrong = {n: columns(rows) for n, rows in log.items()}
    for name, what in (("observations", "Expected observations of Dict"), ("actions", "Dict")):
        with pytest.raises(ShapeError, match=what):
            adapter.adapt({**wrong, name: {"other": np.zeros(STEPS)}}, behaviour="start")
    with pytest.raises(ShapeError, match=f"Expected {STEPS} actions"):
        adapter.adapt({**wrong, "actions": log["actions"][:-1]}, behaviour="start")


@pytest.mark.parametrize("case", CASES)
def test_descriptions_keep_where_choices_begin(case):
    space = flat_actions(CASES[case][1])
    found = decode_space(encode_space(space))
    assert found == space and getattr(found, "source", 0) == getattr(space, "source", 0)


def test_an_export_adds_the_first_choice(tmp_path):
    metadata = {
        "observation": {"low": [None], "high": [2.0]},
        "action": {"kind": "discrete", "choices": 4, "first": 2},
    }
    found = spaces_of(metadata)
    assert found.action.n == 4 and found.flat_action(5) == 3 and found.to_environment(0) == 2
    assert found.observation == spaces.Box(-np.inf, 2, (1,), F32)
    several = metarl.load(run_in(odd(*CASES["several choices"]), tmp_path / "several")).learner
    parts = control_notes(several)["action"]["parts"]
    assert [(part["size"], part["first"]) for part in parts] == [(3, 1), (2, 5)]
    learner = metarl.load(run_in(odd(*CASES["choices from 2"]), tmp_path / "one")).learner
    assert control_notes(learner)["action"] == {**metadata["action"], "parts": None}


@pytest.mark.filterwarnings("ignore:The actions have no finite bounds")
def test_actions_without_bounds_are_clipped_nowhere(tmp_path):
    adapter = metarl.load(run_in(odd(BOX, spaces.Box(0, np.inf, (1,), F32)), tmp_path))
    learner = adapter.learner
    with torch.no_grad():
        learner.policy.get_parameter("network.layers.1.bias").fill_(7.0)
    family, seen = learner.family, torch.zeros(1, 2)
    params = {n: p.detach()[None] for n, p in learner.policy.named_parameters()}
    mode = learner.policy.distribution(params, seen[None]).mode()[0]
    assert mode.item() > 6
    plain = plain_policy(learner.policy, params, family.observation_space, family.action_space)
    start, (act, *_) = control_graphs(learner, STEPS, torch.Generator().manual_seed(0))
    own = adapter.act(np.zeros(2, F32), explore=False)
    greedy, *_ = act.function(*start.theta.values(), seen, torch.zeros(1, 1))
    for found in (plain(seen)[0], greedy, torch.from_numpy(own)[None]):
        torch.testing.assert_close(found, mode)
    notes = control_notes(learner)["action"]
    assert notes["low"] == [0] and notes["high"] == [None]


def test_choices_and_images_that_training_never_had_are_of_no_other_unit(tmp_path):
    image = spaces.Box(0, 255, (8, 8), np.uint8)
    parts = {"camera": image, "gear": spaces.Discrete(3), "speed": spaces.Box(-9, 9, (1,), F32)}
    adapter = metarl.load(run_in(odd(spaces.Dict(parts), BOX), tmp_path))
    seen = {"camera": np.full((8, 8), 7, np.uint8), "gear": 0, "speed": np.zeros(1, F32)}
    numbers = {n: [0.0] * 68 for n in ("low", "high", "mean", "deviation")}
    adapter.origin.ranges["observations"] = {"count": [9.0], **numbers}  # all were 0
    adapter.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapter.act({**seen, "gear": 2})
        adapter.observe({**seen, "gear": 2}, None, 1.0, False, False)
        log = {"observations": [seen, seen], "actions": np.zeros((1, 2)), "rewards": [1.0]}
        adapter._read([log])
    with pytest.warns(RuntimeWarning, match="not fit those of training: entry 67: 3 to 3"):
        adapter._read([{**log, "observations": [{**seen, "speed": np.full(1, 3, F32)}] * 2}])
