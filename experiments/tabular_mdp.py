"""Random MDPs (Duan et al. 2016, section 3.1): find the states with high rewards.

    python experiments/tabular_mdp.py                           # MAML-TRPO
    python experiments/tabular_mdp.py --algorithm rl2           # a recurrent policy, 10 episodes
    python experiments/tabular_mdp.py --algorithm rl2 --learner.episodes 25 --test-steps 24
    python experiments/tabular_mdp.py --algorithm greedy        # and random-player, optimal
    python experiments/tabular_mdp.py --algorithm metasgd       # an unknown name lists them all
    python experiments/tabular_mdp.py --resume latest           # after Ctrl-C or a crash
    tensorboard --logdir runs/tabular_mdp

10 states, 5 actions, 10 steps per episode. An adaptation step of the gradient-based learners uses
ten episodes; for RL^2 and the strategies, step k is episode k of a trial. Prints a table of returns
on test MDPs: random actions have a mean return of 10.07, planning in the known MDP 21.9.
"""

from metarl_envs import mdp_strategies as strategies
from metarl_envs.tabular_mdp import TabularMDP

from metarl.adaptation.algorithms import MAMLAlgorithm
from metarl.lab import Components, Experiment
from metarl.lab.control import ControlSettings, build_control
from metarl.lab.control_configs import (
    control_configs,
    rl2_config,
    strategy_config,
    varibad_config,
)
from metarl.rl.settings import PolicyGradientSettings
from metarl.training import TrainingSettings
from metarl.training.proximal import ProximalSettings
from metarl.training.trust_region import TrustRegionSettings

# The inner rates were chosen on validation tasks, before any meta-training.
MAML = ControlSettings(
    "maml", MAMLAlgorithm(10.0), PolicyGradientSettings(trajectories=10, gae_lambda=0.0),
    TrustRegionSettings(),
    TrainingSettings(
        iterations=200, meta_batch_size=40, threads=1, log_every=1, eval_every=20, eval_tasks=200,
        eval_steps=3, checkpoint_every=20,
    ),
    hidden=(), test_tasks=400,
)  # fmt: skip
RL2 = rl2_config(
    MAML, 10, PolicyGradientSettings(1, 0.99, 0.3, normalize_advantages=False, clip=0.1),
    TrainingSettings(
        iterations=500, meta_batch_size=200, optimizer="adamw", optimizer_options=("eps=1e-5",),
        weight_decay=0.01, outer_lr=1e-3, schedule="linear", threads=1, log_every=10,
        eval_every=100, eval_tasks=500, checkpoint_every=50,
    ),
    ProximalSettings(epochs=4, minibatches=5),
    units=64, memory="attention", entropy_weight=0.01, value_loss="huber", value_targets="lambda",
)  # fmt: skip
CONFIGS = control_configs(MAML, adam_lr=0.1) | {
    "rl2": RL2,
    "varibad": varibad_config(RL2),
    "random-player": strategy_config(RL2, "random-player", strategies.RandomPlayerAlgorithm()),
    "greedy": strategy_config(RL2, "greedy", strategies.GreedyAlgorithm()),
    "optimal": strategy_config(RL2, "optimal", strategies.OptimalAlgorithm()),
}


def build(settings: ControlSettings) -> Components:
    """Builds the learner, its tasks and its reports."""
    return build_control(settings, TabularMDP())


EXPERIMENT = Experiment("tabular_mdp", CONFIGS, build, minutes={"maml": 0.2})

if __name__ == "__main__":
    EXPERIMENT.run()
