"""Logs of other policies: the exported inner step weighs them as the learner does in torch."""

import numpy as np
import pytest
import torch
from metarl_envs.bandit import Bandit

import metarl
from metarl.deploy.adapters.control_adapter import ControlAdapter
from metarl.deploy.exported.exported_adapter import ExportedAdapter
from metarl.deploy.exported.runtime import OnnxAdaptation
from metarl.deploy.importance import importance_weights
from metarl.deploy.loading import adapter_of
from metarl.errors import NonFiniteError, SettingsError, ShapeError
from metarl.sim.single_env import SingleEnv
from tests.deploy.conftest import HORIZON, exported_policy


@pytest.fixture(scope="module")
def bandit(tmp_path_factory):
    return exported_policy(Bandit(), tmp_path_factory.mktemp("bandit") / "out", bootstrap=True)


def log_of(learner, share=0.02, episodes=6):
    """A log of the policy with other weights, with the densities of its actions."""
    actor = adapter_of(learner, seed=1)
    generator = torch.Generator().manual_seed(4)
    state = {
        n: t + share * torch.randn(t.shape, generator=generator) for n, t in actor.state().items()
    }
    actor.load_state(state)
    env, found, units = SingleEnv(learner.family), [], learner.policy.units
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        seen, actions, rewards, log_probs, ended = [observation], [], [], [], False
        while not ended:
            action = actor.act(observation)
            own = torch.as_tensor(actor.own_action(action))[None, None]
            row = torch.as_tensor(observation)[None, None]
            row = row if units is None else units.observe(row)
            density = learner.policy.distribution(actor.params, row).log_prob(own).item()
            if units is not None and units.actions is not None:
                density -= float(units.actions.scale.log().sum())
            observation, reward, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated
            for values, one in zip(
                (seen, actions, rewards, log_probs), (observation, action, reward, density),
                strict=True,
            ):  # fmt: skip
                values.append(one)
        found.append(
            {
                "observations": np.stack(seen), "actions": np.stack(actions),
                "rewards": np.array(rewards), "log_probs": np.array(log_probs),
                "terminated": np.arange(len(rewards)) == len(rewards) - 1 if terminated else None,
                "truncated": np.arange(len(rewards)) == len(rewards) - 1 if truncated else None,
            }
        )  # fmt: skip
    return found


def cut_short(episodes):
    """The last two episodes without their ends, and without the observation after them."""
    parts = []
    for one in episodes[-2:]:
        count = max(1, len(one["rewards"]) - 2)
        rows = {n: v[:count] for n, v in one.items() if v is not None}
        parts.append({**rows, "truncated": np.zeros(count, bool)})
    return [*episodes[:-2], *parts]


