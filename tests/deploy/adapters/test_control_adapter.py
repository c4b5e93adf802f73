"""One robot: act, observe, adapt; the same as the learner does in its own worlds."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from metarl_envs.navigation import Navigation2D

import metarl
from metarl.adaptation import MAMLPlusPlus, Reptile
from metarl.deploy.experience.episode_log import EpisodeLog, experience_of
from metarl.deploy.loading import adapter_of
from metarl.deploy.robot.safety import RollBack
from metarl.errors import CheckpointError, SettingsError
from metarl.rl.experience import estimate_advantages
from metarl.sim import GymTasks, Uniform
from metarl.sim.family import ControlTasks
from metarl.sim.single_env import SingleEnv
from tests.deploy.conftest import make_policy_learner, train

GOAL = {"goal": [0.3, -0.2]}


def point(horizon=6):
    return SingleEnv(Navigation2D(horizon=horizon), task=GOAL)


def play(adapter, env, episodes, seed=0, **options):
    """Plays episodes by act and observe, as a robot's loop does."""
    observation, _ = env.reset(seed=seed)
    while episodes:
        action = adapter.act(observation, **options)
        observation, reward, terminated, truncated, _ = env.step(action)
        adapter.observe(observation, action, reward, terminated, truncated)
        if terminated or truncated:
            observation, _ = env.reset()
            episodes -= 1


def logs_of_adapter(adapter, episodes=3):
    """Episodes of an adapter in the form of logs."""
    play(adapter, point(), episodes)
    return [
        {
            "observations": np.stack([*log.observations, log.final]),
            "actions": np.stack(log.actions),
            "rewards": log.rewards,
        }
        for log in adapter.discard()
    ]


def logs_of(rollouts):
    """Rollouts of one task, without units, as the log of a robot."""
    logs = []
    for n in range(rollouts.mask.shape[1]):
        count = int(rollouts.mask[0, n].sum())
        rows = rollouts.observations[0, n, :count].numpy()
        log = EpisodeLog(
            list(rows), list(rollouts.actions[0, n, :count].numpy()),
            rollouts.rewards[0, n, :count].tolist(), [True] * count, [0] * count,
            rollouts.final_observations[0, n].numpy(),
            bool(rollouts.terminated[0, n].any()), True,
        )  # fmt: skip
        logs.append(log)
    return logs


def test_a_log_gives_the_experience_of_the_learner(generator):
    learner = make_policy_learner(Navigation2D(horizon=100), trajectories=8, init_std=0.2)
    tasks = ControlTasks({"goal": torch.tensor([[0.03, 0.03]])})
    *_, rollouts = learner.rollouts(tasks, 0, generator)
    assert rollouts.mask.min() == 0  # some episodes end early
    expected = estimate_advantages(rollouts, learner.settings)
    params = {0: {n: p.detach().unsqueeze(0) for n, p in learner.policy.named_parameters()}}
    found = experience_of(logs_of(rollouts), learner.policy, params, learner.settings)
    longest = found.weights.shape[2]
    for name in ("advantages", "weights"):
        whole = getattr(expected, name)[..., :longest]
        torch.testing.assert_close(getattr(found, name), whole, atol=1e-4, rtol=1e-4)
    real = rollouts.mask[..., :longest]
    torch.testing.assert_close(found.log_probs * real, expected.log_probs[..., :longest] * real)


def test_an_adaptation_is_the_step_of_the_learner(point_run):
    learner, folder = point_run
    adapter = metarl.load(folder)
    play(adapter, point(), 3)
    logs = adapter._recorder.take()
    adapter._recorder.give_back(logs)
    params = {0: dict(adapter.params)}
    experience = experience_of(logs, learner.policy, params, learner.settings)
    *_, step = learner.adapt_on(experience)
    report = adapter.adapt()
    assert (report.steps, report.episodes, report.examples) == (1, 3, 18)
    for name, value in adapter.state().items():
        torch.testing.assert_close(value, step.params[name][0])
        start = learner.policy.get_parameter(name)
        assert not torch.equal(value, start) or name.endswith("bias")
    assert adapter.version == 1 and adapter.environment_steps == 18


