"""Random MDPs (Duan et al. 2016, section 3.1): find the way to the states that pay.

    python experiments/tabular_mdp.py                           # MAML-TRPO
    python experiments/tabular_mdp.py --algorithm metasgd       # an unknown name lists them all
    python experiments/tabular_mdp.py --resume latest           # after a stop of any kind
    tensorboard --logdir runs/tabular_mdp

10 states, 5 actions, 10 steps an episode; an adaptation step sees ten episodes. Ends with a table
of returns on test MDPs: acting at random gives 10.07 on average, knowing the MDP 21.9.
"""

from metarl_envs.tabular_mdp import TabularMDP

from metarl.adaptation import settings as learners
from metarl.rl.settings import PolicyGradientSettings
from metarl.training import Experiment, Parts, TrainingSettings
from metarl.training.control import ControlSettings, build_control, control_configs
from metarl.training.trust_region import TrustRegionSettings

# The inner rates were chosen on validation tasks, before any meta-training.
MAML = ControlSettings(
    "maml", learners.MAMLSettings(10.0), PolicyGradientSettings(trajectories=10, gae_lambda=0.0),
    TrustRegionSettings(),
    TrainingSettings(
        iterations=200, meta_batch_size=40, threads=1, log_every=1, eval_every=20, eval_tasks=200,
        eval_steps=3, checkpoint_every=20,
    ),
    hidden=(), test_tasks=400,
)  # fmt: skip
CONFIGS = control_configs(MAML, adam_lr=0.1)


def build(settings: ControlSettings) -> Parts:
    """Builds what the settings describe."""
    return build_control(settings, TabularMDP())


EXPERIMENT = Experiment("tabular_mdp", CONFIGS, build)

if __name__ == "__main__":
    EXPERIMENT.run()
