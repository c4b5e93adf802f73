from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from metarl_envs.navigation import Navigation2D, Navigation2DSparse
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metarl.adaptation import algorithms as learners
from metarl.errors import SettingsError
from metarl.lab import Experiment
from metarl.lab.control import ControlSettings, build_control
from metarl.lab.control_configs import control_configs
from metarl.rl.settings import PolicyGradientSettings, PolicySettings
from metarl.runs.eval_file import read_curves
from metarl.sb3.ppo import PPOAlgorithm, PPOLearner
from metarl.sim import ControlTasks, GymTasks, Uniform
from metarl.training import TrainingSettings
from tests.sim.families import Drift

GOALS = ControlTasks({"goal": torch.tensor([[0.4, 0.3], [-0.3, 0.4]])})
QUICK = PPOAlgorithm(learning_rate=5e-3, epochs=4, batch_size=50)


def learner(family, settings=QUICK, trajectories=10, **more):
    return PPOLearner(settings, family, PolicyGradientSettings(trajectories), (16,), **more)


def rows(ppo, tasks, steps, seed=0):
    return torch.stack(list(ppo.returns(tasks, steps, torch.Generator().manual_seed(seed))))


def test_each_task_is_learned_and_a_seed_fixes_how():
    ppo = learner(Navigation2D(horizon=15), init_std=0.6)
    curves = rows(ppo, GOALS, 9)
    assert curves.shape == (10, 2) and curves.dtype == torch.float32
    # Both start as badly: nothing is carried from one task to the next.
    assert (curves[-2:].mean(0) > curves[:2].mean(0) + 3).all()
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert torch.equal(rows(ppo, GOALS, 2), curves[:3])
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()
    assert not torch.equal(rows(ppo, GOALS, 1, seed=1), curves[:2])


def test_returns_are_those_of_whole_episodes_even_if_they_end_early():
    """Standing still pays nothing; Drift pays where it goes, and ends outside [-1, 1]."""
    tasks = ControlTasks({"speed": torch.full((1,), 0.2)})
    ppo = learner(Drift(), replace(QUICK, learning_rate=1e-9), trajectories=400, init_std=1e-3)
    curve = rows(ppo, tasks, 2)
    # A step moves by .2 + .1 (u + v): an episode starts in U(-.5, .5) and ends above 1, on average
    # after some four of its six steps. Its return is how far it went.
    assert ((curve > 0.9) & (curve < 1.4)).all()
    assert (curve - curve.mean()).abs().max() < 0.1