@pytest.mark.filterwarnings("ignore:.*at the bounds")
@pytest.mark.parametrize("case", ["robot", pytest.param("bandit", marks=pytest.mark.slow)])
@pytest.mark.parametrize("correction", ["episode", "step"])
def test_a_log_of_another_policy_adapts_as_in_torch(case, correction, request):
    run = request.getfixturevalue(case)
    own, exported = adapter_of(run.learner), metarl.load(run.folder)
    log = log_of(run.learner)
    options = {"correction": correction, "least_effective": 0.01}
    for data, steps in ((log, 1), (cut_short(log), 3), (log[:2], 6)):
        a = own.adapt(data, steps=steps, **options)
        b = exported.adapt(data, steps=steps, **options)
        assert (a.steps, a.examples, a.episodes) == (b.steps, b.examples, b.episodes)
        assert a.effective == pytest.approx(b.effective, rel=1e-4)
        assert a.effective < 0.999 * a.examples
        for name, value in own.state().items():
            torch.testing.assert_close(exported.state()[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*at the bounds")
def test_who_acted_may_be_the_start_or_the_adapted_policy(robot):
    log = [{n: v for n, v in one.items() if n != "log_probs"} for one in log_of(robot.learner)]
    own, exported = adapter_of(robot.learner), metarl.load(robot.folder)
    for behaviour in ("start", "adapted", "start"):
        options = {"behaviour": behaviour, "least_effective": 0.0}
        a, b = own.adapt(log, **options), exported.adapt(log, **options)
        assert a.effective == pytest.approx(b.effective, rel=1e-4)
        for name, value in own.state().items():
            torch.testing.assert_close(exported.state()[name], value, rtol=1e-5, atol=1e-5)
    with pytest.raises(SettingsError, match="log-probabilities of the logged actions"):
        exported.adapt(log)


def test_a_log_that_is_worth_too_little_is_refused_and_changes_nothing(robot):
    far = [{**e, "log_probs": e["log_probs"] + 3 * i} for i, e in enumerate(log_of(robot.learner))]
    exported = metarl.load(robot.folder)
    before = exported.state()
    with pytest.warns(RuntimeWarning, match="bounds"), pytest.raises(SettingsError) as error:
        exported.adapt(far, least_effective=0.5)
    with pytest.warns(RuntimeWarning, match="bounds"), pytest.raises(SettingsError) as same:
        adapter_of(robot.learner).adapt(far, least_effective=0.5)
    assert str(error.value) == str(same.value) and "too different" in str(error.value)
    assert all(torch.equal(before[n], t) for n, t in exported.state().items())
    assert exported.program.steps == 0


def test_part_episodes_and_further_steps_are_those_of_the_run(robot):
    """What an export observed itself, a part of an episode and most likely actions included."""
    own, exported = adapter_of(robot.learner, seed=2), metarl.load(robot.folder, seed=2)
    assert isinstance(own, ControlAdapter) and isinstance(exported, ExportedAdapter)
    env = SingleEnv(robot.learner.family)
    for episode in range(3):
        observation, _ = env.reset(seed=episode)
        for step in range(4 if episode == 2 else HORIZON):
            explore = step != 1
            own.act(observation, explore=explore)
            action = exported.act(observation, explore=explore)
            after, reward, terminated, truncated, _ = env.step(action)
            exported.observe(after, action, reward, terminated, truncated)
            # The other one is given the same action, as its own.
            acted = own._recorder.acted
            own._recorder.acted = acted._replace(own=own.own_action(action), given=action)
            own.observe(after, None, reward, terminated, truncated)
            observation = after
            if terminated or truncated:
                break
    for steps in (2, 1):
        if steps == 1:
            with pytest.raises(SettingsError, match="sampled actions"):
                exported.adapt()
            break
        assert own.adapt(steps=steps).examples == exported.adapt(steps=steps).examples
        for name, value in own.state().items():
            torch.testing.assert_close(exported.state()[name], value, rtol=1e-5, atol=1e-5)


def test_unsuitable_logs_are_refused(robot):
    found = OnnxAdaptation(robot.folder)
    shape = (2, 3)
    batch = {
        "observations": np.zeros((2, 4, 2), np.float32),
        "actions": np.full((*shape, 2), 3.0, np.float32),
        "rewards": np.ones(shape, np.float32),
        "lengths": np.array([3, 2]),
        "terminated": np.zeros(2, bool),
    }
    cases = [
        ({"log_probs": np.zeros((2, 2))}, "Expected 3 log_probs of the longest"),
        ({"observations": np.zeros((2, 3, 2))}, "Expected 4 observations"),
        ({"log_probs": np.zeros((3, 3))}, "log_probs of shape"),
        ({"log_probs": np.full((2, HORIZON), np.nan)}, "finite log_probs"),
        ({"counts": np.zeros(shape, bool)}, "steps that count"),
        ({"lengths": np.array([3, 9])}, "Expected lengths"),
        ({"cut": np.zeros(3, bool)}, "as many episodes"),
        ({"other": np.zeros(3)}, "no input other"),
    ]
    for change, message in cases:
        with pytest.raises(ShapeError, match=message):
            found.adapt_on_log(**{**batch, **change})
    with pytest.raises(SettingsError, match="steps"):
        found.adapt_on_log(**batch, steps=0)
    batch["rewards"][0, 1] = np.nan
    with pytest.raises(NonFiniteError):
        found.adapt_on_log(**batch, steps=2)
    assert found.steps == 0
    with pytest.raises(NonFiniteError, match="finite observation"):
        found.act(np.full(2, np.nan))


def test_weights_are_relative_and_count_existing_steps():
    mask = np.array([[True, True], [True, False], [False, False]])
    ratios = np.log(np.array([[0.5, 1.0], [1.0, 9.0], [9.0, 9.0]]))
    weights, effective = importance_weights(ratios, mask)
    np.testing.assert_allclose(weights, [[0.5], [1], [0]])
    # (0.5 + 1)^2 / (0.25 + 1) of 2 episodes is less than (0.5 + 1 + 1)^2 / 2.25 of 3 steps.
    assert effective == pytest.approx(3 * 1.5**2 / 1.25 / 2)
    weights, effective = importance_weights(ratios, mask, "step")
    np.testing.assert_allclose(weights, [[0.5, 1], [1, 0], [0, 0]])
    assert effective == pytest.approx(2.5**2 / 2.25)
