"""Bernoulli bandits (Duan et al. 2016, section 3.1): find the arm that is rewarded most often.

    python experiments/bandit.py                                # MAML-TRPO
    python experiments/bandit.py --algorithm rl2                # a recurrent policy
    python experiments/bandit.py --algorithm rl2 --pulls 10 --training.meta-batch-size 1000
    python experiments/bandit.py --algorithm varibad            # a belief about the arms
    python experiments/bandit.py --algorithm ucb1               # greedy, thompson, gittins, ...
    python experiments/bandit.py --algorithm reptile            # an unknown name lists them all
    python experiments/bandit.py --resume latest                # after Ctrl-C or a crash
    tensorboard --logdir runs/bandit

5 arms, 100 pulls per episode. An adaptation step of the gradient-based learners uses one episode;
RL^2 and the strategies learn during an episode, so their result is the return of the first one.
Prints a table of returns on test bandits: a random arm has a mean return of half the pulls, the
best of five arms 5/6.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from metarl_envs import bandit_strategies as strategies
from metarl_envs.bandit import Bandit
from metarl_envs.gittins import GittinsAlgorithm

from metarl.adaptation.algorithms import MAMLAlgorithm
from metarl.lab import Components, Experiment
from metarl.lab.control import ControlSettings, build_control
from metarl.lab.control_configs import (
    control_configs,
    rl2_config,
    strategy_config,
    varibad_config,
)
from metarl.ranges import COUNT, Range
from metarl.rl.settings import PolicyGradientSettings
from metarl.training import TrainingSettings
from metarl.training.trust_region import TrustRegionSettings


@dataclass(frozen=True)
class BanditSettings(ControlSettings):
    """Bandits. Options and defaults are those of the chosen `--algorithm`."""

    ranges: ClassVar[Mapping[str, Range]] = {"arms": Range(2), "pulls": COUNT}

    arms: int = 5
    """Arms to choose from, at least 2."""
    pulls: int = 100
    """Pulls of an episode, at least 1."""


# A pull affects its own reward only: lambda = 0 credits it with no other reward.
# The inner rates were chosen on validation tasks, before any meta-training.
MAML = BanditSettings(
    "maml", MAMLAlgorithm(10.0), PolicyGradientSettings(trajectories=1, gae_lambda=0.0),
    TrustRegionSettings(),
    TrainingSettings(
        iterations=200, meta_batch_size=100, threads=1, log_every=1, eval_every=20, eval_tasks=200,
        eval_steps=3, checkpoint_every=20,
    ),
    hidden=(), test_tasks=400,
)  # fmt: skip
# For RL^2 a pull also informs later pulls; lambda is the paper's.
RL2 = rl2_config(
    MAML, 1, PolicyGradientSettings(1, 0.99, 0.3, clip=0.2),
    TrainingSettings(
        iterations=1000, meta_batch_size=200, outer_lr=5e-3, schedule="linear", max_grad_norm=1.0,
        threads=1, log_every=10, eval_every=100, eval_tasks=1000, checkpoint_every=100,
    ),
    entropy_weight=0.02,
)  # fmt: skip
CONFIGS = control_configs(MAML, adam_lr=0.1) | {
    "rl2": RL2,
    "varibad": varibad_config(RL2),
    "random-arm": strategy_config(RL2, "random-arm", strategies.RandomArmAlgorithm()),
    "ucb1": strategy_config(RL2, "ucb1", strategies.UCB1Algorithm(0.2)),
    "greedy": strategy_config(RL2, "greedy", strategies.EpsilonGreedyAlgorithm()),
    "thompson": strategy_config(RL2, "thompson", strategies.ThompsonAlgorithm()),
    "gittins": strategy_config(RL2, "gittins", GittinsAlgorithm()),
}


def build(settings: ControlSettings) -> Components:
    """Builds the learner, its tasks and its reports."""
    assert isinstance(settings, BanditSettings)
    return build_control(settings, Bandit(settings.arms, settings.pulls))


EXPERIMENT = Experiment("bandit", CONFIGS, build, minutes={"maml": 0.2})

if __name__ == "__main__":
    EXPERIMENT.run()