class Walk(gymnasium.Env):
    """Ends after `length` steps, each of which pays 1; a success in the second step."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    length = 3.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets = getattr(self, "resets", 0) + 1
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        info = {"success": self.t == 2, "time": self.t}
        return np.zeros(1, np.float32), 1.0, self.t >= self.length, False, info


@pytest.mark.parametrize("worlds", [None, 1])
def test_metrics_are_those_of_whole_episodes_also_where_an_environment_exists_once(worlds):
    robot = Walk()
    family = GymTasks(
        Walk if worlds is None else lambda: robot, {"length": Uniform(2, 5)}, horizon=8,
        metrics={"success": "any", "time": "last"}, worlds=worlds, name="Walk-v1",
    )  # fmt: skip
    tasks = ControlTasks({"length": torch.tensor([1.0, 4.0])})
    ppo = learner(family, replace(QUICK, batch_size=8), trajectories=3)
    measured = list(ppo.measures(tasks, 1, torch.Generator().manual_seed(0)))
    assert len(measured) == 2
    for row in measured:
        assert row["return"].tolist() == row["time"].tolist() == [1, 4]
        assert row["success"].tolist() == [0, 1]
    if worlds == 1:  # a step has 24 steps of the environment, episodes 1 and 4
        assert robot.resets >= 2 * (24 + 6)


def test_the_oracle_sees_the_task():
    ppo = learner(Navigation2DSparse(horizon=3), observe_task=True)
    assert rows(ppo, ControlTasks({"goal": torch.eye(2)}), 0).shape == (1, 2)


def test_batches_divide_the_samples_of_a_step():
    # 7 x 3 samples: SB3 warns where the last batch is a smaller one, and warnings are errors here.
    assert rows(learner(Drift(horizon=3), trajectories=7), drift(1), 1).isfinite().all()
    with pytest.raises(SettingsError, match="trajectories"):
        learner(Drift(horizon=1), trajectories=1)


def drift(count):
    return Drift().sample(count, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("change", [{"epochs": 0}, {"batch_size": 1}, {"clip": 0.0}])
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(SettingsError, match="Expected at least 1 epoch"):
        PPOAlgorithm(**change)


@pytest.mark.parametrize(
    "change, unused",
    [
        (
            {"gradients": PolicyGradientSettings(4, clip=0.1, gae_lambda=0.9)},
            r"gae_lambda=0\.9, clip",
        ),
        ({"policy": PolicySettings(activation="tanh", cnn=(8,))}, r"activation='tanh', cnn=\(8,\)"),
    ],
)
def test_settings_that_stable_baselines3_replaces_are_named(change, unused):
    with pytest.warns(UserWarning, match=f"does not use {unused}.* of `{next(iter(change))}`"):
        build(replace(CONFIGS["ppo"], **change))


def test_a_network_of_the_user_is_refused():
    with pytest.raises(SettingsError, match=r"leave out --policy\.network, got net\.safetensors"):
        build(replace(CONFIGS["ppo"], policy=PolicySettings(network="net.safetensors")))


def test_its_configuration_has_no_settings_that_it_does_not_use():
    tanh = replace(MAML, policy=PolicySettings(activation="tanh", scale_actions=True))
    ppo = control_configs(replace(tanh, gradients=PolicyGradientSettings(4, 0.9, 0.8)))["ppo"]
    assert ppo.gradients == PolicyGradientSettings(4, 0.9)
    assert ppo.policy == PolicySettings(scale_actions=True)
    build(ppo)  # warnings are errors


MAML = ControlSettings(
    "maml", learners.MAMLAlgorithm(0.1), PolicyGradientSettings(4),
    training=TrainingSettings(iterations=3, meta_batch_size=4, eval_every=0),
    hidden=(4,), test_tasks=2,
)  # fmt: skip
CONFIGS = control_configs(MAML)


def build(settings):
    return build_control(settings, Navigation2D(horizon=5))


def test_the_configuration_uses_the_environment_steps_of_meta_training(tmp_path, monkeypatch):
    ppo = replace(CONFIGS["ppo"], runs=tmp_path)
    assert ppo.training.iterations == 0
    used = ppo.test_tasks * ppo.test_steps * 4 * 5
    assert used == MAML.training.iterations * 4 * 2 * 4 * 5
    assert ppo.test_steps == CONFIGS["scratch"].test_steps == 12

    ppo = replace(ppo, test_steps=2)
    experiment = Experiment("small", {"ppo": ppo}, build)
    parts = build(ppo)
    loop = experiment.open(ppo, parts)
    loop.run()
    table = parts.report(loop)
    assert table.row_count == 3
    (line,) = read_curves(loop.folder)
    assert len(line["mean"]) == 3 and line["environment_steps"] == 0
    found = EventAccumulator(str(loop.folder), size_guidance={"scalars": 0}).Reload()
    curve = found.Scalars("adaptation/return")
    assert [e.step for e in curve] == [0, 20, 40]
    assert [e.value for e in curve] == pytest.approx(line["mean"])


def test_meta_training_is_refused():
    ppo = CONFIGS["ppo"]
    with pytest.raises(SettingsError, match="iterations 0"):
        build(replace(ppo, training=replace(ppo.training, iterations=1)))
    with pytest.raises(SettingsError, match="from scratch"):
        learner(Drift()).collect(drift(1), torch.Generator(), 0)