def test_actions_are_those_of_the_policy(point_run):
    learner, folder = point_run
    adapter = metarl.load(folder, explore=False)
    observation = np.array([0.3, -0.1], np.float32)
    params = {n: p.unsqueeze(0) for n, p in learner.policy.named_parameters()}
    mean = learner.policy.distribution(params, torch.from_numpy(observation).view(1, 1, 2)).mean
    np.testing.assert_allclose(adapter.act(observation), mean[0, 0].detach(), rtol=1e-5)
    np.testing.assert_allclose(adapter.act([0.3, -0.1]), mean[0, 0].detach(), rtol=1e-5)
    sampled = np.stack([adapter.act(observation, explore=True) for _ in range(2000)])
    assert (np.abs(sampled) <= 1).all()  # the bounds of the action space
    assert sampled.std(0).min() > 0.4


def test_it_runs_in_an_environment_and_adapts(point_run):
    curve = metarl.load(point_run[1]).run(point(), 7, 3, seed=0)
    assert curve.adapted_after == [3, 6] and curve.versions == [0, 0, 1, 1, 1, 2, 2]
    assert curve.environment_steps == 42 and len(curve.returns) == 7
    assert all(report.loss_before is not None for report in curve.reports)


def test_a_run_of_too_few_episodes_to_adapt_says_so(point_run):
    adapter = metarl.load(point_run[1])
    with pytest.warns(RuntimeWarning, match="after 2 episodes, an adaptation step had 3"):
        curve = adapter.run(point(), 2)
    assert curve.adapted_after == [] and adapter.adapt().episodes == 2
    adapter.run(point(), 2, 0)  # without a warning, nothing was to be adapted


