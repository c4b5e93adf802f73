"""Bernoulli bandits (Duan et al. 2016, section 3.1): find the arm that pays most often.

    python experiments/bandit.py                                # MAML-TRPO
    python experiments/bandit.py --algorithm reptile            # an unknown name lists them all
    python experiments/bandit.py --resume latest                # after a stop of any kind
    tensorboard --logdir runs/bandit

5 arms, 100 pulls an episode; an adaptation step sees one episode. Ends with a table of what an
episode pays on test bandits: any arm pays 50 on average, the best of five 83.
"""

from metarl_envs.bandit import Bandit

from metarl.adaptation import settings as learners
from metarl.rl.settings import PolicyGradientSettings
from metarl.training import Experiment, Parts, TrainingSettings
from metarl.training.control import ControlSettings, build_control, control_configs
from metarl.training.trust_region import TrustRegionSettings

# A pull changes nothing but its own reward: lambda = 0 credits it with no other's.
# The inner rates were chosen on validation tasks, before any meta-training.
MAML = ControlSettings(
    "maml", learners.MAMLSettings(10.0), PolicyGradientSettings(trajectories=1, gae_lambda=0.0),
    TrustRegionSettings(),
    TrainingSettings(
        iterations=200, meta_batch_size=100, threads=1, log_every=1, eval_every=20, eval_tasks=200,
        eval_steps=3, checkpoint_every=20,
    ),
    hidden=(), test_tasks=400,
)  # fmt: skip
CONFIGS = control_configs(MAML, adam_lr=0.1)


def build(settings: ControlSettings) -> Parts:
    """Builds what the settings describe."""
    return build_control(settings, Bandit())


EXPERIMENT = Experiment("bandit", CONFIGS, build)

if __name__ == "__main__":
    EXPERIMENT.run()
