"""Configurations of all algorithms on a family of control tasks, derived from that of MAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from metarl.adaptation import algorithms as gradient
from metarl.lab.control import ControlSettings
from metarl.lab.registered import shared_options, with_registered
from metarl.rl.settings import PolicyGradientSettings, PolicySettings
from metarl.rl.trials.recurrent_learner import RL2Algorithm
from metarl.rl.trials.strategies import StrategyAlgorithm
from metarl.rl.trials.varibad import VariBADAlgorithm
from metarl.sb3.ppo import PPOAlgorithm
from metarl.training.meta_step import GradientUpdateSettings
from metarl.training.proximal import ProximalSettings
from metarl.training.settings import TrainingSettings
from metarl.training.untrained import UntrainedSettings

C = TypeVar("C", bound=ControlSettings)
EMBEDDING = 64
"""Width of the layer before the memory of VariBAD: without it, the belief misses directions."""


def control_configs(
    maml: C,
    changes: Mapping[str, C] | None = None,
    *,
    adam_lr: float = 0.01,
    max_kl: float | None = None,
) -> dict[str, C]:
    """Derives the configurations of all algorithms from that of MAML-TRPO.

    All have its tasks and rollouts and use as many environment steps in training: the more
    adaptation steps, the fewer meta-iterations. "scratch" and "ppo" do not train: on their test
    tasks together they use as many steps as the others use in meta-training.

    Args:
        maml: MAML's configuration; its learner is a `MAMLAlgorithm`.
        changes: Configurations that replace these, or are added.
        adam_lr: Rate of the inner Adam of "reptile" and "scratch".
        max_kl: See `ProximalSettings`.
    """
    learner, training = maml.learner, maml.training
    assert isinstance(learner, gradient.MAMLAlgorithm)
    lr, steps, untrained = learner.inner_lr, learner.steps, replace(training, iterations=0)
    batches = training.iterations * (steps + 1)

    def adapting(steps: int, **changes: Any) -> TrainingSettings:
        return replace(training, iterations=max(batches // (steps + 1), 1), **changes)

    clipped = {
        "gradients": replace(maml.gradients, clip=0.3, inner_kl=5e-4),
        "update": ProximalSettings(max_kl=max_kl),
        "training": adapting(steps, outer_lr=3e-3),
    }
    alone = {
        "training": untrained,
        "test_steps": max(batches * training.meta_batch_size // maml.test_tasks, 1),
    }
    different: dict[str, dict[str, Any]] = {
        "maml": {},
        "fomaml": {"learner": replace(learner, first_order=True)},
        "promp": clipped,
        "metasgd": {"learner": gradient.MetaSGDAlgorithm(steps, 0.2 * lr, lr)},
        "mamlplusplus": {
            # The loss after every step counts until the end: curves show every step.
            "learner": gradient.MAMLPlusPlusAlgorithm(lr, 3, 2 * batches, frozen=()),
            "training": adapting(3),
        },
        "reptile": {
            "learner": gradient.ReptileAlgorithm(adam_lr, 3, batch_size=None),
            "update": GradientUpdateSettings(),
            "training": adapting(3, optimizer="sgd", outer_lr=0.3),
        },
        "lstm": {"learner": gradient.LSTMMetaLearnerAlgorithm(steps), **clipped},
        "learned-optimizer": {
            "learner": gradient.LearnedOptimizerAlgorithm(steps, steps),
            **clipped,
        },
        "pretrained": {"learner": gradient.PretrainedAlgorithm(lr), "training": adapting(0)},
        "oracle": {
            "learner": gradient.PretrainedAlgorithm(lr),
            "observe_task": True,
            "training": adapting(0),
        },
        "random": {"learner": gradient.PretrainedAlgorithm(lr), "training": untrained},
        "scratch": {"learner": gradient.ScratchAlgorithm(adam_lr), **alone},
        "ppo": {**_ppo_fields(maml), **alone},
    }
    configs = {name: replace(maml, algorithm=name, **fields) for name, fields in different.items()}
    return with_registered(configs | dict(changes or {}))


def _ppo_fields(maml: ControlSettings) -> dict[str, Any]:
    """Returns what PPO takes of MAML's configuration: rollouts, discount and units."""
    gradients, policy = maml.gradients, maml.policy
    return {
        "learner": PPOAlgorithm(),
        "gradients": PolicyGradientSettings(gradients.trajectories, gradients.discount),
        "policy": PolicySettings(
            scale_actions=policy.scale_actions,
            normalize_observations=policy.normalize_observations,
        ),
        "update": UntrainedSettings(),
    }


def rl2_config(
    maml: C,
    episodes: int,
    gradients: PolicyGradientSettings,
    training: TrainingSettings,
    update: ProximalSettings | None = None,
    **learner: Any,
) -> C:
    """Returns the configuration of RL^2 with PPO, on the test tasks of another configuration.

    Args:
        maml: The other configuration.
        episodes: Episodes of a trial, in training, for the curves and at test.
        gradients: Trials per task, discount, lambda and clip.
        training: The outer loop's settings.
        update: Epochs and minibatches of PPO; None: their defaults.
        **learner: Options of `RL2Algorithm`.
    """
    return replace(
        maml,
        algorithm="rl2",
        learner=RL2Algorithm(episodes, **learner),
        gradients=gradients,
        update=update or ProximalSettings(),
        training=replace(training, eval_steps=episodes - 1),
        hidden=(),
        test_steps=episodes - 1,
    )


def varibad_config(rl2: C, hidden: tuple[int, ...] = (64, 64), **learner: Any) -> C:
    """Returns the configuration of VariBAD on the trials, and with the PPO, of RL^2.

    Args:
        rl2: The configuration of RL^2, whose memory is that of the encoder.
        hidden: Widths of the hidden layers between the belief and the action, and the value.
        **learner: Options of `VariBADAlgorithm` that differ from those of RL^2 or are its own.
    """
    shared = shared_options(rl2.learner, VariBADAlgorithm)
    shared["embedding"] = shared["embedding"] or EMBEDDING
    options = {**shared, **learner}
    return replace(rl2, algorithm="varibad", learner=VariBADAlgorithm(**options), hidden=hidden)


def strategy_config(like: C, name: str, learner: StrategyAlgorithm) -> C:
    """Returns the configuration of a strategy, which does not train, on the same test tasks."""
    training = replace(like.training, iterations=0)
    return replace(
        like, algorithm=name, learner=learner, update=UntrainedSettings(), training=training
    )