def test_parts_of_episodes_are_adapted_on(point_run):
    adapter = metarl.load(point_run[1])
    env = point(40)
    observation, _ = env.reset(seed=0)
    for step in range(30):
        action = adapter.act(observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        adapter.observe(observation, action, reward, terminated, truncated)
        if step % 10 == 9:
            assert adapter.adapt().examples == 10
    assert adapter.version == 3 and adapter.environment_steps == 30


def test_the_return_of_a_part_goes_on_with_its_value(generator):
    learner = make_policy_learner(Navigation2D(horizon=6))
    tasks = ControlTasks({"goal": torch.tensor([[0.4, 0.4]])})
    *_, rollouts = learner.rollouts(tasks, 0, generator)
    whole = estimate_advantages(rollouts, learner.settings)
    cut = torch.tensor([[True, False, False]])
    part = estimate_advantages(rollouts, learner.settings, cut)
    assert not torch.equal(whole.advantages[0, 0], part.advantages[0, 0])


def test_actions_of_others_are_no_choice_of_the_policy(point_run):
    adapter = metarl.load(point_run[1])
    env = point()
    observation, _ = env.reset(seed=0)
    for step in range(6):
        action = adapter.act(observation)
        action = np.array([0.5, 0.5], np.float32) if step % 2 else action
        observation, reward, terminated, truncated, _ = env.step(action)
        adapter.observe(observation, action, reward, terminated, truncated)
    (log,) = adapter._recorder.take()
    assert log.sampled == [True, False] * 3
    adapter._recorder.give_back([log])
    assert np.isfinite(adapter.adapt().loss_before)


def test_most_likely_actions_teach_nothing(point_run):
    adapter = metarl.load(point_run[1], explore=False)
    with pytest.raises(SettingsError, match="act and observe"):
        adapter.adapt()
    play(adapter, point(), 1)
    with pytest.raises(SettingsError, match="explore=True"):
        adapter.adapt()
    play(adapter, point(), 1, explore=True)
    assert adapter.adapt().episodes == 2  # what was refused is still there


def test_few_sampled_actions_warn(point_run):
    adapter = metarl.load(point_run[1])
    for t in range(6):
        given = adapter.act(np.zeros(2))
        adapter.observe(np.zeros(2), given if t < 2 else given.round(2), t, False, t == 5)
    with pytest.warns(RuntimeWarning, match="Of 6 observed steps, 2 are adapted on"):
        adapter.adapt()
    for t in range(6):
        given = adapter.act(np.zeros(2))
        adapter.observe(np.zeros(2), given.round(2), 0.0, False, t == 5)
    with pytest.raises(SettingsError, match="give `observe` the action as `act` returned it"):
        adapter.adapt()


def test_it_saves_and_restores_what_it_adapted(point_run, sine_run, tmp_path):
    adapter = metarl.load(point_run[1])
    adapter.run(point(), 3, 3, seed=0)
    adapter.save(tmp_path / "adapted.safetensors")
    other = metarl.load(point_run[1], adapted=tmp_path / "adapted.safetensors", explore=False)
    observation = np.zeros(2)
    np.testing.assert_array_equal(other.act(observation), adapter.act(observation, explore=False))
    adapter.reset()
    assert adapter.version == 0 and adapter.environment_steps == 0
    assert not np.array_equal(other.act(observation), adapter.act(observation, explore=False))
    with pytest.raises(CheckpointError, match="of this learner"):
        metarl.load(sine_run[1], adapted=tmp_path / "adapted.safetensors")
    (tmp_path / "adapted.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="Cannot read"):
        adapter.restore(tmp_path / "adapted.safetensors")


def test_what_the_background_has_computed_is_saved(point_run, tmp_path):
    adapter, other = (metarl.load(point_run[1]) for _ in range(2))
    for one in (adapter, other):
        play(one, point(), 3)
    other.adapt()
    adapter.adapt(background=True).result()
    adapter.save(tmp_path / "adapted.safetensors")  # before it has acted
    saved = metarl.load(point_run[1], adapted=tmp_path / "adapted.safetensors").state()
    for name, value in other.state().items():
        torch.testing.assert_close(saved[name], value, rtol=0, atol=0)


def test_restored_weights_count_their_steps(point_run, tmp_path):
    adapter = metarl.load(point_run[1])
    play(adapter, point(), 3)
    adapter.adapt()
    adapter.save(tmp_path / "adapted.safetensors")
    other = metarl.load(point_run[1], adapted=tmp_path / "adapted.safetensors")
    log = logs_of_adapter(adapter)
    for one in (adapter, other):  # a further step is half of one in both
        one.adapt(log, behaviour="adapted")
    for name, value in adapter.state().items():
        torch.testing.assert_close(other.state()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    "algorithm",
    [MAMLPlusPlus, lambda policy, inner_lr: Reptile(policy, inner_lr=inner_lr, batch_size=None)],
)
def test_restored_weights_have_the_state_of_their_rule(algorithm, tmp_path):
    family = Navigation2D(horizon=6)
    learner = make_policy_learner(family, algorithm)
    _, run = train(learner, family, tmp_path / "run")
    adapter = metarl.load(run)
    play(adapter, point(), 3)
    adapter.adapt()
    adapter.save(tmp_path / "adapted.safetensors")
    other = metarl.load(run, adapted=tmp_path / "adapted.safetensors")
    assert (
        adapter.state().keys()
        == other.state().keys()
        == dict(learner.policy.named_parameters()).keys()
    )
    log = logs_of_adapter(adapter)
    for one in (adapter, other):
        one.adapt(log, behaviour="adapted")
    for name, value in adapter.state().items():
        torch.testing.assert_close(other.state()[name], value, rtol=0, atol=0)
    with pytest.raises(CheckpointError, match="the state of the update rule"):
        adapter.load_rule_state({"another": torch.zeros(())})


def test_a_state_of_a_rule_that_is_not_saved_warns(point_run, tmp_path):
    adapter = metarl.load(point_run[1])
    adapter._weights._state = {"trust": 0.5}  # of a rule of the user's own
    with pytest.warns(RuntimeWarning, match="state of the update rule is not saved"):
        adapter.save(tmp_path / "adapted.safetensors")
    assert metarl.load(point_run[1], adapted=tmp_path / "adapted.safetensors").version == 1


def test_weights_of_other_units_are_refused(tmp_path):
    family = GymTasks("Pendulum-v1", {"g": Uniform(5, 15)}, horizon=4)
    runs = []
    for seed in range(2):
        learner = make_policy_learner(family)
        learner.collect(family.sample(1, torch.Generator()), torch.Generator().manual_seed(seed), 0)
        runs.append(adapter_of(learner))
    first, second = runs
    first.save(tmp_path / "adapted.safetensors")
    first.restore(tmp_path / "adapted.safetensors")
    before = second.state()
    with pytest.raises(CheckpointError, match="by other numbers: open that one with them"):
        second.restore(tmp_path / "adapted.safetensors")
    assert second.version == 0 and second.state().keys() == before.keys()


@pytest.mark.parametrize("run", ["memory_run", "belief_run"])
def test_a_recurrent_policy_adapts_by_acting(run, request):
    _, folder = request.getfixturevalue(run)
    adapter = metarl.load(folder, explore=False)
    observation = np.array([0.1, 0.2], np.float32)
    first = adapter.act(observation)
    play(adapter, point(), 2)
    assert adapter.adapt().steps == 0
    later = adapter.act(observation)
    assert not np.array_equal(first, later)
    adapter.reset()
    np.testing.assert_array_equal(adapter.act(observation), first)
    with pytest.raises(SettingsError, match="by its memory"):
        adapter.state()


def test_a_policy_with_a_memory_keeps_no_steps_and_misses_those_that_nobody_observed(memory_run):
    adapter = metarl.load(memory_run[1])
    play(adapter, point(), 2)
    assert adapter.discard() == [] and adapter.environment_steps > 0
    adapter.act(np.zeros(2))
    adapter.observe(np.ones(2), None, 1.0, False, False)
    adapter.act(np.ones(2))
    adapter.act(np.ones(2))  # the same observation is no other step
    with pytest.warns(RuntimeWarning, match="without `observe`: the memory"):
        adapter.act(np.zeros(2))


@pytest.mark.parametrize("run", ["memory_run", "belief_run"])
def test_a_recurrent_policy_acts_as_in_its_trials(run, request, generator):
    learner, folder = request.getfixturevalue(run)
    tasks = ControlTasks({"goal": torch.tensor([GOAL["goal"]])})
    trials = learner.play(tasks, 2, generator)
    adapter = metarl.load(folder, explore=False)
    states = learner.policy.unroll(trials.record.inputs)
    modes = learner.policy.distribution(states).mode()[0, 0].detach().numpy()
    observations = trials.record.inputs[0, 0, :, :2].numpy()
    for t in range(12):
        mode = adapter.act(observations[t])
        np.testing.assert_allclose(mode, modes[t].clip(-1, 1), atol=1e-5)
        ended = t % 6 == 5
        action, reward = trials.actions[0, 0, t].numpy(), float(trials.rewards[0, 0, t])
        after = observations[min(t + 1, 11)]
        adapter.observe(after, action, reward, False, ended)
        if run == "belief_run":
            belief = trials.record.belief
            np.testing.assert_allclose(adapter.belief.mean, belief.mean[0, 0, t], atol=1e-5)
            std = belief.log_std[0, 0, t].exp()
            np.testing.assert_allclose(adapter.belief.std, std, atol=1e-5)


def test_the_belief_is_of_policies_that_infer_one_and_have_acted(memory_run, belief_run):
    observation = np.zeros(2, np.float32)
    for folder, acts in ((memory_run[1], True), (belief_run[1], False)):
        adapter = metarl.load(folder)
        if acts:
            adapter.act(observation)
        with pytest.raises(SettingsError, match=r"infers a latent .* call `act` first"):
            _ = adapter.belief
    adapter.act(observation)
    assert adapter.belief.mean.shape == adapter.belief.std.shape == (3,)
    assert (adapter.belief.std > 0).all()


@pytest.mark.parametrize("run", ["memory_run", "belief_run"])
def test_a_run_of_trials_opens_where_nothing_else_was_imported(run, request):
    folder = request.getfixturevalue(run)[1]
    code = f"import metarl; print(metarl.load({str(folder)!r}).learner.settings.episodes)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "2", done.stderr


def test_an_evaluation_leaves_no_data(point_run):
    adapter = metarl.load(point_run[1])
    assert adapter.evaluate(point(), 2, seed=np.int64(0)).shape == (2,)
    for seed in (-1, 0.5):
        with pytest.raises(SettingsError, match="`seed`"):
            adapter.evaluate(point(), 2, seed=seed)
    with pytest.raises(SettingsError, match="act and observe"):
        adapter.adapt()


def test_an_evaluation_keeps_what_was_observed_before(point_run):
    adapter, other = (metarl.load(point_run[1]) for _ in range(2))
    for one in (adapter, other):
        play(one, point(), 2)
        one.act(np.zeros(2))
        one.observe(np.zeros(2), None, 1.0, False, False)
    adapter.evaluate(point(), 3, seed=0)
    other.abandon()
    report = adapter.adapt()
    assert (report.episodes, report.examples) == (3, 13)
    other.adapt()
    for name, value in other.state().items():
        torch.testing.assert_close(adapter.state()[name], value, rtol=0, atol=0)


def test_an_evaluation_that_rolls_back_keeps_nothing_of_what_is_given_up(point_run):
    rollback = RollBack(lambda start, adapted: len(adapted) > 2, least=1)
    adapter = metarl.load(point_run[1], rollback=rollback)
    play(adapter, point(), 2)
    adapter.adapt()
    play(adapter, point(), 1)
    adapter.evaluate(point(), 3, seed=0)
    assert adapter.version == 0
    with pytest.raises(SettingsError, match="act and observe"):
        adapter.adapt()


@pytest.mark.parametrize("limit", [4, 9])
def test_episodes_have_the_time_limit_of_a_wrapper(limit, point_run):
    env = gymnasium.wrappers.TimeLimit(point(horizon=20), limit)
    assert env.spec is None, "the environment is not registered"
    assert metarl.load(point_run[1]).run(env, 2, 0).lengths == [limit] * 2


class Failing(gymnasium.Wrapper):
    """A robot that fails in some step, once."""

    def __init__(self, step, error):
        super().__init__(point())
        self.left, self.error = step, error

    def step(self, action):
        self.left -= 1
        if self.left == 0:
            raise self.error("stuck")
        return self.env.step(action)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_episode_that_fails_is_not_joined_to_the_next(error, point_run):
    adapter = metarl.load(point_run[1])
    env = Failing(9, error)
    with pytest.raises(error):
        adapter.run(env, 3, 0)
    adapter.run(env, 2, 0)
    logs = adapter._recorder.take()
    assert [(len(log), log.ended) for log in logs] == [(6, True), (2, False), (6, True), (6, True)]
    env = Failing(9, error)
    with pytest.raises(error):
        adapter.evaluate(env, 3)
    with pytest.raises(SettingsError, match="act and observe"):
        adapter.adapt()
    play(adapter, point(), 1)
    returns = adapter._recorder.returns[False]
    assert returns[-1] == pytest.approx(sum(adapter._recorder.take()[0].rewards))


def test_a_memory_knows_that_an_episode_was_abandoned(memory_run):
    found = []
    for abandoned, truncated in ((False, True), (True, False), (False, False)):
        adapter = metarl.load(memory_run[1], explore=False)
        action = adapter.act(np.ones(2))
        adapter.observe(np.ones(2), action, 1.0, False, truncated)
        if abandoned:
            adapter.abandon()
        found.append(adapter.act(np.ones(2)))
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


@pytest.mark.parametrize("run", ["memory_run", "belief_run"])
def test_a_memory_that_is_asked_again_takes_no_other_step(run, request):
    found = []
    for times in 1, 3:
        adapter = metarl.load(request.getfixturevalue(run)[1], explore=False)
        for observation in np.zeros(2), np.full(2, 0.01):
            for _ in range(times):
                action = adapter.act(observation)
            adapter.observe(observation + 0.01, action, 1.0, False, False)
        found.append(adapter.act(np.full(2, 0.02)))
    np.testing.assert_array_equal(*found)


def test_seeds_of_numpy_are_those_of_python(point_run):
    seen = np.zeros(2, np.float32)
    first, other = (metarl.load(point_run[1], seed=seed) for seed in (np.int64(3), 3))
    assert np.array_equal(first.act(seen), other.act(seen))
