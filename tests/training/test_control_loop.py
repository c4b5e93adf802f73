"""The outer loop on control tasks: failing, and learning with its controls."""

from dataclasses import replace

import pytest
import torch
from metarl_envs.navigation import Navigation2D

from metarl.adaptation import MAML
from metarl.errors import SettingsError, SimulationError
from metarl.rl import PolicyGradientSettings, PolicyLearner, policy_for
from metarl.rl import policy_learner as module
from metarl.rl.experience import estimate_advantages
from metarl.runs.checkpoints import load_checkpoint
from metarl.sim import make_family
from metarl.training import OuterLoop, TrainingSettings
from metarl.training.trust_region import TrustRegionSettings

FAMILY = Navigation2D(horizon=6)
TRPO = TrustRegionSettings(fisher_trajectories=2)


class Spoiled(Navigation2D):
    """Gives rewards that are not numbers from some step on."""

    calls = 0

    def reward(self, before, actions, after, tasks):
        Spoiled.calls += 1
        reward = super().reward(before, actions, after, tasks)
        return reward / 0 * 0 if Spoiled.calls > 5 * 2 * self.horizon else reward


def loop(folder, iterations, *, family=FAMILY, resume=None, every=3):
    generator = torch.Generator().manual_seed(0)
    policy = policy_for(family, generator, hidden=(8,))
    learner = PolicyLearner(MAML(policy, 0.3), family, PolicyGradientSettings(trajectories=4))
    settings = TrainingSettings(
        iterations=iterations, meta_batch_size=3, task_chunk_size=2, log_every=2, eval_every=4,
        eval_tasks=3, eval_steps=2, checkpoint_every=every,
    )  # fmt: skip
    return OuterLoop(
        learner, family, settings, folder, validation=family.split("validation"),
        update=TRPO.build(learner, settings), resume=resume,
    )  # fmt: skip


@pytest.mark.parametrize("place", ["training", "validation"])
def test_tasks_of_worlds_that_the_learner_does_not_play_in_are_refused(place, tmp_path):
    run = loop(tmp_path / "run", 1)
    sources = {"training": FAMILY, "validation": None, place: replace(FAMILY, horizon=20)}
    with pytest.raises(SettingsError, match=f"{place} tasks .* whose horizon is 6; .* is 20"):
        OuterLoop(
            run.learner, sources["training"], run.settings, tmp_path / "other",
            validation=sources["validation"], update=run.update,
        )  # fmt: skip


def test_rewards_that_are_not_numbers_stop_the_run_and_lose_nothing(tmp_path):
    Spoiled.calls = 0
    run = loop(tmp_path, 50, family=Spoiled(horizon=6), every=100)
    with pytest.raises(
        SimulationError, match=r"World 0 .*step.*goal.*meta-iteration (\d+)\..*step_0*\1,"
    ):
        run.run()
    good = load_checkpoint(run.checkpoints.latest())
    assert good.iteration == run.iteration
    assert all(torch.isfinite(p).all() for p in good.weights.values())
    Spoiled.calls = -(10**9)
    assert loop(tmp_path, good.iteration + 2, family=Spoiled(horizon=6), resume=good.path).run()


def gain(monkeypatch, shuffled):
    """Mean gain in return of one adaptation step on bandits, and its standard error."""
    family = make_family("Bandit-v1", horizon=50)
    generator = torch.Generator().manual_seed(0)

    def with_rewards_of_other_steps(rollouts, settings):
        order = torch.randperm(rollouts.rewards.shape[2], generator=generator)
        return estimate_advantages(
            rollouts._replace(rewards=rollouts.rewards[:, :, order]), settings
        )

    if shuffled:
        monkeypatch.setattr(module, "estimate_advantages", with_rewards_of_other_steps)
    policy = policy_for(family, generator, hidden=())
    settings = PolicyGradientSettings(trajectories=2, gae_lambda=0.0)
    learner = PolicyLearner(MAML(policy, 5.0), family, settings)
    before, after = learner.returns(family.sample(300, generator), 1, generator)
    return (after - before).mean(), (after - before).std() / 300**0.5


def test_adaptation_gains_from_rewards_and_from_nothing_else(monkeypatch):
    learned, error = gain(monkeypatch, shuffled=False)
    assert learned > 10 * error
    chance, error = gain(monkeypatch, shuffled=True)
    assert abs(chance) < 3 * error


def test_maml_learns_to_navigate(tmp_path):
    """A learning gate for seconds: far from the published level, and beyond standing still."""
    family = Navigation2D(horizon=20)
    generator = torch.Generator().manual_seed(0)
    policy = policy_for(family, generator, hidden=(32,), init_std=0.5)
    gradients = PolicyGradientSettings(trajectories=10, gae_lambda=0.95)
    learner = PolicyLearner(MAML(policy, 0.2), family, gradients)
    settings = TrainingSettings(iterations=12, meta_batch_size=10, eval_every=0)
    update = replace(TRPO, max_kl=0.05).build(learner, settings)
    tasks, still = family.split("test").sample(40, generator), -20 * 0.38

    def returns():
        return [
            r.mean().item() for r in learner.returns(tasks, 1, torch.Generator().manual_seed(1))
        ]

    _, untrained = returns()
    OuterLoop(learner, family, settings, tmp_path, update=update).run()
    _, trained = returns()
    assert trained > untrained + 1
    assert trained > 0.85 * still
